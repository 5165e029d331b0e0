"""From answers to numbers: every item of a suite marked for every arm, or set aside where it cannot be marked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from app.domain.arms import starting_point
from app.domain.text_rules import CannotScore, affirms
from worker.evals.run import Answer, ArmName, Measured
from worker.evals.schema import ScorerError
from worker.evals.scorers import SCORERS
from worker.evals.suites import Item, Suite


@dataclass(frozen=True)
class Marks:
    """One suite, marked.

    Args:
        suite: What was asked.
        items: The items that could be marked for every arm.
        answers: Of all items, by arm.
        scores: Of ``items``, by arm, higher is better: 1 or 0 for an answer, a log-likelihood where none is judged.
        field_f1: Mean partial score by arm, where the scorer has one.
        nll: Mean negative log-likelihood of the demonstrations by arm, where it was measured.
        errors: Items set aside, and why.
    """

    suite: Suite
    items: Sequence[Item]
    answers: Mapping[ArmName, Sequence[Answer]]
    scores: Mapping[ArmName, Sequence[float]]
    field_f1: Mapping[ArmName, float]
    nll: Mapping[ArmName, float]
    errors: Sequence[ScorerError]

    @property
    def reference(self) -> ArmName:
        """Where the candidate started from."""
        return starting_point(self.scores)

    def right(self, arm: ArmName) -> list[bool]:
        """Which items an arm has right."""
        return [score == 1.0 for score in self.scores[arm]]

    def changed(self, arm: ArmName, against: ArmName) -> tuple[int, int]:
        """How many items an arm lost and gained against another."""
        pairs = list(zip(self.right(against), self.right(arm), strict=True))
        return pairs.count((True, False)), pairs.count((False, True))


@dataclass(frozen=True)
class _Mark:
    """What one answer is worth."""

    score: float
    partial: float | None


def mark(measured: Measured, suite: Suite) -> Marks:
    """Mark one suite that is not empty."""
    answers = {arm: measured.answers[suite.name, arm] for arm in measured.arms(suite)}
    likelihoods = {arm: measured.nll[suite.name, arm] for arm in answers if (suite.name, arm) in measured.nll}
    nll = {arm: fmean(values) for arm, values in likelihoods.items()}
    if suite.judged:
        return _judge(suite, answers, nll)
    scores = {arm: [-value for value in values] for arm, values in likelihoods.items()}
    return Marks(suite, suite.items, answers, scores, field_f1={}, nll=nll, errors=[])


def _judge(suite: Suite, answers: Mapping[ArmName, Sequence[Answer]], nll: Mapping[ArmName, float]) -> Marks:
    """Compare answers. An item that fails for one arm is set aside for all, so that all stay paired.

    But not for the twin, which decides nothing: what of it cannot be marked is wrong.
    """
    errors: list[ScorerError] = []
    items: list[Item] = []
    marks: dict[ArmName, list[_Mark]] = {arm: [] for arm in answers}
    for item, said in zip(suite.items, zip(*answers.values(), strict=True), strict=True):
        row = {arm: _mark_one(suite, item, arm, answer) for arm, answer in zip(answers, said, strict=True)}
        failed = [outcome for outcome in row.values() if isinstance(outcome, ScorerError)]
        errors += failed
        if all(one.arm == "supervised" for one in failed):
            items.append(item)
            for arm, outcome in row.items():
                marks[arm].append(outcome if isinstance(outcome, _Mark) else _Mark(0.0, None))
    partial = {arm: [one.partial for one in column if one.partial is not None] for arm, column in marks.items()}
    return Marks(
        suite,
        items,
        answers,
        scores={arm: [one.score for one in column] for arm, column in marks.items()},
        field_f1={arm: fmean(values) for arm, values in partial.items() if values},
        nll=nll,
        errors=errors,
    )


def _mark_one(suite: Suite, item: Item, arm: ArmName, answer: Answer) -> _Mark | ScorerError:
    try:
        if answer.mark is not None:
            return _Mark(_right_or_wrong(answer.mark), None)
        scorer = SCORERS[item.scorer]
        partial = max(scorer.partial(answer.text, one) for one in item.expected) if scorer.partial else None
        score = scorer.score(answer.text, item.expected, tolerance=item.tolerance)
        return _Mark(0.0 if _is_refused(item, answer.text) else score, partial)
    except Exception as error:  # noqa: BLE001  a trained version must not be lost to a rule that breaks on one answer
        message = f"{type(error).__name__}: {error}"
        return ScorerError(suite=suite.name, item=item.id, arm=arm, scorer=item.scorer, message=message)


def _is_refused(item: Item, text: str) -> bool:
    if not item.refused:
        return False
    return any(affirms(text, one) for one in item.refused) or not any(affirms(text, one) for one in item.expected)


def _right_or_wrong(mark: float) -> float:
    if mark not in {0.0, 1.0}:
        raise CannotScore(f"{mark:g} is neither right nor wrong")
    return mark
