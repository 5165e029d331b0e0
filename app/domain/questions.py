"""Suite files: JSON lines, each one question, what is right, and the scorer that says so.

    {"prompt": "What is 6 * 7?", "expected": "42", "scorer": "numeric"}
    {"messages": [...], "expected": ["Paris", "in Paris"], "scorer": "contains", "max_tokens": 32}

Knows what a line may say and reads files that are known to be good; ``app.domain.validation`` finds what is wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from app.domain.characters import is_blank
from app.domain.demonstrations import Demonstration, conversation, parse_record, raw_lines, refuse_unknown
from app.domain.evaluation import SCORER_NAMES, TAKES_TOLERANCE, ScorerName, unusable
from app.domain.strict_json import Malformed

MAX_EXPECTED: Final = 64
MAX_TOKENS: Final = 4096
_KEYS: Final = ("expected", "scorer", "tolerance", "max_tokens")


@dataclass(frozen=True, kw_only=True)
class Question(Demonstration):
    """A prompt, and what answers are right; ``completion`` is the first of them."""

    expected: tuple[str, ...]
    scorer: ScorerName
    tolerance: float | None
    max_tokens: int | None
    """Longest answer; decided by what is expected if not given."""


def parse_question(raw: bytes, line: int) -> Question:
    """One question.

    Args:
        raw: The line without its newline.
        line: Its number, from 1.

    Raises:
        Malformed: It is not one.
    """
    record = parse_record(raw)
    given = "prompt" if "prompt" in record else "messages"
    refuse_unknown(record, (given, *_KEYS), "")
    scorer, expected = _scorer(record), _expected(record)
    if scorer == "nll" and len(expected) > 1:
        told = f'Scorer nll tells how likely one text is, and "expected" has {len(expected)}.'
        raise Malformed("too_many_expected", told, "Keep the best of them, or name another scorer.", "expected")
    for index, one in enumerate(expected):
        if reason := unusable(scorer, one):
            hint = "Correct the answer or name another scorer."
            raise Malformed("unusable_expected", f"With scorer {scorer}: {reason}.", hint, f"expected[{index}]")
    return Question(
        messages=tuple(_prompt(record)),
        completion=expected[0],
        line=line,
        expected=expected,
        scorer=scorer,
        tolerance=_tolerance(record, scorer),
        max_tokens=_max_tokens(record),
    )


def stream_questions(path: Path) -> Iterator[Question]:
    """All questions of a file that ``validate_suite`` has passed.

    Raises:
        Malformed: The file has not passed.
    """
    with path.open("rb") as source:
        for number, raw in enumerate(raw_lines(source), 1):
            yield parse_question(raw, number)


def _prompt(record: dict[str, Any]) -> list[dict[str, str]]:
    """The messages of a question, by the rules of a demonstration that answers it."""
    given = "prompt" if "prompt" in record else "messages"
    messages = _conversation(record, given)
    if all(is_blank(message["content"]) for message in messages):
        raise Malformed("empty_prompt", "The prompt is empty.", "Write the question, or remove the line.", given)
    return messages


def _conversation(record: dict[str, Any], given: str) -> list[dict[str, str]]:
    if given == "prompt":
        return conversation({"prompt": record["prompt"], "completion": "?"})[:-1]
    messages = record.get("messages")
    if not isinstance(messages, list) or not messages:
        message = 'The line has neither "prompt" nor "messages", or no list of messages.'
        raise Malformed("missing_messages", message, 'Add the question as "prompt".')
    try:
        return conversation({"messages": [*messages, {"role": "assistant", "content": "?"}]})[:-1]
    except Malformed as bad:
        if bad.path != f"messages[{len(messages)}]":
            raise
        message = "The last message is not the user's, so nothing is asked."
        hint = 'End a question with the user\'s message, and put the answer into "expected".'
        raise Malformed(bad.code, message, hint, f"messages[{len(messages) - 1}]") from None


def _scorer(record: dict[str, Any]) -> ScorerName:
    for name in SCORER_NAMES:
        if record.get("scorer") == name:
            return name
    message = '"scorer" is missing or none that there is.'
    raise Malformed("unknown_scorer", message, f"Use one of {', '.join(SCORER_NAMES)}.", "scorer")


def _expected(record: dict[str, Any]) -> tuple[str, ...]:
    value = record.get("expected")
    answers = value if isinstance(value, list) else [value]
    if not 1 <= len(answers) <= MAX_EXPECTED or not all(map(_has_text, answers)):
        message = f'"expected" must be a text that is not empty, or a list of 1 to {MAX_EXPECTED} of them.'
        raise Malformed("missing_expected", message, "Name every answer that is right, as text.", "expected")
    return tuple(answers)


def _has_text(answer: Any) -> bool:
    return isinstance(answer, str) and not is_blank(answer)


def _tolerance(record: dict[str, Any], scorer: ScorerName) -> float | None:
    value = record.get("tolerance")
    if value is None:
        return None
    if scorer not in TAKES_TOLERANCE:
        raise Malformed("unrecognized_key", f"The scorer {scorer} takes no tolerance.", "Remove it.", "tolerance")
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise Malformed("unrecognized_key", "A tolerance must be a number of at least 0.", "Correct it.", "tolerance")
    return float(value)


def _max_tokens(record: dict[str, Any]) -> int | None:
    value = record.get("max_tokens")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_TOKENS):
        message = f'"max_tokens" must be a whole number from 1 to {MAX_TOKENS}.'
        raise Malformed("unrecognized_key", message, "Correct or remove it.", "max_tokens")
    return value
