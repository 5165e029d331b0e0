"""JSON as this service takes it, from a request or from a line of a file: one meaning, or refused.

The standard parser recurses on deep input, lets the last of two equal keys win and takes NaN; Postgres can store
neither NUL nor half a surrogate pair. Knows nothing of what the JSON says.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

MAX_DEPTH = 32
MAX_NUMBER = 2**53
"""Beyond it a reader with double precision sees another number."""

_BOM = b"\xef\xbb\xbf"
# Possessive, and a string may end without its quote: no input makes this more than one pass.
_TOKENS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_MAX_SHOWN_KEY = 100

_Path: TypeAlias = tuple["_Path", str | int] | None
"""Of the container, and the key in it: leaves share what their paths begin with, for a key may be as long as a line."""


class Malformed(ValueError):
    """What is wrong, where, and how to put it right.

    Args:
        code: ``bad_encoding``, ``bom_present`` or ``invalid_json``.
        message: What is wrong.
        hint: How to fix it.
        path: Where in the value, such as ``messages[2].content``; empty if nowhere in particular.
    """

    def __init__(self, code: str, message: str, hint: str, path: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.path = path


class _BeyondDouble(Malformed):
    """A number that not every reader would see alike."""

    def __init__(self, digits: str) -> None:
        super().__init__("invalid_json", f"The number {_shown(digits)} is beyond 2^53.", "Use a smaller number.")


def parse(raw: bytes) -> Any:
    """The value that ``raw`` stands for.

    Raises:
        Malformed: It is not strict UTF-8 or not strict JSON.
    """
    text = _decode(raw)
    _check_depth(text)
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_real
        )
    except _BeyondDouble as bad:
        bad.path = _path_of_number(text)
        raise
    except json.JSONDecodeError as error:
        message = f"Not valid JSON: {error.msg.removesuffix(' at')} at column {error.pos + 1}."
        raise Malformed("invalid_json", message, "Write it with a JSON library instead of by hand.") from None
    if "\\u" in text:  # raw control characters and raw surrogates are refused by now; escapes are the other way in
        _check_strings(value)
    return value


def _decode(raw: bytes) -> str:
    if raw.startswith(_BOM):
        raise Malformed("bom_present", "It starts with a byte order mark.", "Save it as UTF-8 without BOM.")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        message = f"Byte {error.start + 1} is not valid UTF-8."
        raise Malformed("bad_encoding", message, "Save it as UTF-8.") from None


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _TOKENS.finditer(text):
        if match[0] in "[{":
            depth += 1
        elif match[0] in "]}":
            depth -= 1
        if depth > MAX_DEPTH:
            message = f"Nested more than {MAX_DEPTH} levels deep at column {match.start() + 1}."
            raise Malformed("invalid_json", message, "Flatten it.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise Malformed("invalid_json", f"The key {_shown(twice)} appears twice in one object.", "Keep one of them.")
    return value


def _constant(name: str) -> None:
    raise Malformed("invalid_json", f"{name} is not a JSON number.", "Use a finite number or null.")


def _integer(digits: str) -> int:
    if len(digits) > len(str(MAX_NUMBER)) + 1 or abs(int(digits)) > MAX_NUMBER:
        raise _BeyondDouble(digits)
    return int(digits)


def _real(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value) or abs(value) > MAX_NUMBER:
        raise _BeyondDouble(digits)
    return value


def _path_of_number(text: str) -> str:
    """Where the first number beyond 2^53 is; empty if what follows it cannot be read."""

    def found(read: Callable[[str], Any], digits: str) -> Any:
        try:
            return read(digits)
        except _BeyondDouble as bad:
            return bad

    try:
        value = json.loads(text, parse_int=partial(found, _integer), parse_float=partial(found, _real))
    except json.JSONDecodeError:
        return ""
    return next((_shown_path(path) for path, leaf in _leaves(value) if isinstance(leaf, _BeyondDouble)), "")


def _check_strings(value: Any) -> None:
    for path, text in _leaves(value):
        if not isinstance(text, str):
            continue
        if "\0" in text:
            message = "It contains a NUL character."
            raise Malformed("bad_encoding", message, "Remove the \\u0000.", _shown_path(path))
        if _HALF_A_PAIR.search(text):
            hint = "Write the character itself in UTF-8 instead of an escape."
            raise Malformed("bad_encoding", "It contains one half of a surrogate pair.", hint, _shown_path(path))


def _leaves(value: Any, path: _Path = None) -> Iterator[tuple[_Path, Any]]:
    """All that holds nothing else, and every key, with the path to it."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, (path, index))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield path, key
            yield from _leaves(item, (path, key))
    else:
        yield path, value


def _shown_path(path: _Path) -> str:
    """As people write it, such as ``messages[2].content``; long keys are cut, and half a pair is escaped."""
    parts: list[str] = []
    while path:
        path, key = path
        cut = key if isinstance(key, int) or len(key) <= _MAX_SHOWN_KEY else f"{key[: _MAX_SHOWN_KEY - 3]}..."
        parts.append(f"[{cut}]" if isinstance(cut, int) else f".{cut}")
    return "".join(reversed(parts)).removeprefix(".").encode(errors="backslashreplace").decode()


def _shown(text: str) -> str:
    """Client text inside a message: short, quoted, printable."""
    return ascii(text if len(text) <= 40 else f"{text[:37]}...")
