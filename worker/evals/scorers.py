"""How an answer is compared with what was expected. Knows texts only; where likelihoods come from is not its concern.

A scorer says how right an answer is, from 0 to 1. One that cannot judge raises; the report then names the item instead
of counting it as wrong.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

MAX_SHORT_CHARACTERS: Final = 80
_QUOTES: Final = " \"'`\u2018\u2019\u201c\u201d"


class CannotScore(Exception):
    """The expectation is not one that this scorer can compare with."""


@dataclass(frozen=True)
class Scorer:
    """A named, versioned rule. ``right`` decides; ``partial``, where there is one, is a second number in 0..1."""

    name: str
    version: int
    right: Callable[[str, str], bool]
    partial: Callable[[str, str], float] | None = None

    def score(self, answer: str, expected: Sequence[str]) -> float:
        """1.0 if the answer is any of the expected ones, else 0.0.

        Raises:
            CannotScore: The expectation makes no sense to this scorer.
        """
        return float(any(self.right(answer, one) for one in expected))


@dataclass(frozen=True)
class ScorerChoice:
    """Which scorer a suite gets, and why, for the report."""

    name: str
    reason: str


def exact(answer: str, expected: str) -> bool:
    """Equal but for surrounding space."""
    return answer.strip() == expected.strip()


def normalized(answer: str, expected: str) -> bool:
    """Equal but for case, space, and quotes or sentence punctuation around the whole."""
    return _normalize(answer) == _normalize(expected)


def contains(answer: str, expected: str) -> bool:
    """The expected words occur in the answer as whole words, in any case."""
    return f" {_words(expected)} " in f" {_words(answer)} "


def json_equal(answer: str, expected: str) -> bool:
    """The same JSON value: key order and space do not matter, types and list order do."""
    wanted = _expected_json(expected)
    try:
        return _canonical(_parse(answer)) == _canonical(wanted)
    except (ValueError, RecursionError):
        return False


def json_field_f1(answer: str, expected: str) -> float:
    """F1 over the leaves of two JSON values, each a path with its value."""
    wanted = Counter(_leaves(_expected_json(expected)))
    try:
        given = Counter(_leaves(_parse(answer)))
    except (ValueError, RecursionError):
        return 0.0
    return 2 * (wanted & given).total() / (wanted.total() + given.total())


SCORERS: Final = {
    scorer.name: scorer
    for scorer in (
        Scorer("exact", 1, exact),
        Scorer("normalized", 1, normalized),
        Scorer("contains", 1, contains),
        Scorer("json", 1, json_equal, partial=json_field_f1),
    )
}
NLL: Final = "nll"
"""Not a rule for answers: the suite is judged by the likelihood of the demonstration alone."""
NLL_VERSION: Final = 1


def infer_scorer(completions: Sequence[str]) -> ScorerChoice:
    """The scorer for a suite of demonstrations, from their look."""
    if completions and all(_is_json_container(text) for text in completions):
        return ScorerChoice("json", "every demonstration is a JSON object or list")
    longest = max((len(text) for text in completions), default=0)
    if longest <= MAX_SHORT_CHARACTERS and not any("\n" in text.strip() for text in completions):
        return ScorerChoice(
            "normalized", f"every demonstration is one line of at most {MAX_SHORT_CHARACTERS} characters"
        )
    return ScorerChoice(
        NLL, "demonstrations are free text, so only their likelihood is compared, not an answer's wording"
    )


def _normalize(text: str) -> str:
    """Lower case, one space, no quotes around the whole and no sentence punctuation at its end."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(_QUOTES).rstrip(".!?,;: ").rstrip(_QUOTES)


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def _parse(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _expected_json(text: str) -> Any:
    try:
        return _parse(text)
    except (ValueError, RecursionError) as error:
        raise CannotScore("the expected answer is not JSON") from error


def _is_json_container(text: str) -> bool:
    try:
        return isinstance(_parse(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _canonical(value: Any) -> str:
    """One text for each value. 1 and 1.0 are the same number; true and 1 are not the same value."""
    return json.dumps(_integers(value), sort_keys=True, ensure_ascii=False)


def _integers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _integers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_integers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Each leaf with its path; an empty container is a leaf, and so is the root if it holds nothing."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{json.dumps(key)}")
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, _canonical(value)
