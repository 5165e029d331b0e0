"""When something that was there before counts as lost: the rules that a report's verdicts and a gate's have in common.

Each words them for itself, and has limits of its own. Knows numbers only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from app.domain.arms import TRAINED
from app.domain.proportions import CONFIDENCE, DIGITS, Interval, independent, num_to_show

Finding = Literal["within", "beyond", "in_doubt"]
"""Of a loss: within its limit, surely beyond it, or neither."""


@dataclass(frozen=True)
class Score:
    """A score with its interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Fall:
    """What a skill lost since the version of the lineage that had its best score; negative where it gained."""

    since: str
    value: float
    interval: Interval
    finding: Finding


def since_best(scores: Mapping[str, Score], *, start: Score, now: Score, limit: float) -> Fall | None:
    """Hold an earlier skill against the best that its lineage scored, as small losses add up from version to version.

    That one's answers are not at hand, so the interval is one of two independent samples. It is wider than of the same
    questions, and hardly anything would lie within a limit: it shows a loss, and a loss beyond the limit is doubt, but
    it is not asked to show that there is none.

    Args:
        scores: Of that skill, by version; what was just trained is none before itself.
        start: Of where the version started from, which it is compared with item by item.
        now: Of the version.
        limit: What may be lost.

    Returns:
        None where none is better than the start.
    """
    earlier = {version: score for version, score in scores.items() if version not in TRAINED}
    best = max(earlier, key=lambda version: earlier[version].value, default=None)
    if best is None or earlier[best].value <= start.value:
        return None
    before = earlier[best]
    value = round(before.value - now.value, DIGITS)
    interval = independent(before.value, before.interval, now.value, now.interval)
    if value <= limit:
        return Fall(best, value, interval, "within")
    return Fall(best, value, interval, "beyond" if interval.low > limit else "in_doubt")


def judge_share_lost(
    num_lost: int, num_had: int, limit: float, *, p_value: float, improved: bool, confidence: float = CONFIDENCE
) -> Finding:
    """Hold what is right no more against what was right, as gains elsewhere do not make up for it.

    Where a suite is not better on the whole, what was right has to be enough to tell.

    Args:
        num_lost: Answers.
        num_had: Of so many.
        limit: The share that may be lost.
        p_value: Of the exact binomial test, ``proportions.tail``, as Wilson's limit for 1 of 1 is 21 %.
        improved: Whether the suite is better on the whole.
        confidence: Of the test.
    """
    if p_value <= (1 - confidence) / 2:
        return "beyond"
    too_few = num_had < num_to_show(limit, confidence) and not improved
    return "in_doubt" if too_few or (num_lost and num_lost / num_had > limit) else "within"
