"""Rules for answers that are data: JSON values, and calls of tools."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

from app.domain.text_rules import CannotScore

_ACTION: Final = re.compile(r"^[ \t]*+Action:[ \t]*+(\S.*+)", re.MULTILINE)
_INPUT: Final = re.compile(r"^[ \t]*+Action Input:\s*+", re.MULTILINE)

Calls = tuple[Counter[str], Counter[tuple[str, str]]]
"""Names of the tools called, and every argument with its value, over all calls."""
_Path: TypeAlias = tuple["_Path", str | int] | None
"""Of the container, and the key in it: leaves share what their paths begin with, for a key may be as long as a line."""


def json_equal(answer: str, expected: str) -> bool:
    """The same JSON value: key order and space do not matter, types and list order do.

    Raises:
        CannotScore: The expectation is not JSON.
    """
    wanted = _expected_json(expected)
    try:
        return _canonical(_parse(answer)) == _canonical(wanted)
    except (ValueError, RecursionError):
        return False


def json_field_f1(answer: str, expected: str) -> float:
    """F1 over the leaves of two JSON values, each a path with its value.

    Raises:
        CannotScore: The expectation is not JSON.
    """
    wanted = Counter(_leaves(_expected_json(expected)))
    try:
        given = Counter(_leaves(_parse(answer)))
    except (ValueError, RecursionError):
        return 0.0
    return 2 * (wanted & given).total() / (wanted.total() + given.total())


def tool_call(answer: str, expected: str) -> bool:
    """The same tools as often, and the same arguments over all calls, in any order: arXiv 2601.19897 on tool use.

    Calls are written as ``Action: name`` and ``Action Input: {...}``, or as JSON: an object or list of objects with
    ``name`` and ``arguments``.

    Raises:
        CannotScore: The expectation has no calls.
    """
    wanted = _calls(expected)
    if wanted is None:
        raise CannotScore("the expected answer has no tool calls, or one whose arguments are not a JSON object")
    return _calls(answer) == wanted


def is_json_container(text: str) -> bool:
    """Whether a text is a JSON object or list."""
    try:
        return isinstance(_parse(text), dict | list)
    except (ValueError, RecursionError):
        return False


def has_actions(text: str) -> bool:
    """Whether a text calls tools by ``Action:`` lines."""
    return _ACTION.search(text) is not None and _calls(text) is not None


def _calls(text: str) -> Calls | None:
    """What a text calls; ``None`` if nothing, or if it cannot be told what."""
    try:
        names, inputs = _actions(text) if _ACTION.search(text) else _json_calls(_parse(text))
        if not names or not all(isinstance(one, dict) for one in inputs):
            return None
        return Counter(names), Counter((key, _canonical(value)) for one in inputs for key, value in one.items())
    except (ValueError, RecursionError):
        return None


def _actions(text: str) -> tuple[list[str], list[Any]]:
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    inputs = [decoder.raw_decode(text, found.end())[0] for found in _INPUT.finditer(text)]
    return [name.rstrip(" \t") for name in _ACTION.findall(text)], inputs


def _json_calls(value: Any) -> tuple[list[str], list[Any]]:
    """Calls as chat APIs write them; arguments may be a string of JSON, and each call may lie in ``function``."""
    calls = [
        call.get("function", call) if isinstance(call, dict) else {}
        for call in (value if isinstance(value, list) else [value])
    ]
    if not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise ValueError("not a call")
    inputs = [call.get("arguments", {}) for call in calls]
    return [call["name"] for call in calls], [_parse(one) if isinstance(one, str) else one for one in inputs]


def _parse(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _expected_json(text: str) -> Any:
    try:
        return _parse(text)
    except (ValueError, RecursionError) as error:
        raise CannotScore("the expected answer is not JSON") from error


def _canonical(value: Any) -> str:
    """One text for each value. 1 and 1.0 are the same number; true and 1 are not the same value."""
    return json.dumps(_integers(value), sort_keys=True, ensure_ascii=False)


def _integers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _integers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_integers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _leaves(value: Any, path: _Path = None) -> Iterator[tuple[_Path, str]]:
    """Each leaf with its path; an empty container is a leaf, and so is the root if it holds nothing."""
    if isinstance(value, dict | list) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(item, (path, key))
    else:
        yield path, _canonical(value)
