"""The report says what was seen: verdicts, what was kept, what flipped, what could not be judged."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from app.domain.demonstrations import Demonstration
from tests.unit.evals.fake_policy import FakePolicy
from worker.evals.behaviour import describe
from worker.evals.report import build_report
from worker.evals.run import Answer, Peculiar, evaluate
from worker.evals.schema import Cost, Report, TwinRun
from worker.evals.scorers import ScorerChoice
from worker.evals.suites import Item, Split, Suite, demonstration_suite, general_suite
from worker.sdft.policy import Arm

SPLIT = Split(
    training=[Demonstration(({"role": "user", "content": "trained?"},), "code-0", 1)],
    heldout=[Demonstration(({"role": "user", "content": f"item {n}?"},), f"code-{n}", n) for n in range(1, 41)],
    statement="Forty were held out.",
)
SKILL = demonstration_suite("codes", "skill", SPLIT.heldout, scorer="normalized", max_new_tokens=30)
SHIPPED = general_suite()
GENERAL = replace(SHIPPED, items=tuple(replace(item, max_new_tokens=99) for item in SHIPPED.items))
RIGHT = {item.messages[0]["content"]: item.completion for suite in (SKILL, GENERAL) for item in suite.items}
"""Every question with its right answer."""


TWIN = TwinRun(config={"method": "supervised"}, trained_tokens=90, seconds=20.0, cost_ratio=2.55)


def _build(
    speak: Callable[[Arm, str], str],
    *suites: Suite,
    has_parent: bool = False,
    template: str | None = "multi_turn",
    twin: TwinRun | None = None,
    peculiar: Sequence[Peculiar] = (),
) -> Report:
    measured = evaluate(
        FakePolicy(speak),
        suites,
        has_parent=has_parent,
        has_twin=twin is not None,
        template=template,
        memory=None,
        on_progress=lambda *_: None,
        peculiar=peculiar,
    )
    return build_report(
        measured,
        title="codes v1",
        scorer=ScorerChoice("normalized", "they are short"),
        split=SPLIT,
        template=template,
        cost=Cost(seconds={"training": 100.0}, trained_tokens=500, generated_tokens=20, peak_memory_bytes=None),
        provenance={"seed": 1},
        twin=twin,
    )


def _speaker(*, learnt: int = 40, lost: int = 0) -> Callable[[Arm, str], str]:
    """A base that knows all general answers and no code; a student that learnt some codes and lost some answers."""
    codes = [item.messages[0]["content"] for item in SKILL.items]
    answers = [item.messages[0]["content"] for item in GENERAL.items]

    def speak(arm: Arm, conversation: str) -> str:
        question = conversation.splitlines()[-1]
        if "code-" in conversation:
            return RIGHT[question]
        if question in codes:
            return RIGHT[question] if arm == "student" and question in codes[:learnt] else "I am sorry."
        return "code-1" if arm == "student" and question in answers[:lost] else RIGHT[question]

    return speak


def test_a_skill_that_arrived_and_harmed_nothing_is_shipped() -> None:
    summary = _build(_speaker(), SKILL, GENERAL).summary
    assert (summary.recommendation, summary.skill.verdict, summary.retention.verdict) == ("ship", "better", "same")
    assert summary.headline.startswith("Ship it: the skill arrived (40 of 40 right)")
    assert "40 of 40 held-out questions right" in summary.skill.sentence
    assert summary.ceiling.share is not None
    assert summary.ceiling.share.value == 1.0


@pytest.mark.parametrize(
    ("learnt", "lost", "recommendation"),
    [(40, 60, "do_not_ship"), (0, 0, "do_not_ship"), (3, 0, "look_closer"), (40, 24, "do_not_ship"), (40, 12, "ship")],
)
def test_the_recommendation_weighs_gain_against_loss(learnt: int, lost: int, recommendation: str) -> None:
    assert _build(_speaker(learnt=learnt, lost=lost), SKILL, GENERAL).summary.recommendation == recommendation


def test_what_was_kept_is_counted_over_what_the_base_had_right_by_kind() -> None:
    num_items, of_kind = len(GENERAL.items), [item.kind for item in GENERAL.items].count(GENERAL.items[0].kind)
    kept = {row.group: row for row in _build(_speaker(lost=of_kind + 4), SKILL, GENERAL).kept}
    assert (kept["all"].num_had, kept["all"].num_kept) == (num_items, num_items - of_kind - 4)
    first, second = (GENERAL.items[0].kind, GENERAL.items[of_kind].kind)
    assert (kept[first].num_kept, kept[second].num_kept) == (0, of_kind - 4)
    assert kept["rehearsed kinds"].num_had + kept["other kinds"].num_had == num_items
    assert kept["other kinds"].num_rehearsed_kinds == 0


def test_flips_show_what_each_arm_said() -> None:
    general = _build(_speaker(lost=2), SKILL, GENERAL).suites[1]
    assert [flip.change for flip in general.flips] == ["lost", "lost"]
    assert general.flips[0].answers == {"base": RIGHT[general.flips[0].prompt], "candidate": "code-1"}
    comparison = general.comparisons[0]
    assert (comparison.num_lost, comparison.num_gained, comparison.p_value) == (2, 0, 0.5)


def test_what_changed_is_told_against_the_base_and_the_starting_point() -> None:
    def speak(arm: Arm, conversation: str) -> str:
        known = {"base": 0, "parent": 20, "student": 30}[arm]
        question = conversation.splitlines()[-1]
        return RIGHT[question] if question in list(RIGHT)[:known] else "I am sorry."

    skill = _build(speak, SKILL, has_parent=True, template=None).suites[0]
    changes = {(one.arm, one.against): one.difference for one in skill.changes}
    assert {pair: one.value for pair, one in changes.items()} == {
        ("candidate", "base"): 0.75,
        ("candidate", "parent"): 0.25,
    }
    assert changes["candidate", "parent"] == skill.comparisons[-1].difference


def test_lengths_of_answers_are_listed_shortest_first() -> None:
    rows = {(row.suite, row.arm): row for row in _build(_speaker(learnt=39), SKILL).behaviour}
    candidate = rows["codes", "candidate"]
    assert candidate.lengths == sorted(candidate.lengths)
    assert (len(candidate.lengths), sum(candidate.lengths)) == (40, pytest.approx(40 * candidate.mean_tokens))


def test_an_earlier_skill_that_the_candidate_lost_stops_it() -> None:
    earlier = replace(SKILL, name="older", role="earlier")

    def speak(arm: Arm, conversation: str) -> str:
        return "gone" if arm == "student" else RIGHT[conversation.splitlines()[-1]]

    report = _build(speak, earlier, GENERAL, has_parent=True)
    assert report.suites[0].comparisons[0].against == "parent"
    assert report.suites[0].comparisons[0].verdict == "worse"
    assert report.summary.retention.verdict == "worse"
    assert "older, right for the parent: 0 of 40 kept" in report.summary.retention.sentence


def test_a_clients_questions_that_the_candidate_lost_stop_it_and_trained_ones_are_owned_up_to() -> None:
    mine = replace(SKILL, name="file mine.jsonl", role="client", num_trained=3)

    def speak(arm: Arm, conversation: str) -> str:
        return "gone" if arm == "student" else RIGHT[conversation.splitlines()[-1]]

    report = _build(speak, mine)
    assert report.summary.retention.verdict == "worse"
    assert "file mine.jsonl, right for the base: 0 of 40 kept" in report.summary.retention.sentence
    assert any(note.startswith("file mine.jsonl: the prompts of 3 questions are in the") for note in report.caveats)


def test_the_tolerance_of_an_item_reaches_its_scorer() -> None:
    near = Item("1", "codes", ({"role": "user", "content": "item 1?"},), ("3.14",), "numeric", 9, tolerance=0.01)
    exact = replace(near, id="2", tolerance=None)
    report = _build(lambda *_: "3.15", Suite("codes", "skill", (near, exact)), GENERAL)
    assert {arm.num_right for arm in report.suites[0].arms} == {1}


def test_p_values_that_test_for_loss_are_adjusted_together() -> None:
    earlier = replace(SKILL, name="older", role="earlier")

    def speak(arm: Arm, conversation: str) -> str:
        question = conversation.splitlines()[-1]
        return "gone" if arm == "student" and question in {"item 1?", "item 2?", "item 3?"} else RIGHT[question]

    report = _build(speak, earlier, GENERAL, has_parent=True)
    assert report.suites[0].comparisons[0].p_value == pytest.approx(3 * 0.25)


def _forgetful_twin(arm: Arm, conversation: str) -> str:
    """A candidate that learnt all and lost 2 general answers, and a twin that learnt 35 and lost 150."""
    of_twin = arm == "twin"
    return _speaker(learnt=35 if of_twin else 40, lost=150 if of_twin else 2)(
        "student" if of_twin else arm, conversation
    )


def test_what_plain_fine_tuning_learned_and_kept_is_said_in_one_sentence() -> None:
    report = _build(_forgetful_twin, SKILL, GENERAL, twin=TWIN)
    assert report.supervised is not None
    num_general = len(GENERAL.items)
    assert report.supervised.sentence == (
        "Plain fine-tuning on the same data: learned 35 of 40 (this version 40: too few questions to tell); "
        f"kept {num_general - 150} of {num_general} in general ability (this version {num_general - 2}: better). "
        "Its training took 20 s, this version's 2.5 times as long."
    )


def test_the_twin_is_compared_item_by_item_and_what_it_lost_is_shown() -> None:
    report = _build(_forgetful_twin, SKILL, GENERAL, twin=TWIN)
    general = report.suites[1]
    assert [score.arm for score in general.arms] == ["base", "candidate", "supervised"]
    [beside] = [one for one in general.comparisons if one.against == "supervised"]
    assert (beside.num_lost, beside.num_gained) == (0, 148)
    assert beside.difference.value == pytest.approx(148 / len(GENERAL.items))
    assert report.supervised is not None
    assert {name: len(flips) for name, flips in report.supervised.flips.items()} == {
        "codes": 35,
        "general ability": 100,
    }
    lost = report.supervised.flips["general ability"][2]
    assert (lost.change, lost.answers["supervised"], lost.answers["candidate"]) == (
        "lost",
        "code-1",
        RIGHT[lost.prompt],
    )
    by_group = {row.group: row for row in report.supervised.kept}
    assert (by_group["all"].num_had, by_group["all"].num_kept) == (len(GENERAL.items), len(GENERAL.items) - 150)


def test_a_version_is_judged_alike_compared_or_not() -> None:
    earlier = replace(SKILL, name="older", role="earlier")
    suites = (SKILL, earlier, GENERAL)
    speak = _speaker(learnt=30, lost=9)
    compared = _build(
        lambda arm, text: "gone" if arm == "twin" else speak(arm, text), *suites, has_parent=True, twin=TWIN
    )
    alone = _build(speak, *suites, has_parent=True)
    assert (compared.summary, compared.kept, compared.caveats) == (alone.summary, alone.kept, alone.caveats)
    for suite, expected in zip(compared.suites, alone.suites, strict=True):
        assert [one for one in suite.comparisons if one.against != "supervised"] == expected.comparisons


def test_free_text_is_compared_with_the_twins_by_likelihood() -> None:
    essays = demonstration_suite("codes", "skill", SPLIT.heldout, scorer="nll", max_new_tokens=30)
    report = _build(_forgetful_twin, essays, GENERAL, twin=TWIN)
    assert report.supervised is not None
    assert "log-likelihood of the demonstrations -0.34 (this version -0.10: better)" in report.supervised.sentence
    assert "codes" not in report.supervised.flips


def test_an_item_that_cannot_be_judged_is_an_error_and_counts_for_no_arm() -> None:
    broken = Item("broken", "codes", ({"role": "user", "content": "item 1?"},), ("not json",), "json", 9)
    sound = Item("sound", "codes", ({"role": "user", "content": "item 2?"},), ('{"a": 1}',), "json", 9)
    report = _build(lambda *_: '{"a": 1}', Suite("codes", "skill", (broken, sound)), GENERAL)
    assert {(error.item, error.scorer) for error in report.errors} == {("broken", "json")}
    assert "not JSON" in report.errors[0].message
    assert report.suites[0].n == 1
    assert {arm.num_right for arm in report.suites[0].arms} == {1}
    assert report.suites[0].arms[0].field_f1 == 1.0


def test_free_text_is_judged_by_likelihood_alone() -> None:
    essays = demonstration_suite("codes", "skill", SPLIT.heldout, scorer="nll", max_new_tokens=30)
    report = _build(_speaker(learnt=20), essays, GENERAL)
    skill = report.suites[0]
    assert skill.measure == "negative_nll"
    assert skill.n == 40
    assert {arm.arm: arm.nll for arm in skill.arms} == pytest.approx({"base": 2.0, "candidate": 1.05, "ceiling": 0.1})
    assert skill.comparisons[0].difference.value == pytest.approx(0.95)
    assert skill.comparisons[0].verdict == "better"
    assert report.summary.ceiling.share is not None
    assert report.summary.ceiling.share.value == pytest.approx(0.5)
    assert not skill.flips


def test_without_held_out_questions_the_report_does_not_claim_a_skill() -> None:
    report = _build(_speaker(), GENERAL)
    assert report.summary.headline == "Look closer: no questions were held out to show that the skill arrived."
    assert any("cannot say whether the skill arrived" in note for note in report.caveats)


def test_entropy_and_weights_are_reported() -> None:
    report = _build(_speaker(), SKILL, GENERAL)
    assert {row.entropy for row in report.behaviour} == {0.5}
    [weights] = report.weights
    assert (weights.arm, weights.module, weights.norm, weights.share) == ("candidate", "q_proj", 7.0, 0.5)
    assert {row.candidate_overlap for row in report.drift} <= {0.5, 1.0}


def test_a_report_survives_json_and_is_the_same_twice() -> None:
    report = _build(_speaker(lost=3), SKILL, GENERAL)
    assert Report.model_validate_json(report.model_dump_json()) == report
    again = _build(_speaker(lost=3), SKILL, GENERAL)
    assert report.model_dump(exclude={"cost"}) == again.model_dump(exclude={"cost"})


def test_the_cost_of_the_evaluation_is_added() -> None:
    cost = _build(_speaker(), SKILL, GENERAL).cost
    assert cost.seconds["training"] == 100.0
    assert {"evaluation_answers", "evaluation_likelihoods", "evaluation_drift"} < set(cost.seconds)
    assert cost.generated_tokens > 20


def _answer(text: str, *ids: int, stopped: bool = True) -> Answer:
    return Answer(text, ids, stopped)


def test_behaviour_by_hand() -> None:
    trained = ["one two three four five six seven eight nine", "team=billing"]
    answers = [
        _answer("Based on the example, yes", 1, 1, 1, 1, 1),
        _answer("so two three four five six seven eight nine", 1, 2, 3, 4, stopped=False),
        _answer("Team=Billing", 7, 8, 9),
        _answer("my own", 7, 8),
    ]
    row = describe("general", "candidate", answers, trained)
    assert (row.mean_tokens, row.truncated, row.artefacts, row.copied) == (3.5, 0.25, 0.25, 0.5)
    assert row.distinct_4 == 0.75


class Marked:
    """Marks its answers itself: of four items the candidate loses one, and one is half right."""

    items = tuple(
        Item(f"{n}", "quiz", ({"role": "user", "content": f"{n}?"},), ("yes",), "acc of others", 0) for n in range(4)
    )
    suite = Suite("quiz", "client", items)
    notes = ("quiz: four of forty.",)

    def ask(self, arm: Arm, on_items: Callable[[int], None]) -> list[Answer]:
        on_items(len(self.items))
        marks = (1.0, 1.0, 0.0, 0.5) if arm == "base" else (0.0, 1.0, 0.0, 1.0)
        return [Answer("no", (), stopped=True, mark=mark) for mark in marks]


def test_marks_that_another_gave_are_paired_and_one_between_right_and_wrong_is_an_error() -> None:
    report = _build(lambda _, text: RIGHT[text], GENERAL, template=None, peculiar=[Marked()])
    quiz = report.suites[-1]
    assert (quiz.name, quiz.n, quiz.scorers) == ("quiz", 3, {"acc of others": 1})
    assert {score.arm: score.num_right for score in quiz.arms} == {"base": 2, "candidate": 1}
    [comparison] = quiz.comparisons
    assert (comparison.num_lost, comparison.num_gained) == (1, 0)
    assert comparison.p_value is not None
    assert [(flip.item, flip.change) for flip in quiz.flips] == [("0", "lost")]
    [error] = report.errors
    assert (error.item, error.arm, error.message) == ("3", "base", "CannotScore: 0.5 is neither right nor wrong")
    assert "quiz: four of forty." in report.caveats
    assert {row.suite for row in report.behaviour} == {GENERAL.name}
