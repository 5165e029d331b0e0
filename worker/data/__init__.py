"""Prompts that ship with the project: a general retention suite, and rehearsal prompts on other subjects."""
