"""Prompts that ship with the project: a general retention suite, and rehearsal prompts that share no subject with it."""
