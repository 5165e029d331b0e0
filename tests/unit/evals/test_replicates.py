"""Several seeds of one configuration side by side; the version alone is judged."""

from collections.abc import Callable, Sequence

import pytest

from tests.unit.evals.fake_policy import FakePolicy
from tests.unit.evals.test_report import GENERAL, SKILL, SPLIT, TWIN, Broken, Marked, _speaker
from worker.evals.replicates import Replicate
from worker.evals.report import build_report
from worker.evals.run import Answer, Measured, Peculiar, evaluate
from worker.evals.schema import Cost, Report
from worker.evals.scorers import ScorerChoice
from worker.evals.suites import Suite
from worker.sdft.policy import Arm

Speak = Callable[[Arm, str], str]
SUITES = (SKILL, GENERAL)


def _ask(
    policy: FakePolicy, known: Measured | None = None, *, has_twin: bool = False, peculiar: Sequence[Peculiar] = ()
) -> Measured:
    return evaluate(
        policy,
        SUITES,
        has_parent=False,
        has_twin=has_twin,
        template="multi_turn",
        memory=None,
        on_progress=lambda *_: None,
        known=known,
        peculiar=peculiar,
    )


def _report(version: Speak, *others: Speak | None, has_twin: bool = False) -> Report:
    measured = _ask(FakePolicy(version), has_twin=has_twin)
    replicates = [
        Replicate(18 + index, other and _ask(FakePolicy(other), measured, has_twin=has_twin))
        for index, other in enumerate(others)
    ]
    return _judge(measured, replicates, has_twin=has_twin)


def _judge(measured: Measured, replicates: Sequence[Replicate], *, has_twin: bool = False) -> Report:
    return build_report(
        measured,
        title="codes v1",
        scorer=ScorerChoice("normalized", "they are short"),
        split=SPLIT,
        template="multi_turn",
        cost=Cost(seconds={}, trained_tokens=500, generated_tokens=20, peak_memory_bytes=None),
        provenance={},
        twin=TWIN if has_twin else None,
        seed=17,
        replicates=replicates,
    )


GOOD, FORGETFUL, POOR = _speaker(learnt=40), _speaker(learnt=36, lost=150), _speaker(learnt=0)


def test_each_seed_is_shown_with_intervals_and_all_with_mean_and_range() -> None:
    report = _report(GOOD, FORGETFUL, _speaker(learnt=20, lost=30))
    assert report.replicates is not None
    assert [run.seed for run in report.replicates.runs] == [17, 18, 19]
    codes, general = report.replicates.spread
    assert (codes.score.low, codes.score.mean, codes.score.high) == pytest.approx((0.5, 0.8, 1.0))
    assert codes.kept is None
    n = len(GENERAL.items)
    assert general.kept is not None
    assert (general.kept.low, general.kept.mean) == pytest.approx((1 - 150 / n, 1 - 60 / n))
    row = report.replicates.runs[1].scores[1]
    assert row.kept is not None
    assert (row.kept.num_kept, row.kept.num_had, row.n) == (n - 150, n, n)
    alone = _report(FORGETFUL)
    assert row.score == alone.suites[1].arms[1].score
    assert row.kept == alone.kept[0]


@pytest.mark.parametrize(
    ("others", "caveat"),
    [
        ((), "One training run: another seed may come out differently."),
        ((GOOD, GOOD), "3 seeds come to the same verdict, ship; so few show no rare outcome."),
        ((GOOD, FORGETFUL), "Seeds disagree: this version (seed 17), ship; seed 19, do not ship."),
        ((POOR, None), "Seeds disagree: this version (seed 17), ship; seed 18, do not ship; seed 19, diverged."),
    ],
    ids=["one", "alike", "another would not ship", "another diverged"],
)
def test_the_reader_is_told_whether_seeds_agree(others: tuple[Speak | None, ...], caveat: str) -> None:
    report = _report(GOOD, *others)
    assert report.caveats[0] == caveat
    assert [note for note in report.caveats if "seed" in note] == [caveat]


def test_the_version_alone_is_judged() -> None:
    assert _report(GOOD, FORGETFUL, None).model_dump(exclude={"replicates", "caveats", "cost"}) == _report(
        GOOD
    ).model_dump(exclude={"replicates", "caveats", "cost"})


def test_twins_of_other_seeds_stand_apart_from_versions() -> None:
    def speak(arm: Arm, conversation: str) -> str:
        return FORGETFUL("student", conversation) if arm == "twin" else GOOD(arm, conversation)

    report = _report(GOOD, speak, has_twin=True)
    assert report.replicates is not None
    assert [(one.suite, one.arm, one.num_seeds) for one in report.replicates.spread] == [
        (suite.name, arm, 2) for suite in SUITES for arm in ("candidate", "supervised")
    ]
    scores = {(row.suite, row.arm): row.score.value for row in report.replicates.runs[1].scores}
    assert (scores["codes", "candidate"], scores["codes", "supervised"]) == (1.0, 0.9)


def test_what_was_there_before_is_asked_once_over_all_seeds() -> None:
    first, second = FakePolicy(GOOD), FakePolicy(FORGETFUL)
    known = _ask(first)
    measured = _ask(second, known)
    assert {arm for arm, _ in second.asked} == {"student"}
    assert {arm for arm, _ in first.asked} == {"base", "student"}
    assert [measured.arms(suite) for suite in SUITES] == [known.arms(suite) for suite in SUITES]
    assert measured.answers["codes", "ceiling"] == known.answers["codes", "ceiling"]
    assert measured.answers["codes", "candidate"] != known.answers["codes", "candidate"]
    assert measured.nll.keys() == known.nll.keys()


class _Task:
    """A suite that asks in its own way, and counts whom."""

    suite = Suite("lm_eval:task", "client", SKILL.items)
    notes = ()

    def __init__(self) -> None:
        self.asked: list[Arm] = []

    def ask(self, arm: Arm, on_items: Callable[[int], None]) -> list[Answer]:  # noqa: ARG002
        self.asked.append(arm)
        return [Answer(arm, (), stopped=True, mark=1.0) for _ in self.suite.items]


def test_tasks_of_their_own_are_asked_anew_of_what_was_trained_only() -> None:
    def ask(task: _Task, known: Measured | None) -> Measured:
        return evaluate(
            FakePolicy(GOOD), SUITES, has_parent=False, template=None, memory=None, on_progress=lambda *_: None,
            peculiar=[task], known=known,
        )  # fmt: skip

    first, second = _Task(), _Task()
    known = ask(first, None)
    measured = ask(second, known)
    assert (first.asked, second.asked) == (["base", "student"], ["student"])
    assert measured.arms(_Task.suite) == known.arms(_Task.suite)


class Unharmed(Marked):
    """Nothing is lost."""

    items = Marked.items * 10
    suite = Suite("quiz", "client", items)

    def ask(self, arm: Arm, on_items: Callable[[int], None]) -> list[Answer]:  # noqa: ARG002
        on_items(len(self.items))
        return [Answer("yes", (), stopped=True, mark=1.0)] * len(self.items)


@pytest.mark.parametrize("again", [[], [Broken()]])
def test_a_seed_looks_no_better_for_a_suite_that_only_it_was_not_asked(again: Sequence[Peculiar]) -> None:
    measured = _ask(FakePolicy(GOOD), peculiar=[Unharmed()])
    report = _judge(measured, [Replicate(18, _ask(FakePolicy(GOOD), measured, peculiar=again))])
    assert report.replicates is not None
    assert [run.recommendation for run in report.replicates.runs] == ["ship", "look_closer"]
