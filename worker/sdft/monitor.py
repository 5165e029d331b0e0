"""Signs that a run goes wrong, from the rollouts' ids and texts, and the guards that end it.

Knows no model. A guard that ends a run leaves the last good checkpoint as it is.
"""

import math
import re
from collections.abc import Sequence
from statistics import fmean
from typing import TypeVar

from worker.sdft.prompts import TEMPLATES

T = TypeVar("T")


def grams(items: Sequence[T], size: int) -> list[tuple[T, ...]]:
    """All runs of ``size`` neighbours."""
    return [tuple(items[start : start + size]) for start in range(len(items) - size + 1)]


_ARTEFACT = re.compile(
    r"\b(?:based on|according to|following|as (?:shown|given|seen) in|similar to) the (?:\w+ )?"
    r"(?:example|demonstration|text|response)\b",
    re.IGNORECASE,
)
GRAM = 6
"""Words in a row of what a template says to the teacher alone."""
_GRAMS = frozenset(
    gram
    for template in TEMPLATES.values()
    for part in re.split(r"\{\w+\}", template.text)
    for gram in grams(re.findall(r"\w+", part.casefold()), GRAM)
)
WINDOW = 10
"""Steps that make the reference, and over which a sign is averaged before it counts: one step is a small sample."""
MAX_GROWTH = 3.0
"""No share can grow so much above a reference of a third: a run whose answers are cut from its start goes on."""
FLOOR = 0.5
"""A share below this is never a sign of collapse, however small the reference."""


class Diverged(Exception):
    """Training has gone where no further step helps. The message is fit for the client."""


def distinct_4(completions: Sequence[Sequence[int]]) -> float:
    """Share of 4-grams that are the first of their kind in their completion; 1 where none is long enough."""
    shares = [len(set(found)) / len(found) for ids in completions if (found := grams(ids, 4))]
    return fmean(shares) if shares else 1.0


def artefact_rate(texts: Sequence[str]) -> float:
    """Share of texts that speak of a demonstration which the student never saw, or repeat a template's words."""
    return fmean(map(_speaks_of_it, texts)) if texts else 0.0


def _speaks_of_it(text: str) -> bool:
    return bool(_ARTEFACT.search(text)) or not _GRAMS.isdisjoint(grams(re.findall(r"\w+", text.casefold()), GRAM))


class Guards:
    """Ends a run that lost its weights, its teacher or its tongue.

    Args:
        vocab_size: Of the policy.
    """

    def __init__(self, vocab_size: int) -> None:
        self._max_entropy = 0.5 * math.log(vocab_size)
        self.history: dict[str, list[float]] = {"repetition": [], "truncated_share": []}
        """The first and the last steps' signs: what a resumed run needs."""

    def check(self, metrics: dict[str, float]) -> None:
        """Take in a step's metrics, before its weights change.

        Raises:
            Diverged: Stop here.
        """
        for name in ("train_loss", "grad_norm"):
            if not math.isfinite(metrics.get(name, 0.0)):
                raise Diverged(f"The {name} became {metrics[name]}. Lower the learning rate.")
        entropy = metrics.get("teacher_entropy", 0.0)
        if entropy > self._max_entropy:
            raise Diverged(
                f"The teacher's entropy is {entropy:.2f} nats, more than half of what blind guessing gives: its "
                "weights are damaged, or it does not know the language of the demonstrations. Take a teacher that is "
                "frozen, or lower the rate or the learning rate of one that moves; if it is frozen, another base."
            )
        if "distinct_4" in metrics:
            self._watch("repetition", 1 - metrics["distinct_4"])
            self._watch("truncated_share", metrics["truncated_share"])

    def _watch(self, sign: str, share: float) -> None:
        history = self.history[sign]
        history.append(share)
        if len(history) <= WINDOW:
            return
        reference, recent = fmean(history[:WINDOW]), fmean(history[-WINDOW:])
        if recent > max(FLOOR, MAX_GROWTH * reference):
            raise Diverged(
                f"The {sign.replace('_', ' ')} of the rollouts rose from {reference:.2f} to {recent:.2f}. Lower the "
                "learning rate, or raise max_completion_tokens if answers should be longer."
            )
        del history[WINDOW:-WINDOW]
