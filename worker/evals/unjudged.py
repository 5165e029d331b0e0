"""What was to be asked and cannot be counted on: nobody shall take a suite for passed that is silently not there."""

from collections.abc import Iterator, Sequence
from typing import Final

from worker.evals.marks import Marks
from worker.evals.run import Measured
from worker.evals.schema import Unjudged

MAX_SET_ASIDE: Final = 0.1
"""Share of a suite's items: where more could not be judged, the rest are no fair sample of it."""


def list_unjudged(measured: Measured, marked: Sequence[Marks]) -> Iterator[Unjudged]:
    """Suites that were not asked, or that were and could hardly be judged."""
    for suite in measured.suites:
        if not suite.items:
            why = "none of its questions fits the context of the base model."
            yield Unjudged(suite=suite.name, role=suite.role, sentence=f"{suite.name} was not asked: {why}")
    for marks in marked:
        num_asked, num_judged = len(marks.suite.items), len(marks.items)
        if num_asked - num_judged > MAX_SET_ASIDE * num_asked:
            count = f"{num_asked - num_judged} of {num_asked} questions"
            sentence = f"{marks.suite.name}: {count} could not be judged, which is too many."
            yield Unjudged(suite=marks.suite.name, role=marks.suite.role, sentence=sentence)
    for name, why in measured.unasked.items():
        yield Unjudged(suite=name, role="client", sentence=f"{name} was not asked: {why}")
