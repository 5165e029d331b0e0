"""One arm's score less another's, on the same items."""

from collections.abc import Iterator
from typing import Final

from app.domain.arms import REFERENCES
from worker.evals.marks import Marks
from worker.evals.run import ArmName
from worker.evals.schema import Bounds, Change
from worker.evals.statistics import Estimate, paired_difference, paired_shift

SEED: Final = 0
TEACHER: Final = "ceiling"


def difference(marks: Marks, arm: ArmName, other: ArmName) -> Estimate:
    """With its interval; there is at least one item."""
    if marks.suite.judged:
        return paired_difference(marks.scores[arm], marks.scores[other])
    return paired_shift(marks.scores[arm], marks.scores[other], seed=SEED)


def bounds(estimate: Estimate) -> Bounds:
    """As the report has it."""
    return Bounds(value=estimate.value, low=estimate.interval.low, high=estimate.interval.high)


def list_changes(marks: Marks) -> Iterator[Change]:
    """Every arm that the job trained, against what was there before."""
    if not marks.items:
        return
    for arm in marks.scores:
        if arm not in {*REFERENCES, TEACHER}:
            for before in REFERENCES:
                if before in marks.scores:
                    lost, gained = marks.changed(arm, before) if marks.suite.judged else (None, None)
                    yield Change(
                        arm=arm,
                        against=before,
                        difference=bounds(difference(marks, arm, before)),
                        num_lost=lost,
                        num_gained=gained,
                    )
