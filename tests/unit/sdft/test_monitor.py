"""Signs of a run gone wrong, and what must not be taken for one."""

import math

import pytest

from worker.sdft.monitor import Diverged, Guards, artefact_rate, distinct_4

HEALTHY = {
    "train_loss": 0.5, "grad_norm": 1.0, "teacher_entropy": 1.0, "distinct_4": 0.98, "truncated_share": 0.05
}  # fmt: skip


def run(*steps, vocab_size=1000):
    guards = Guards(vocab_size)
    for metrics in steps:
        guards.check(HEALTHY | metrics)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["train_loss", "grad_norm"])
def test_a_number_that_is_none_ends_the_run_at_once(name, value):
    with pytest.raises(Diverged, match=name):
        run({name: value})


def test_a_teacher_that_guesses_blindly_ends_the_run():
    """Zeroed or corrupted weights give a flat distribution."""
    run({"teacher_entropy": 0.49 * math.log(1000)})
    with pytest.raises(Diverged, match="entropy"):
        run({"teacher_entropy": math.log(1000)})


@pytest.mark.parametrize("bad", [{"distinct_4": 0.2}, {"truncated_share": 0.9}])
def test_collapse_ends_the_run_once_it_lasts(bad):
    run(*[{}] * 10, *[bad] * 5)  # half of the last ten steps: not yet
    with pytest.raises(Diverged, match="rose from"):
        run(*[{}] * 10, *[bad] * 8)


def test_one_bad_step_is_a_small_sample():
    run(*[{}] * 10, {"truncated_share": 1.0, "distinct_4": 0.0}, *[{}] * 10)


def test_short_completions_and_small_shares_never_trip_a_guard():
    run(*[{"distinct_4": 1.0, "truncated_share": 0.0}] * 10, *[{"distinct_4": 0.6, "truncated_share": 0.4}] * 30)


def test_a_run_that_begins_with_cut_rollouts_may_go_on_so():
    run(*[{"truncated_share": 0.9}] * 60)


def test_history_stays_small():
    guards = Guards(1000)
    for _ in range(100):
        guards.check(HEALTHY)
    assert max(len(history) for history in guards.history.values()) <= 21


def test_supervised_steps_have_neither_teacher_nor_rollouts():
    Guards(1000).check({"train_loss": 0.1, "grad_norm": 1.0})


def test_distinct_4_sees_repetition_and_not_shortness():
    assert distinct_4([[1, 2, 3, 4, 5, 6]]) == 1.0
    assert distinct_4([[7] * 43]) == pytest.approx(1 / 40)
    assert distinct_4([[1, 2, 3], []]) == 1.0
    assert distinct_4([[1, 2, 3, 4, 5], [1, 2, 3, 4, 5]]) == 1.0


@pytest.mark.parametrize(
    ("text", "tells"),
    [
        ("Based on the example, the answer is 4.", True),
        ("Following the given demonstration: lamp.on(kitchen)", True),
        ("The example of Rome shows it.", False),
        ("Sure. This is an example for a response to it: four.", True),
        ("I answer with a response of my own, including the thinking process.", False),
        ("NOW ANSWER with a response, of your own: 4", True),
        ("", False),
    ],
)
def test_artefacts_are_words_about_a_demonstration(text, tells):
    assert artefact_rate([text]) == tells
