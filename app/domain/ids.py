"""Names of things, as clients see them: a prefix that says what it is, and 128 random bits."""

import secrets
from typing import Literal

Prefix = Literal["proj", "key", "file", "ftjob", "ftevent", "ftckpt", "adapter", "version", "eval", "worker"]


def new_id(prefix: Prefix) -> str:
    """A new id, e.g. ``ftjob-4f1c…`` with 32 hexadecimal digits."""
    return f"{prefix}-{secrets.token_hex(16)}"


def short(name: str) -> str:
    """The first eight characters of an id's random part, for names that people read."""
    return name.rpartition("-")[2][:8]
