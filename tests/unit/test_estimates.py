"""Predictions from what finished jobs took, on a machine that the model does not know."""

from dataclasses import replace

import pytest

from app.domain.distillation import TeacherConfig
from app.domain.estimates import (
    Finished,
    Lengths,
    Peak,
    Size,
    Work,
    count_answers,
    count_tokens,
    count_trained,
    predict,
    predict_memory,
    size_of,
)
from app.domain.training import TrainingConfig, count_heldout

CONFIG = TrainingConfig(
    method="sdft", seed=0, num_epochs=6, batch_size=8, total_steps=42, learning_rate=1e-3, warmup_steps=5, lora_rank=16,
    lora_alpha=32, max_completion_tokens=24, loss_skip_tokens=2, rehearsal_share=1 / 3,
)  # fmt: skip
LENGTHS = Lengths(prompt=40, demonstration=16, answer=12, document=0)
SMALL = Size(sequence=100, step=1200, remembered=4000, lora_rank=16)
ALONE = {"has_parent": False, "has_ceiling": True, "has_twin": False}


def finished(work: Work, *, pace: float = 1.0) -> Finished:
    """A job on a machine whose evaluation and training take time of their own, and some of it whatever the work.

    A token takes a twin, which samples nothing, half the time.
    """
    return Finished(
        work=work,
        size=SMALL,
        seconds_training=pace * (8.0 + 0.006 * work.tokens),
        seconds_answering=pace * (3.0 + 0.09 * work.answers),
        seconds_comparing=pace * 0.003 * work.twin_tokens,
        seconds_other=20.0,
        peak_memory_bytes=1 << 30,
        answer_share=0.75,
        trained_share=1.0,
    )


def work(config: TrainingConfig, lengths: Lengths, answers: int, twin_tokens: float = 0.0) -> Work:
    return Work(count_tokens(config, lengths), answers, twin_tokens)


def test_one_job_predicts_another_with_more_rehearsal_longer_texts_and_a_parent() -> None:
    first = work(
        CONFIG,
        LENGTHS,
        answers=count_answers(general=312, skill=8, earlier=0, client=0, **ALONE),
    )
    other = CONFIG.model_copy(update={"rehearsal_share": 1 / 2, "total_steps": 60})
    second = work(
        other,
        Lengths(prompt=55, demonstration=20, answer=15, document=0),
        answers=count_answers(general=312, skill=8, earlier=8, client=0, **ALONE | {"has_parent": True}),
    )
    truth = finished(second)
    actual = truth.seconds_training + truth.seconds_answering + truth.seconds_other
    told = predict([finished(first)], second)
    assert told is not None
    assert told.p50 == pytest.approx(actual, rel=0.25)
    # A model that took every job for the same would be far off.
    assert finished(first).seconds_for(first) < 0.75 * actual
    assert told.p90 == pytest.approx(1.25 * told.p50)


def test_the_work_of_a_finished_job_at_its_own_pace_is_what_it_took() -> None:
    done = finished(work(CONFIG, LENGTHS, 500))
    assert done.seconds_for(done.work) == pytest.approx(8 + 0.006 * done.work.tokens + 3 + 45 + 20)


def test_a_twin_takes_its_own_pace_where_it_is_known_and_else_at_most_the_jobs() -> None:
    without, compared = work(CONFIG, LENGTHS, 500), work(CONFIG, LENGTHS, 500, twin_tokens=20_000.0)
    took = 0.003 * 20_000
    known, unknown = finished(compared), finished(without)
    assert known.seconds_for(compared) - known.seconds_for(without) == pytest.approx(took)
    assert took < unknown.seconds_for(compared) - unknown.seconds_for(without) < 3 * took


def test_the_spread_is_that_of_the_paces() -> None:
    same = work(CONFIG, LENGTHS, 500)
    told = predict([finished(same, pace=pace) for pace in (0.5, 1, 1, 1, 1, 1, 1, 1, 3, 9)], same)
    assert told is not None
    assert told.p50 == pytest.approx(finished(same).seconds_for(same))
    assert told.p90 == pytest.approx(finished(same, pace=3).seconds_for(same))


def test_of_nothing_nothing_is_told() -> None:
    assert predict([], work(CONFIG, LENGTHS, 500)) is None
    assert predict_memory([], SMALL) is None
    unmeasured = replace(finished(work(CONFIG, LENGTHS, 500)), peak_memory_bytes=None)
    assert predict_memory([unmeasured], SMALL) is None


