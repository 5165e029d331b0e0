"""The report says what was seen: verdicts, what was kept, what flipped, what could not be judged."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from app.domain.demonstrations import Demonstration
from app.domain.gate import GateDecision, GateRule, decide
from app.domain.proportions import tail, wilson
from tests.unit.evals.fake_policy import FakePolicy
from worker.evals.behaviour import describe
from worker.evals.headline import recommend
from worker.evals.report import build_report
from worker.evals.run import Answer, Peculiar, evaluate
from worker.evals.schema import Bounds, CeilingQuestion, Cost, LineageScore, Report, TwinRun
from worker.evals.scorers import ScorerChoice
from worker.evals.suites import Item, Role, Split, Suite, Unaskable, demonstration_suite, general_suite
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
    context_tokens: int = 10_000,
    past: Sequence[LineageScore] = (),
    beside: str | None = None,
) -> Report:
    measured = evaluate(
        FakePolicy(speak, context_tokens=context_tokens),
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
        past=past,
        beside=beside,
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
    assert summary.headline.startswith("Ship it: the skill was learned (40 of 40 right)")
    assert "40 of 40 held-out questions right" in summary.skill.sentence
    assert summary.ceiling.share is not None
    assert summary.ceiling.share.value == 1.0


@pytest.mark.parametrize(
    ("learnt", "recommendation", "headline"),
    [
        (
            19,
            "look_closer",
            (
                "Look closer: a part of the skill was learned (19 of 40 right, its teacher 40), and nothing else that "
                "was tested lost more than 10 points. More epochs may bring the rest."
            ),
        ),
        (
            36,
            "ship",
            (
                "Ship it: the skill was learned (36 of 40 right), and nothing else that was tested lost more than 10 "
                "points."
            ),
        ),
    ],
)
def test_what_fell_surely_short_of_its_teacher_has_arrived_in_part(
    learnt: int, recommendation: str, headline: str
) -> None:
    """Fault caught: a version that has learned half of what there was to learn looked like one that has it all."""
    summary = _build(_speaker(learnt=learnt), SKILL, GENERAL).summary
    assert (summary.recommendation, summary.headline) == (recommendation, headline)


@pytest.mark.parametrize(
    ("learnt", "lost", "recommendation"),
    [(40, 60, "do_not_ship"), (0, 0, "do_not_ship"), (3, 0, "look_closer"), (40, 24, "do_not_ship"), (40, 12, "ship")],
)
def test_the_recommendation_weighs_gain_against_loss(learnt: int, lost: int, recommendation: str) -> None:
    assert _build(_speaker(learnt=learnt, lost=lost), SKILL, GENERAL).summary.recommendation == recommendation


def _ceiling(*, learnt: int, taught: int, known: int = 0, scorer: str = "normalized") -> CeilingQuestion:
    """Of a base that knows some codes, a student that learnt some, and a teacher that makes use of so many."""
    questions = [item.messages[0]["content"] for item in SKILL.items]

    def speak(arm: Arm, conversation: str) -> str:
        question = conversation.splitlines()[-1]
        knows = taught if "code-" in conversation else {"base": known, "student": learnt}[arm]
        return RIGHT[question] if question in questions[:knows] else "I am sorry."

    suite = demonstration_suite("codes", "skill", SPLIT.heldout, scorer=scorer, max_new_tokens=30)
    return _build(speak, suite).summary.ceiling


def test_a_teacher_with_too_few_right_for_a_share_is_not_called_useless() -> None:
    few = _ceiling(learnt=8, taught=8)
    assert few.share is None
    assert few.sentence == (
        "Right of 40 questions: the teacher 8, this version 8; before: base 0. Too few questions to give a share."
    )
    few = _ceiling(learnt=3, taught=4, known=1, scorer="nll")
    assert few.share is None
    assert few.sentence == (
        "Log-likelihood of 40 demonstrations, nats per token: the teacher -1.81, this version -1.86; before: base "
        "-1.95. Too few questions to give a share."
    )


@pytest.mark.parametrize(("known", "scorer"), [(0, "normalized"), (12, "normalized"), (0, "nll"), (12, "nll")])
def test_a_teacher_that_is_no_better_has_nothing_to_distil(known: int, scorer: str) -> None:
    none = _ceiling(learnt=20, taught=0, known=known, scorer=scorer)
    assert none.share is None
    assert none.sentence.startswith("With the demonstration in its context the model is no better: nothing to distil.")


@pytest.mark.parametrize(("known", "learnt", "taught"), [(30, 30, 30), (30, 28, 28), (40, 40, 40)])
def test_a_teacher_that_is_no_better_gives_no_share_however_much_it_has_right(
    known: int, learnt: int, taught: int
) -> None:
    """Fault caught: "100 % of what the teacher reaches", where teacher and base had the same 30 of 40 right."""
    none = _ceiling(learnt=learnt, taught=taught, known=known)
    assert none.share is None
    assert none.sentence == "With the demonstration in its context the model is no better: nothing to distil."


@pytest.mark.parametrize(("known", "before"), [(0, ""), (30, "; base 30 before")])
def test_beside_a_share_of_the_teachers_score_stands_what_was_there_before(known: int, before: str) -> None:
    """Fault caught: three quarters of what the teacher reaches, of which nothing was learned."""
    share = _ceiling(learnt=30, taught=40, known=known)
    assert share.share is not None
    assert share.share.value == 0.75
    assert share.sentence.startswith("75\u00a0%, 95\u00a0% interval ")
    assert share.sentence.endswith(
        f" of what the teacher, with the demonstration in its context, reaches (40 of 40 right{before})."
    )


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


def test_lost_and_gained_answers_are_listed_apart_and_counted_in_full() -> None:
    """Of 150 lost the report said 100, and of those gained nothing."""
    questions = [item.messages[0]["content"] for item in GENERAL.items]

    def speak(arm: Arm, conversation: str) -> str:
        known = questions[:150] if arm == "base" else questions[150:]
        return RIGHT[conversation] if conversation in known else "?"

    [general] = _build(speak, GENERAL).suites
    assert [(one.num_lost, one.num_gained) for one in general.changes] == [(150, len(questions) - 150)]
    assert [flip.change for flip in general.flips] == ["lost"] * 100 + ["gained"] * 100


def test_an_answer_is_listed_that_was_lost_since_the_base_alone() -> None:
    """The verdict counts it, so a reader must find it."""
    questions = [item.messages[0]["content"] for item in GENERAL.items[:3]]
    known = {"base": questions, "parent": questions[1:], "student": questions[2:]}
    suite = replace(GENERAL, items=GENERAL.items[:3])
    [general] = _build(
        lambda arm, question: RIGHT[question] if question in known[arm] else "?", suite, has_parent=True
    ).suites
    assert [(flip.item, flip.against) for flip in general.flips] == [
        (suite.items[1].id, ["base", "parent"]),
        (suite.items[0].id, ["base"]),
    ]
    assert [(one.against, one.num_lost) for one in general.changes] == [("base", 2), ("parent", 1)]


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


@pytest.mark.parametrize(
    ("rehearsed", "suites", "says"),
    [
        (True, (SKILL,), "only the other kinds show whether retention reaches beyond what is rehearsed."),
        (True, (SKILL, replace(SKILL, name="old:1", role="earlier")), "only such as no earlier skill is of"),
        (False, (SKILL,), "None of the shipped prompts was rehearsed"),
    ],
    ids=["shipped prompts", "an earlier skill's too", "others, or none"],
)
def test_what_kinds_show_of_rehearsal_is_said_by_where_its_prompts_came_from(
    rehearsed: bool, suites: Sequence[Suite], says: str
) -> None:
    general = GENERAL if rehearsed else replace(GENERAL, rehearsed=frozenset())
    [note] = [one for one in _build(_speaker(), *suites, general).caveats if one.startswith("The general suite")]
    assert says in note
    assert ("only the other kinds" in note) is rehearsed


def test_without_the_general_suite_nothing_is_said_of_it() -> None:
    assert not any("general suite" in note for note in _build(_speaker(), SKILL).caveats)


def test_lengths_of_answers_are_listed_shortest_first() -> None:
    rows = {(row.suite, row.arm): row for row in _build(_speaker(learnt=39), SKILL).behaviour}
    candidate = rows["codes", "candidate"]
    assert candidate.lengths == sorted(candidate.lengths)
    assert (len(candidate.lengths), sum(candidate.lengths)) == (40, pytest.approx(40 * candidate.mean_tokens))


def test_nobody_is_said_to_have_lost_what_another_version_was_taught() -> None:
    other = replace(SKILL, name="later:2", role="other")
    report = _build(lambda arm, text: RIGHT[text] if arm == "parent" else "?", other, has_parent=True, template=None)
    assert report.suites[0].comparisons[-1].verdict == "worse"
    assert report.summary.headline.endswith(", and it is worse at what another version was taught.")
    assert report.lineage == []


def test_an_earlier_skill_that_the_candidate_lost_stops_it() -> None:
    earlier = replace(SKILL, name="older", role="earlier")

    def speak(arm: Arm, conversation: str) -> str:
        return "gone" if arm == "student" else RIGHT[conversation.splitlines()[-1]]

    report = _build(speak, earlier, GENERAL, has_parent=True)
    assert report.suites[0].comparisons[0].against == "parent"
    assert report.suites[0].comparisons[0].verdict == "worse"
    assert report.summary.retention.verdict == "worse"
    assert "older, right for the parent: 0 of 40 kept" in report.summary.retention.sentence


def test_an_earlier_skill_that_the_candidate_lost_against_the_base_stops_it_too() -> None:
    """As where a version is evaluated by itself, with no other beside it."""
    earlier = replace(SKILL, name="older", role="earlier")
    report = _build(lambda arm, text: "gone" if arm == "student" else RIGHT[text], earlier, template=None)
    assert (report.summary.retention.verdict, report.summary.recommendation) == ("worse", "do_not_ship")


def _versions(**known: int) -> Callable[[Arm, str], str]:
    """Each arm knows so many of the codes, from the first one on, and all else."""

    def speak(arm: Arm, conversation: str) -> str:
        question = conversation.splitlines()[-1]
        codes = [item.messages[0]["content"] for item in SKILL.items]
        return "gone" if question in codes[known[arm] :] else RIGHT[question]

    return speak


def test_an_earlier_skill_that_improved_is_no_doubt() -> None:
    earlier = replace(SKILL, name="older", role="earlier")
    report = _build(_versions(base=0, parent=38, student=40), earlier, GENERAL, has_parent=True)
    [comparison] = report.suites[0].comparisons
    assert comparison.difference.high > 0.1
    assert comparison.verdict == report.summary.retention.verdict == "same"


def _knowing(had: int, lost: int, gained: int) -> Callable[[Arm, str], str]:
    """A base that knows some general answers, and a student that learnt the codes, lost some and gained others."""
    asked = [item.messages[0]["content"] for item in GENERAL.items]
    known = {"base": asked[:had], "student": asked[lost : had + gained], "twin": asked}

    def speak(arm: Arm, conversation: str) -> str:
        question = conversation.splitlines()[-1]
        return "gone" if question in asked and question not in known[arm] else _speaker()(arm, conversation)

    return speak


@pytest.mark.parametrize(
    ("had", "lost", "gained", "verdict", "recommendation"),
    [
        (21, 20, 0, "worse", "do_not_ship"),
        (233, 45, 45, "worse", "do_not_ship"),
        (233, 28, 28, "insufficient_evidence", "look_closer"),
        (233, 20, 20, "same", "ship"),
        (20, 0, 0, "insufficient_evidence", "look_closer"),
    ],
)
def test_what_was_known_is_kept_or_not_whatever_was_gained_elsewhere(
    *, had: int, lost: int, gained: int, verdict: str, recommendation: str
) -> None:
    report = _build(_knowing(had, lost, gained), SKILL, GENERAL)
    assert report.suites[1].comparisons[0].verdict == report.summary.retention.verdict == verdict
    assert report.summary.recommendation == recommendation
    few = "Fewer than 35 cannot show that no more than 10\u00a0% are lost."
    assert (few in report.summary.retention.sentence) == (had == 20)


@pytest.mark.parametrize(
    ("had", "lost", "doubt"),
    [
        (237, 28, "28 of 237 answers that the base had right in general ability were lost, more than 10\u00a0%"),
        (20, 0, "too few questions were asked to say that nothing else lost more than 10 points"),
    ],
)
def test_a_loss_that_may_be_chance_is_told_from_too_few_questions(*, had: int, lost: int, doubt: str) -> None:
    """Fault caught: 312 questions were "too few" although 24 of 237 right answers were wrong now."""
    headline = _build(_knowing(had, lost, lost), SKILL, GENERAL).summary.headline
    assert headline.startswith(f"Look closer: the skill was learned (40 of 40 right), but {doubt}")
    assert headline.endswith(", which may be chance.") == (lost > 0)


def test_what_a_lineage_may_have_lost_is_not_put_down_to_too_few_questions() -> None:
    suites = _build(_speaker(), SKILL, GENERAL).suites  # of which nothing is in doubt
    headline = recommend(suites, [], learned="better", left="insufficient_evidence", margin=0.1)[1]
    assert headline.endswith("but an earlier skill may have lost more than 10 points since its best version.")


def _past(*scores: tuple[str, int]) -> list[LineageScore]:
    """What versions scored of the forty codes."""
    bounds = {name: (right / 40, wilson(right, 40)) for name, right in scores}
    return [
        LineageScore(version=name, suite="older", score=Bounds(value=value, low=interval.low, high=interval.high))
        for name, (value, interval) in bounds.items()
    ]


@pytest.mark.parametrize(
    ("now", "verdict", "said"),
    [
        (37, "same", None),
        (36, "same", None),
        (35, "insufficient_evidence", "older: 12.5 points less than older:1 had, 95\u00a0% interval 1.26 to 26.1."),
        (24, "worse", "older: 40 points less than older:1 had, 95\u00a0% interval 23.8 to 55.4."),
    ],
)
def test_an_earlier_skill_lost_little_by_little_is_a_loss_since_its_best(
    now: int, verdict: str, said: str | None
) -> None:
    earlier = replace(SKILL, name="older", role="earlier")
    speak = _versions(base=0, parent=now, student=now)
    report = _build(speak, earlier, GENERAL, has_parent=True, past=_past(("older:1", 40), ("older:2", 38)))
    assert report.suites[0].comparisons[0].verdict == ("same" if now >= 35 else "insufficient_evidence")
    assert report.summary.retention.verdict == verdict
    assert [line for line in report.summary.retention.sentence.splitlines() if "less than" in line] == (
        [said] if said else []
    )


def _essays(name: str = "essays", role: Role = "client") -> Suite:
    suite = demonstration_suite(name, role, SPLIT.heldout, scorer="nll", max_new_tokens=30)
    return replace(suite, items=tuple(replace(item, messages=_about(item, name)) for item in suite.items))


def _about(item: Item, name: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": f"{name} {item.messages[0]['content']}"},)


def _writer(lost: int, gained: int = 0) -> Callable[[Arm, str], str]:
    """Has learnt every code, no longer writes some essays as it did, and writes others better."""

    def speak(arm: Arm, conversation: str) -> str:
        question = conversation.splitlines()[-1]
        subject, _, rest = question.partition(" ")
        if subject not in {"essays", "home:1"}:
            return _speaker()(arm, conversation)
        gone = list(RIGHT)[:lost] if arm == "student" else list(RIGHT)[40 - gained : 40]
        return "gone" if rest in gone else RIGHT[rest]

    return speak


@pytest.mark.parametrize(
    ("lost", "gained", "verdict", "said"),
    [(40, 0, "worse", "worse (-1.90,"), (10, 6, "insufficient_evidence", "in doubt (-0.19,")],
)
@pytest.mark.parametrize("suite", [_essays(), _essays("home:1", "earlier")], ids=lambda suite: suite.role)
def test_free_text_that_decides_the_verdict_is_named(
    lost: int, gained: int, verdict: str, said: str, suite: Suite
) -> None:
    report, name = _build(_writer(lost, gained), SKILL, GENERAL, suite), suite.name
    assert report.summary.retention.verdict == verdict
    [line] = [line for line in report.summary.retention.sentence.splitlines() if name in line]
    assert line.startswith(f"{name}, log-likelihood against the base: {said} 95\u00a0% interval -")


def test_free_text_alone_that_stayed_is_said_to_have_stayed() -> None:
    retention = _build(_writer(0), SKILL, _essays()).summary.retention
    assert (retention.verdict, retention.sentence) == ("same", "Free text lost no more than 0.1 nats per token.")


def test_a_clients_questions_that_the_candidate_lost_stop_it_and_trained_ones_are_owned_up_to() -> None:
    mine = replace(SKILL, name="file mine.jsonl", role="client", num_trained={"candidate": 3}, num_repeated=2)

    def speak(arm: Arm, conversation: str) -> str:
        return "gone" if arm == "student" else RIGHT[conversation.splitlines()[-1]]

    report = _build(speak, mine)
    assert report.summary.retention.verdict == "worse"
    assert "file mine.jsonl, right for the base: 0 of 40 kept" in report.summary.retention.sentence
    said = "file mine.jsonl: this version, or one that it goes on from, was trained on the prompts of 3 questions"
    assert f"{said}, so this suite flatters it." in report.caveats
    assert [(arm.arm, arm.num_trained) for arm in report.suites[0].arms] == [("base", 0), ("candidate", 3)]
    assert "file mine.jsonl: 2 lines repeat the prompt of another one and were not asked." in report.caveats


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


def test_what_a_verdict_on_the_share_lost_rests_on_is_in_the_report() -> None:
    """Fault caught: "worse" beside a difference of 0 and p = 1, and its reason nowhere."""
    mine = replace(SKILL, name="file mine.jsonl", role="client")
    report = _build(_knowing(233, 45, 45), SKILL, GENERAL, mine, twin=TWIN)
    found = {(suite.name, one.against): one for suite in report.suites for one in suite.comparisons}
    general = found["general ability", "base"]
    assert (general.verdict, general.difference.value, general.p_value, general.num_lost) == ("worse", 0.0, 1.0, 45)
    shares = {key: one.loss_p_value for key, one in found.items() if one.loss_p_value is not None}
    assert shares == {
        ("general ability", "base"): pytest.approx(2 * tail(45, 233, 0.1)),
        ("file mine.jsonl", "base"): 1.0,
    }


def test_free_text_is_tested_for_loss_together_with_answers() -> None:
    suites = [_essays(name, "earlier") for name in ("essays", "home:1")]
    alone, *together = (
        [suite.comparisons[0].p_value for suite in _build(_writer(6), *asked).suites]
        for asked in (suites[:1], [*suites, GENERAL])
    )
    [p_value] = alone
    assert p_value is not None
    assert 0 < p_value <= 0.05
    assert together == [[pytest.approx(3 * p_value), pytest.approx(3 * p_value), 1.0]]


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
        f"kept {num_general - 150} of {num_general} in general ability (this version {num_general - 2}), in all "
        f"{num_general - 150} of {num_general} right (this version {num_general - 2}: better). "
        "Its training took 20 s, this version's 2.5 times as long."
    )


def test_a_verdict_on_the_twins_score_stands_beside_that_score_and_not_beside_what_it_kept() -> None:
    """Fault caught: "kept 160 of 200 (this version 195: the same)", as the twin had gained others for those lost."""
    asked = [item.messages[0]["content"] for item in GENERAL.items]
    known = {"base": asked[:200], "student": asked[5:200], "twin": asked[40:235]}
    report = _build(lambda arm, text: RIGHT[text] if text in known[arm] else "?", GENERAL, twin=TWIN)
    assert report.supervised is not None
    assert (
        "kept 160 of 200 in general ability (this version 195), in all 195 of 312 right (this version 195: the same)."
    ) in report.supervised.sentence


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


def test_fields_are_credited_against_the_expected_answer_that_comes_nearest() -> None:
    item = Item("1", "codes", ({"role": "user", "content": "who?"},), ('{"a": 1}', '{"b": 1, "c": 2}'), "json", 99)
    [suite] = _build(lambda *_: '{"b": 1, "c": 3}', Suite("mine", "client", (item,))).suites
    assert {arm.field_f1 for arm in suite.arms} == {0.5}


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
    """Whether none were held out, or an evaluation did not ask them."""
    report = _build(_speaker(), GENERAL)
    assert (
        report.summary.headline == "Look closer: no held-out questions were asked to show that the skill was learned."
    )
    assert report.summary.skill.sentence == "No held-out questions were asked."
    assert any("cannot say whether the skill was learned" in note for note in report.caveats)


def test_a_skill_that_was_there_before_is_no_reason_against_shipping() -> None:
    summary = _build(lambda _, text: RIGHT[text.splitlines()[-1]], SKILL, GENERAL).summary
    assert (summary.recommendation, summary.skill.verdict) == ("look_closer", "same")
    assert summary.headline == (
        "Look closer: the skill was there before (base 40 of 40 right, this version 40), so nothing was gained."
    )
    lost = _build(
        lambda arm, text: "gone" if arm == "student" and "item" not in text else RIGHT[text.splitlines()[-1]],
        SKILL,
        GENERAL,
    ).summary
    assert lost.headline == (
        "Do not ship it: the skill was there before (base 40 of 40 right, this version 40), so nothing was gained, and "
        "other abilities were lost."
    )


@pytest.mark.parametrize(
    ("that_one", "this_one", "headline"),
    [
        (30, 30, "Look closer: at the skill it is no better than codes:3 (30 of 40 right, that one 30)."),
        (40, 10, "Do not ship it: at the skill it is worse than codes:3 (10 of 40 right, that one 40)."),
        (30, 27, "Look closer: too few questions were held out to say whether it is better at the skill than codes:3."),
        (0, 0, "Do not ship it: the skill was not learned."),
        (
            5,
            25,
            (
                "Ship it: the skill was learned (25 of 40 right; no teacher was asked), and nothing else that was "
                "tested lost more than 10 points."
            ),
        ),
    ],
)
def test_beside_a_version_that_it_did_not_start_from_a_skill_is_compared(
    that_one: int, this_one: int, headline: str
) -> None:
    """Faults caught: a skill that both have was said not to be learned, and half of one looked like all of it."""
    codes = [item.messages[0]["content"] for item in SKILL.items]
    known = {"base": 0, "parent": that_one, "student": this_one}

    def speak(arm: Arm, conversation: str) -> str:
        question = conversation.splitlines()[-1]
        return RIGHT[question] if question not in codes or question in codes[: known[arm]] else "I am sorry."

    report = _build(speak, SKILL, GENERAL, has_parent=True, template=None, beside="codes:3")
    assert report.summary.headline == headline


def test_where_too_few_were_asked_to_tell_it_from_the_base_either_a_skill_is_not_said_to_be_not_learned() -> None:
    """Fault caught: base 30 of 40, both versions 33, and "do not ship it: the skill was not learned"."""
    codes = [item.messages[0]["content"] for item in SKILL.items]

    def speak(arm: Arm, conversation: str) -> str:
        question = conversation.splitlines()[-1]
        known = codes[: 30 if arm == "base" else 33]
        return RIGHT[question] if question not in codes or question in known else "I am sorry."

    report = _build(speak, SKILL, GENERAL, has_parent=True, template=None, beside="codes:3")
    assert {one.against: one.verdict for one in report.suites[0].comparisons} == {
        "base": "insufficient_evidence", "parent": "same",
    }  # fmt: skip
    assert report.summary.headline == (
        "Look closer: at the skill it is no better than codes:3 (33 of 40 right, that one 33)."
    )


def test_what_only_the_version_beside_it_has_is_not_called_lost_and_that_one_is_none_of_the_lineage() -> None:
    """Fault caught: "other abilities were lost", and a column that pales from a version of another lineage to this."""
    codes = [item.messages[0]["content"] for item in SKILL.items]
    earlier = replace(SKILL, name="home:1", role="earlier")

    def speak(arm: Arm, conversation: str) -> str:
        question = conversation.splitlines()[-1]
        known = codes[: {"base": 0, "parent": 38, "student": 28}[arm]]
        return RIGHT[question] if question not in codes or question in known else "I am sorry."

    report = _build(speak, earlier, GENERAL, has_parent=True, template=None, beside="door:1")
    assert report.summary.headline == (
        "Do not ship it: no held-out questions were asked to show that the skill was learned, and it is worse than "
        "door:1 in home:1."
    )
    assert {one.version for one in report.lineage} == {"candidate"}
    assert "other abilities were lost" in _build(speak, earlier, GENERAL, has_parent=True).summary.headline


def test_a_skill_that_was_not_there_before_and_is_not_now_did_not_arrive() -> None:
    summary = _build(_speaker(learnt=0), SKILL, GENERAL).summary
    assert summary.headline == "Do not ship it: the skill was not learned."


@pytest.mark.parametrize(
    ("suites", "limit"),
    [
        ((GENERAL,), "10 points"),
        ((_essays(),), "0.1 nats per token"),
        ((GENERAL, _essays()), "10 points or 0.1 nats per token"),
    ],
)
def test_what_nothing_else_lost_is_said_in_the_units_of_what_was_tested(suites: Sequence[Suite], limit: str) -> None:
    headline = _build(_writer(0), SKILL, *suites).summary.headline
    assert (
        headline
        == f"Ship it: the skill was learned (40 of 40 right), and nothing else that was tested lost more than {limit}."
    )


def test_what_improved_is_not_said_to_have_stayed() -> None:
    summary = _build(_speaker(), SKILL, replace(SKILL, name="file mine.jsonl", role="client")).summary
    assert summary.retention.verdict == "better"
    assert summary.headline.endswith("and nothing else that was tested lost more than 10 points.")


def test_where_nothing_else_was_tested_nobody_is_told_to_ask_more_questions_of_it() -> None:
    headline = _build(_speaker(), SKILL).summary.headline
    assert headline == "Look closer: the skill was learned (40 of 40 right), but nothing else was tested."


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
    silent = describe("general", "candidate", [_answer("", 1), _answer("!", 2)], ["?!"])
    assert silent.copied == 0.0  # where nothing is a word
    assert describe("general", "candidate", answers, []).copied is None  # nothing is known of what was trained on


def test_what_is_copied_is_seen_where_a_script_has_no_spaces() -> None:
    answers = [
        _answer("\u4ed6\u6bcf\u5929\u65e9\u4e0a\u516d\u70b9\u949f\u8d77", 1),
        _answer("\u6211\u6bcf\u5929\u65e9\u4e0a\u4e03\u70b9\u949f\u51fa\u95e8", 2),
    ]
    row = describe(
        "general",
        "candidate",
        answers,
        ["\u4ed6\u6bcf\u5929\u65e9\u4e0a\u516d\u70b9\u949f\u8d77\u5e8a\uff0c\u7136\u540e\u53bb\u8dd1\u6b65\u3002"],
    )
    assert row.copied == 0.5


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


class Broken(Marked):
    """Fails once the base has answered."""

    def ask(self, arm: Arm, on_items: Callable[[int], None]) -> list[Answer]:
        if arm == "student":
            raise Unaskable("quiz broke on its third question.")
        return super().ask(arm, on_items)


def _broken(count: int, *, name: str = "file mine.jsonl", role: Role = "client") -> Suite:
    """Forty questions, of which some have an expectation that their scorer cannot read."""
    expected = [("not json",)] * count + [('{"a": 1}',)] * (40 - count)
    items = [
        Item(f"{n}", name, ({"role": "user", "content": f"{n}?"},), one, "json", 9) for n, one in enumerate(expected)
    ]
    return Suite(name, role, tuple(items))


def _gate(report: Report) -> GateDecision:
    made = report.model_dump(mode="json")
    return decide(GateRule(max_forgetting=0.5), made["suites"], made["unjudged"], made["lineage"])


def _json_speaker(arm: Arm, conversation: str) -> str:
    return _speaker()(arm, conversation) if conversation.splitlines()[-1] in RIGHT else '{"a": 1}'


@pytest.mark.parametrize(
    ("suite", "sentence"),
    [
        (_broken(40), "file mine.jsonl: 40 of 40 questions could not be judged, which is too many."),
        (_broken(5), "file mine.jsonl: 5 of 40 questions could not be judged, which is too many."),
        (
            Suite("file mine.jsonl", "client", (replace(SKILL.items[0], max_new_tokens=20_000),)),
            "file mine.jsonl was not asked: none of its questions fits the context of the base model.",
        ),
    ],
)
def test_a_suite_that_was_asked_for_and_not_judged_is_no_evidence_of_anything(suite: Suite, sentence: str) -> None:
    report = _build(_json_speaker, SKILL, GENERAL, suite)
    assert [(one.suite, one.role, one.sentence) for one in report.unjudged] == [("file mine.jsonl", "client", sentence)]
    assert report.summary.retention.verdict == "insufficient_evidence"
    assert sentence in report.summary.retention.sentence.splitlines()
    assert report.summary.recommendation == "look_closer"
    assert report.summary.headline.endswith("but not enough of file mine.jsonl could be judged.")
    decision = _gate(report)
    assert decision.verdict == "insufficient_evidence"
    [doubt] = [one for one in decision.criteria if one.verdict != "pass"]
    assert (doubt.question, doubt.suite, doubt.sentence) == ("forgetting", "file mine.jsonl", sentence)


def test_what_an_arm_was_trained_on_is_owned_up_to_and_no_cell_of_the_lineage() -> None:
    """Fault caught: 32 of 40 held-out questions known to the version beside it, and not a word of that."""
    skill = replace(SKILL, num_trained={"candidate": 0, "parent": 32})
    earlier = replace(SKILL, name="home:1", role="earlier", num_trained={"candidate": 0, "parent": None})
    report = _build(_speaker(), skill, earlier, has_parent=True)
    said = "codes: the starting point, or one that it goes on from, was trained on the prompts of 32 questions"
    assert f"{said}, so this suite flatters it." in report.caveats
    assert {(one.version, one.suite) for one in report.lineage} == {
        ("base", "codes"), ("candidate", "codes"), ("candidate", "home:1"),
    }  # fmt: skip


@pytest.mark.parametrize("count", [40, 5])
def test_an_earlier_skill_that_was_not_judged_has_not_fallen_since_its_best(count: int) -> None:
    past = [LineageScore(version="home:1", suite="home:1", score=Bounds(value=1.0, low=0.9, high=1.0))]
    report = _build(_json_speaker, SKILL, _broken(count, name="home:1", role="earlier"), past=past, has_parent=True)
    assert {one.version for one in report.lineage if one.suite == "home:1"} == {"home:1"}
    assert "less than home:1 had" not in report.summary.retention.sentence
    assert report.summary.retention.verdict == "insufficient_evidence"
    assert not [one for one in _gate(report).criteria if one.against == "home:1"]


def test_a_few_questions_that_could_not_be_judged_leave_the_verdict_alone() -> None:
    report = _build(_json_speaker, SKILL, GENERAL, _broken(4))
    assert (report.unjudged, report.summary.retention.verdict) == ([], "same")
    assert _gate(report).verdict == "pass"


def test_a_suite_that_breaks_while_it_is_asked_is_no_evidence_either() -> None:
    report = _build(_json_speaker, SKILL, GENERAL, peculiar=[Broken()])
    assert [(one.suite, one.role) for one in report.unjudged] == [("quiz", "client")]
    assert "quiz was not asked: quiz broke on its third question." in report.summary.retention.sentence
    assert report.summary.recommendation == "look_closer"
    assert _gate(report).verdict == "insufficient_evidence"


class Baffling(Marked):
    """Broken for the twin alone: as a whole, or in what it makes of every item."""

    def __init__(self, *, breaks: bool) -> None:
        self.breaks = breaks

    def ask(self, arm: Arm, on_items: Callable[[int], None]) -> list[Answer]:
        on_items(len(self.items))
        if arm != "twin":
            return [Answer("yes", (), stopped=True, mark=1.0) for _ in self.items]
        if self.breaks:
            raise Unaskable("quiz broke on its third question.")
        return [Answer("maybe", (), stopped=True, mark=0.5) for _ in self.items]


@pytest.mark.parametrize("breaks", [True, False])
def test_what_the_twin_makes_of_a_suite_leaves_the_versions_verdicts_alone(*, breaks: bool) -> None:
    """Fault caught: a suite, or its items, set aside for an arm that decides nothing."""
    alone = _build(_speaker(), SKILL, GENERAL, peculiar=[Baffling(breaks=breaks)])
    beside = _build(_speaker(), SKILL, GENERAL, peculiar=[Baffling(breaks=breaks)], twin=TWIN)
    assert (beside.summary, beside.unjudged) == (alone.summary, [])
    assert _gate(beside) == _gate(alone)
    quiz = next(suite for suite in beside.suites if suite.name == "quiz")
    right = {arm.arm: arm.num_right for arm in quiz.arms}
    assert right == {"base": 4, "candidate": 4} | ({} if breaks else {"supervised": 0})
    assert ("Of plain fine-tuning: quiz broke on its third question." in beside.caveats) is breaks
    assert len(beside.errors) == (0 if breaks else 4)
    assert beside.supervised is not None
    assert ("in quiz" in beside.supervised.sentence) is not breaks


@pytest.mark.parametrize("count", [40, 5])
def test_a_skill_that_could_not_be_judged_has_not_arrived(count: int) -> None:
    def speak(arm: Arm, conversation: str) -> str:
        question = conversation.splitlines()[-1]
        return RIGHT.get(question, '{"a": 1}' if arm == "student" else "I am sorry.")

    report = _build(speak, _broken(count, name="codes", role="skill"), GENERAL)
    assert report.summary.skill.verdict == "insufficient_evidence"
    assert f"codes: {count} of 40 questions could not be judged, which is too many." in report.summary.skill.sentence
    assert report.summary.headline == "Look closer: not enough of codes could be judged."
    assert not any("cannot say whether the skill was learned" in note for note in report.caveats)
    decision = _gate(report)
    assert decision.verdict == "insufficient_evidence"
    assert [one.suite for one in decision.criteria if one.question == "gain" and one.value is None] == ["codes"]


def test_what_was_lost_weighs_more_than_what_could_not_be_judged() -> None:
    report = _build(_speaker(lost=200), SKILL, GENERAL, peculiar=[Broken()])
    assert (report.summary.retention.verdict, report.summary.recommendation) == ("worse", "do_not_ship")
    assert _gate(report).verdict == "fail"
