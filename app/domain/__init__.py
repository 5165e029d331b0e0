"""What the product is about, in plain Python and pydantic: no database, no HTTP, no torch."""
