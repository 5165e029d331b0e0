"""Use cases as plain functions, session first. They flush, they never commit."""
