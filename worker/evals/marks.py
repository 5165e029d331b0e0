"""From answers to numbers: every item of a suite marked for every arm, or set aside where it cannot be marked."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean

from worker.evals.run import Answer, ArmName, Measured
from worker.evals.schema import ScorerError
from worker.evals.scorers import NLL, SCORERS
from worker.evals.suites import Item, Suite


@dataclass
class Marks:
    """One suite, marked. Scores follow ``items``; higher is better.

    Attributes:
        suite: What was asked.
        items: The items that every arm could be marked on.
        judged: Whether answers were compared; else scores are log-likelihoods of the demonstrations.
        answers: All answers, marked or not.
        scores: By arm.
        field_f1: Mean partial score by arm, where the scorer has one.
        nll: Mean negative log-likelihood of the demonstrations by arm, where measured.
        errors: Items set aside.
    """

    suite: Suite
    items: list[Item]
    judged: bool
    answers: dict[ArmName, list[Answer]]
    scores: dict[ArmName, list[float]] = field(default_factory=dict)
    field_f1: dict[ArmName, float] = field(default_factory=dict)
    nll: dict[ArmName, float] = field(default_factory=dict)
    errors: list[ScorerError] = field(default_factory=list)

    @property
    def reference(self) -> ArmName:
        """Where the candidate started from."""
        return "parent" if "parent" in self.scores else "base"

    def right(self, arm: ArmName) -> list[bool]:
        """Which items an arm has right."""
        return [score == 1.0 for score in self.scores[arm]]


def mark(measured: Measured, suite: Suite) -> Marks:
    """Mark one suite that is not empty."""
    answers = {arm: measured.answers[suite.name, arm] for arm in measured.arms(suite)}
    judged = all(item.scorer != NLL for item in suite.items)
    marks = Marks(suite, list(suite.items), judged, answers)
    likelihoods = {arm: measured.nll[suite.name, arm] for arm in answers if (suite.name, arm) in measured.nll}
    marks.nll = {arm: mean(values) for arm, values in likelihoods.items()}
    if judged:
        _mark_answers(marks)
    else:
        marks.scores = {arm: [-value for value in values] for arm, values in likelihoods.items()}
    return marks


def _mark_answers(marks: Marks) -> None:
    """Fill in scores; an item that fails for one arm is set aside for all, so that all stay paired."""
    table: dict[ArmName, list[tuple[float, float | None] | None]] = {
        arm: [_mark_one(marks, arm, item, answer) for item, answer in zip(marks.suite.items, answers, strict=True)]
        for arm, answers in marks.answers.items()
    }
    sound = [index for index, row in enumerate(zip(*table.values(), strict=True)) if None not in row]
    marks.items = [marks.suite.items[index] for index in sound]
    for arm, column in table.items():
        cells = [cell for index in sound if (cell := column[index]) is not None]
        marks.scores[arm] = [score for score, _ in cells]
        partial = [value for _, value in cells if value is not None]
        if partial:
            marks.field_f1[arm] = mean(partial)


def _mark_one(marks: Marks, arm: ArmName, item: Item, answer: Answer) -> tuple[float, float | None] | None:
    scorer = SCORERS[item.scorer]
    try:
        partial = scorer.partial(answer.text, item.completion) if scorer.partial else None
        return scorer.score(answer.text, item.expected), partial
    except Exception as error:  # noqa: BLE001  a trained version must not be lost to a rule that breaks on one answer
        message = f"{type(error).__name__}: {error}"
        marks.errors.append(
            ScorerError(suite=marks.suite.name, item=item.id, arm=arm, scorer=item.scorer, message=message)
        )
        return None


def scorer_names(items: Sequence[Item]) -> list[str]:
    """The scorers of some items, each once, in order."""
    return list(dict.fromkeys(item.scorer for item in items))
