"""Every arm is asked the same questions, by the right weights, once."""

from collections.abc import Callable, Sequence

import pytest

from tests.unit.evals.fake_policy import FakePolicy
from worker.evals.run import Answer, Measured, Peculiar, evaluate
from worker.evals.suites import Item, Suite, Unaskable
from worker.sdft.policy import Arm


def _suite(name: str, role: str, questions: dict[str, str], scorer: str = "normalized") -> Suite:
    items = tuple(
        Item(f"{index}", name, ({"role": "user", "content": question},), (answer,), scorer, 12)
        for index, (question, answer) in enumerate(questions.items())
    )
    return Suite(name, role, items)


SKILL = _suite("colors", "skill", {"red?": "#f00", "blue?": "#00f"})
EARLIER = _suite("sounds", "earlier", {"cat?": "meow"})
GENERAL = _suite("general", "general", {"1+1?": "2", "2+2?": "4"})


def _speak(arm: Arm, conversation: str) -> str:
    return f"{arm}:{len(conversation.splitlines())}"


def _run(
    policy: FakePolicy,
    *suites: Suite,
    has_parent: bool = True,
    has_twin: bool = False,
    template: str | None = "multi_turn",
    peculiar: Sequence[Peculiar] = (),
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Measured:
    return evaluate(
        policy,
        suites,
        has_parent=has_parent,
        has_twin=has_twin,
        template=template,
        memory=None,
        on_progress=on_progress,
        peculiar=peculiar,
    )


def test_the_ceiling_is_the_parent_with_the_demonstration_in_its_context() -> None:
    measured = _run(FakePolicy(_speak), SKILL)
    assert {arm: answers[0].text for (_, arm), answers in measured.answers.items()} == {
        "base": "base:1",
        "parent": "parent:1",
        "candidate": "student:1",
        "ceiling": "parent:3",
    }


def test_without_a_parent_the_base_is_the_teacher() -> None:
    measured = _run(FakePolicy(_speak), SKILL, has_parent=False)
    assert measured.arms(SKILL) == ("base", "candidate", "ceiling")
    assert measured.answers["colors", "ceiling"][0].text == "base:3"


def test_no_template_means_no_ceiling() -> None:
    assert "ceiling" not in _run(FakePolicy(_speak), SKILL, template=None).arms(SKILL)


def test_all_arms_but_the_ceiling_see_the_same_prompts_and_each_is_asked_once() -> None:
    policy = FakePolicy(_speak)
    _run(policy, SKILL, EARLIER, GENERAL)
    assert len(set(policy.asked)) == len(policy.asked)
    plain = {
        arm: {prompt for who, prompt in policy.asked if who == arm and "\n" not in prompt} for arm, _ in policy.asked
    }
    assert plain["base"] == {"red?", "blue?", "1+1?", "2+2?"}
    assert plain["parent"] == plain["student"] == plain["base"] | {"cat?"}


def test_an_earlier_skill_is_asked_of_parent_and_candidate() -> None:
    assert _run(FakePolicy(_speak), SKILL, EARLIER, GENERAL).arms(EARLIER) == ("parent", "candidate")


def test_a_twin_is_asked_all_that_the_candidate_is() -> None:
    policy, mine = FakePolicy(_speak), _suite("file mine.jsonl", "client", {"6*7?": "42"})
    suites = (SKILL, EARLIER, GENERAL, mine)
    measured = _run(policy, *suites, has_twin=True)
    assert [measured.arms(suite) for suite in suites] == [
        ("base", "parent", "candidate", "supervised", "ceiling"),
        ("parent", "candidate", "supervised"),
        ("base", "parent", "candidate", "supervised"),
        ("base", "parent", "candidate", "supervised"),
    ]
    asked = [[prompt for who, prompt in policy.asked if who == arm] for arm in ("student", "twin")]
    assert asked[0] == asked[1]
    assert {name for name, arm in measured.nll if arm == "supervised"} == {"colors", "sounds"}


def test_likelihoods_are_measured_for_demonstrations_and_not_for_general_questions() -> None:
    measured = _run(FakePolicy(lambda arm, _: "#f00" if arm == "student" else "no"), SKILL, GENERAL)
    assert measured.nll["colors", "candidate"] == [0.1, 2.0]
    assert measured.nll["colors", "base"] == [2.0, 2.0]
    assert not [name for name, _ in measured.nll if name == "general"]


def test_a_clients_questions_are_asked_of_all_arms_and_are_no_demonstrations() -> None:
    mine = _suite("file mine.jsonl", "client", {"6*7?": "42"})
    measured = _run(FakePolicy(_speak), SKILL, GENERAL, mine)
    assert measured.arms(mine) == ("base", "parent", "candidate")
    assert "file mine.jsonl" not in {name for name, _ in measured.nll}
    assert [drift.prompts for drift in measured.drift] == ["task", "neutral"]


def test_a_clients_texts_are_measured_by_likelihood_where_that_is_their_scorer() -> None:
    mine = _suite("file mine.jsonl", "client", {"6*7?": "forty-two"}, scorer="nll")
    measured = _run(FakePolicy(lambda arm, _: "forty-two" if arm == "student" else "no"), SKILL, GENERAL, mine)
    assert (measured.nll["file mine.jsonl", "base"], measured.nll["file mine.jsonl", "candidate"]) == ([2.0], [0.1])


def test_drift_follows_the_candidate_away_from_the_base() -> None:
    def speak(arm: Arm, conversation: str) -> str:
        return "changed" if arm == "student" and "red" in conversation else "same"

    measured = _run(FakePolicy(speak), SKILL, EARLIER, GENERAL)
    drifts = {drift.prompts: (drift.base_to_candidate, drift.candidate_to_base) for drift in measured.drift}
    assert drifts == {"task": (0.5, 1.0), "neutral": (0.0, 0.0)}
    assert {drift.base_to_supervised for drift in measured.drift} == {None}


def test_drift_follows_the_twin_apart_from_the_candidate() -> None:
    def speak(arm: Arm, conversation: str) -> str:
        return "changed" if arm == "twin" and "red" in conversation else "same"

    measured = _run(FakePolicy(speak), SKILL, EARLIER, GENERAL, has_twin=True)
    drifts = {drift.prompts: (drift.base_to_supervised, drift.supervised_to_base) for drift in measured.drift}
    assert drifts == {"task": (0.5, 1.0), "neutral": (0.0, 0.0)}
    assert {drift.base_to_candidate for drift in measured.drift} == {0.0}


def test_drift_has_the_overlap_of_likely_tokens_too() -> None:
    def speak(arm: Arm, conversation: str) -> str:
        return "changed" if arm == "student" and "red" in conversation else "same"

    measured = _run(FakePolicy(speak), SKILL, GENERAL, has_twin=True)
    overlaps = {drift.prompts: (drift.candidate_overlap, drift.supervised_overlap) for drift in measured.drift}
    assert overlaps == {"task": (0.75, 1.0), "neutral": (1.0, 1.0)}


def test_entropy_is_measured_along_each_arms_own_answers_where_drift_is() -> None:
    measured = _run(FakePolicy(_speak), SKILL, EARLIER, GENERAL, _suite("file mine.jsonl", "client", {"6*7?": "42"}))
    asked = {(suite.name, arm) for suite in (SKILL, GENERAL) for arm in measured.arms(suite)}
    assert measured.entropy == dict.fromkeys(asked, 0.5)
    assert ("colors", "ceiling") in asked


def test_entropy_and_drift_follow_a_few_items_spread_over_a_suite() -> None:
    seen: list[int] = []

    class Counting(FakePolicy):
        def entropy(self, prompts: list[list[int]], completions: list[list[int]], *, arm: Arm) -> list[float]:
            seen.append(len(prompts))
            return super().entropy(prompts, completions, arm=arm)

    many = _suite("many", "general", {f"question {index}": "yes" for index in range(40)})
    measured = _run(Counting(_speak), many)
    assert (seen, measured.drift[0].n) == ([16] * 3, 16)


def test_weights_are_measured_of_what_was_trained() -> None:
    assert _run(FakePolicy(_speak), SKILL).weight_norms == {"candidate": {"q_proj": (7, 14.0)}}
    compared = _run(FakePolicy(_speak), SKILL, has_twin=True).weight_norms
    assert compared["supervised"] == {"q_proj": (4, 14.0)}


def test_other_seeds_are_asked_for_answers_and_not_for_drift_entropy_or_weights() -> None:
    first = _run(FakePolicy(_speak), SKILL, GENERAL)
    again = evaluate(
        FakePolicy(_speak), (SKILL, GENERAL), has_parent=True, template="multi_turn", memory=None,
        on_progress=lambda *_: None, known=first,
    )  # fmt: skip
    assert (again.drift, again.entropy, again.weight_norms) == ([], {}, {})


def test_the_limit_is_each_items_own_and_cut_answers_say_so() -> None:
    measured = _run(FakePolicy(lambda *_: "x" * 50), SKILL)
    answer = measured.answers["colors", "base"][0]
    assert (answer.text, answer.stopped) == ("x" * 12, False)


def test_an_item_that_does_not_fit_with_its_demonstration_is_asked_of_nobody() -> None:
    long = _suite("long", "skill", {"short?": "s", "l" * 60: "long answer"})
    policy = FakePolicy(_speak, context_tokens=100)
    measured = _run(policy, long)
    assert measured.num_dropped == 1
    assert len(measured.answers["long", "base"]) == 1
    assert not [prompt for _, prompt in policy.asked if "lll" in prompt]


def test_free_text_is_decoded_for_a_few_items_and_scored_on_all() -> None:
    essays = _suite("essays", "skill", {f"question {index}": "text" for index in range(40)}, scorer="nll")
    measured = _run(FakePolicy(_speak), essays)
    assert len(measured.answers["essays", "base"]) == 16
    assert len(measured.nll["essays", "base"]) == 40


@pytest.mark.parametrize("suites", [(SKILL, EARLIER, GENERAL), (GENERAL,)])
def test_progress_rises_to_its_total(suites: tuple[Suite, ...]) -> None:
    seen: list[tuple[int, int]] = []
    evaluate(
        FakePolicy(_speak),
        suites,
        has_parent=True,
        template="multi_turn",
        memory=None,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    done = [count for count, _ in seen]
    assert done == sorted(done)
    assert seen[-1][0] == seen[-1][1]
    assert len({total for _, total in seen}) == 1


class Quiz:
    """Says to each arm its name, and fails for one."""

    suite = _suite("quiz", "client", {"a?": "b", "c?": "d"})
    notes = ("quiz: some were left out.",)

    def __init__(self, unaskable: Arm | None = None) -> None:
        self.unaskable = unaskable

    def ask(self, arm: Arm, on_items: Callable[[int], None]) -> list[Answer]:
        on_items(1)
        if arm == self.unaskable:
            raise Unaskable("quiz broke.")
        return [Answer(arm, (), stopped=True, mark=1.0)] * 2


def test_a_suite_with_a_way_of_its_own_is_asked_of_every_arm_and_counted() -> None:
    told: list[tuple[int, int]] = []
    measured = _run(
        FakePolicy(_speak),
        GENERAL,
        has_twin=True,
        peculiar=[Quiz()],
        on_progress=lambda *progress: told.append(progress),
    )
    assert {arm: answers[0].text for (name, arm), answers in measured.answers.items() if name == "quiz"} == {
        "base": "base", "parent": "parent", "candidate": "student", "supervised": "twin"
    }  # fmt: skip
    assert measured.suites == (GENERAL, Quiz.suite)
    assert measured.notes == ["quiz: some were left out."]
    assert {"answers", "tasks"} <= measured.seconds.keys()  # apart: estimates are told by the one only
    total = told[0][1]
    assert told[-8:] == [(done, total) for done in range(total - 7, total + 1)]


def test_what_turns_out_unaskable_is_left_out_for_every_arm_and_told() -> None:
    measured = _run(FakePolicy(_speak), GENERAL, peculiar=[Quiz("student")])
    assert measured.suites == (GENERAL,)
    assert {name for name, _ in measured.answers} == {"general"}
    assert measured.notes == ["quiz broke."]
