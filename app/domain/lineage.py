"""What skills taught one after the other did to each other: the figures of continual learning.

``scores[i][j]`` is the score on the questions of skill j after version i, versions oldest first. Definitions: Lopez-Paz
and Ranzato (arXiv 1706.08840), forgetting after Chaudhry et al. (arXiv 1801.10112). What needs a score that nobody
measured is null, never a mean over the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

Score = float | None


@dataclass(frozen=True)
class Figures:
    """Means over skills, in the unit of the scores.

    Args:
        average_accuracy: Of the last version, over all skills.
        backward_transfer: Last score less the score when taught, over earlier skills; negative is loss.
        forgetting: Best earlier score less the last one, over earlier skills.
        forward_transfer: Score just before a skill was taught less the base's, over all but the first version's.
    """

    average_accuracy: Score
    backward_transfer: Score
    forgetting: Score
    forward_transfer: Score


def compute_figures(scores: Sequence[Sequence[Score]], base: Sequence[Score], taught: Sequence[int]) -> Figures:
    """Sum up a lineage.

    Args:
        scores: A row for each version from the first to the one that is judged, a column for each skill.
        base: The same columns, of the base.
        taught: By column, the row of the version that was taught the skill.
    """
    if not scores:
        return Figures(None, None, None, None)
    last = len(scores) - 1
    earlier = [column for column, row in enumerate(taught) if row < last]
    now = {column: scores[last][column] for column in earlier}
    return Figures(
        average_accuracy=_mean(scores[last]),
        backward_transfer=_mean([_less(now[column], scores[taught[column]][column]) for column in earlier]),
        forgetting=_mean(
            [_less(_max([row[column] for row in scores[taught[column] : last]]), now[column]) for column in earlier]
        ),
        forward_transfer=_mean(
            [_less(scores[row - 1][column], base[column]) for column, row in enumerate(taught) if row > 0]
        ),
    )


def _less(value: Score, other: Score) -> Score:
    return None if value is None or other is None else value - other


def _known(values: Sequence[Score]) -> list[float]:
    """All of them, or none if one is missing."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _max(values: Sequence[Score]) -> Score:
    return max(_known(values), default=None)


def _mean(values: Sequence[Score]) -> Score:
    known = _known(values)
    return fmean(known) if known else None
