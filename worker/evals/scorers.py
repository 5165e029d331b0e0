"""How an answer is compared with what was expected. Knows texts only; where likelihoods come from is not its concern.

A scorer says how right an answer is, from 0 to 1. One that cannot judge raises; the report then names the item instead
of counting it as wrong.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from app.domain import json_rules, text_rules
from app.domain.evaluation import MAX_SHORT_CHARACTERS, TAKES_TOLERANCE, ScorerName, scorer_by_look


@dataclass(frozen=True)
class Scorer:
    """A named, versioned rule. ``right`` decides; ``partial``, where there is one, is a second number in 0..1."""

    name: ScorerName
    version: int
    right: Callable[..., bool]
    partial: Callable[[str, str], float] | None = None

    def score(self, answer: str, expected: Sequence[str], *, tolerance: float | None = None) -> float:
        """1.0 if the answer is any of the expected ones, else 0.0.

        Raises:
            CannotScore: The expectation makes no sense to this scorer.
        """
        right = partial(self.right, tolerance=tolerance or 0.0) if self.name in TAKES_TOLERANCE else self.right
        return float(any(right(answer, one) for one in expected))


@dataclass(frozen=True)
class ScorerChoice:
    """Which scorer a suite gets, and why, for the report."""

    name: ScorerName
    reason: str
    tolerance: float | None = None


SCORERS: Final[dict[str, Scorer]] = {
    scorer.name: scorer
    for scorer in (
        Scorer("exact", 1, text_rules.exact),
        Scorer("normalized", 3, text_rules.normalized),
        Scorer("contains", 2, text_rules.contains),
        Scorer("regex", 2, text_rules.matches),
        Scorer("numeric", 2, text_rules.numeric),
        Scorer("choice", 3, text_rules.choice),
        Scorer("json", 1, json_rules.json_equal, partial=json_rules.json_field_f1),
        Scorer("tool_call", 1, json_rules.tool_call),
    )
}
NLL: Final[ScorerName] = "nll"
"""Not a rule for answers: the suite is judged by the likelihood of the demonstration alone."""
NLL_VERSION: Final = 1
GIVEN_VERSION: Final = 1
"""Of what is taken for right where another library marks the answers: exactly its 1."""
_LOOKS: Final[dict[ScorerName, str]] = {
    "json": "every demonstration is a JSON object or list",
    "tool_call": "every demonstration calls tools by Action lines",
    "choice": "every demonstration ends in a letter in <answer></answer>",
    "normalized": f"every demonstration is one line of at most {MAX_SHORT_CHARACTERS} characters",
    NLL: "demonstrations are free text, so only their likelihood is compared, not an answer's wording",
}


def infer_scorer(completions: Sequence[str]) -> ScorerChoice:
    """The scorer for a suite of demonstrations, from their look."""
    name = scorer_by_look(completions)
    return ScorerChoice(name, _LOOKS[name])
