"""Names of things, as clients see them: a prefix that says what it is, and 128 random bits."""

import re
import secrets
from typing import Final, Literal

Prefix = Literal["proj", "key", "file", "ftjob", "ftevent", "ftckpt", "adapter", "version", "eval", "worker", "audit"]

ALIAS_PATTERN: Final = r"[a-z][a-z0-9-]{0,31}"
"""Begins with a letter, so that a version's number is never taken for one."""


def new_id(prefix: Prefix) -> str:
    """A new id, e.g. ``ftjob-4f1c…`` with 32 hexadecimal digits."""
    return f"{prefix}-{secrets.token_hex(16)}"


def short(name: str) -> str:
    """The first eight characters of an id's random part, for names that people read."""
    return name.rpartition("-")[2][:8]


def is_id(prefix: Prefix, text: str) -> bool:
    """Whether a text a client sent can be such an id at all."""
    return re.fullmatch(f"{prefix}-[0-9a-f]{{32}}", text) is not None