@pytest.mark.parametrize("grown", ["sequence", "step", "remembered", "lora_rank"])
def test_memory_of_a_job_that_is_larger_in_anything_is_said_to_be_at_least_so_much(grown: str) -> None:
    small = finished(work(CONFIG, LENGTHS, 500))
    large = replace(small, size=Size(200, 9000, 9000, 16), peak_memory_bytes=7 << 30)
    assert predict_memory([large, small], SMALL) == Peak(1 << 30, is_lower_bound=False)
    larger = replace(SMALL, **{grown: getattr(SMALL, grown) + 1})
    known = grown != "lora_rank"
    assert predict_memory([large, small], larger) == Peak(7 << 30, is_lower_bound=not known)
    assert predict_memory([small], larger) == Peak(1 << 30, is_lower_bound=True)


def test_a_size_counts_the_longest_sequences_and_what_a_frozen_teacher_keeps() -> None:
    longest = Lengths(prompt=80, demonstration=20, answer=20, document=50)
    size = size_of(CONFIG, longest=longest, means=LENGTHS, num_examples=64)
    assert size == Size(80 + 20 + 50 + 24, (8 + 4) * 174, 64 * (40 + 16), 16)
    moving = CONFIG.model_copy(update={"teacher": TeacherConfig(kind="live")})
    assert size_of(moving, longest=longest, means=LENGTHS, num_examples=64).remembered == 0
    supervised = CONFIG.model_copy(update={"method": "supervised"})
    assert size_of(supervised, longest=longest, means=LENGTHS, num_examples=64) == Size(100, 8 * 100, 0, 16)


def test_tokens_are_those_of_every_sequence_of_every_step() -> None:
    rehearsed = round(8 * (1 / 3) / (2 / 3))
    assert count_tokens(CONFIG, LENGTHS) == 42 * (8 * (40 + 16 + 12) + rehearsed * (40 + 24))
    assert count_trained(CONFIG, LENGTHS) == 42 * (8 * (12 - 2) + rehearsed * 24)
    supervised = CONFIG.model_copy(update={"method": "supervised"})
    assert count_tokens(supervised, LENGTHS) == 42 * 8 * (40 + 16)
    assert count_trained(supervised, LENGTHS) == 42 * 8 * 16


def test_each_rollout_is_generated_and_trained_and_the_prompt_read_once() -> None:
    config = CONFIG.model_copy(update={"rollouts_per_prompt": 3})
    assert count_tokens(config, LENGTHS) - count_tokens(CONFIG, LENGTHS) == 42 * 8 * 2 * 12
    assert count_trained(config, LENGTHS) - count_trained(CONFIG, LENGTHS) == 42 * 8 * 2 * (12 - 2)


def test_answers_shorter_than_the_skip_train_nothing() -> None:
    config = CONFIG.model_copy(update={"rehearsal_share": 0.0})
    assert count_trained(config, replace(LENGTHS, answer=1.0)) == 0


@pytest.mark.parametrize(
    ("has_parent", "has_ceiling", "has_twin", "seeds", "arms"),
    [
        (False, False, False, 1, (1, 2, 1, 2)),
        (False, True, False, 1, (1, 3, 1, 2)),
        (True, True, False, 1, (1, 4, 2, 3)),
        (True, True, True, 1, (2, 5, 3, 4)),
        (True, True, False, 3, (3, 6, 4, 5)),
        (True, True, True, 3, (6, 9, 7, 8)),
    ],
)
def test_each_suite_asks_its_own_arms(
    has_parent: bool, has_ceiling: bool, has_twin: bool, seeds: int, arms: tuple[int, int, int, int]
) -> None:
    asked = count_answers(
        general=100,
        skill=10,
        earlier=1,
        client=1000,
        has_parent=has_parent,
        has_ceiling=has_ceiling,
        has_twin=has_twin,
        seeds=seeds,
    )
    assert asked == 100 * arms[0] + 10 * arms[1] + 1 * arms[2] + 1000 * arms[3]


@pytest.mark.parametrize(
    ("num_prompts", "kept"), [(1, 0), (23, 0), (24, 8), (80, 8), (150, 15), (2000, 200), (10**6, 200)]
)
def test_a_tenth_is_kept_within_bounds(num_prompts: int, kept: int) -> None:
    assert count_heldout(num_prompts, of_validation=False) == kept
    assert count_heldout(num_prompts, of_validation=True) == min(200, num_prompts)


def test_a_teacher_reads_documents_and_nobody_is_trained_on_them() -> None:
    beside = replace(LENGTHS, document=100)
    assert count_tokens(CONFIG, beside) - count_tokens(CONFIG, LENGTHS) == 42 * 8 * 100
    assert count_trained(CONFIG, beside) == count_trained(CONFIG, LENGTHS)
    plain = CONFIG.model_copy(update={"method": "supervised"})
    assert count_tokens(plain, beside) == count_tokens(plain, LENGTHS)
