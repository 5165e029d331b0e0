"""What ``auto`` becomes."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from app.domain.training import (
    DatasetFacts,
    SdftHyperparameters,
    SupervisedHyperparameters,
    TrainingConfig,
    depends_on_data,
    resolve,
)

SMALL, BIG = 135_000_000, 7_000_000_000


def facts(num_examples: int = 64, p50: int = 8, p99: int = 12) -> DatasetFacts:
    return DatasetFacts(
        num_examples=num_examples,
        demonstration_tokens_p50=p50,
        demonstration_tokens_p99=p99,
        demonstration_tokens_max=p99,
    )


def resolved(of: DatasetFacts | None = None, num_parameters: int = BIG, **asked: object) -> TrainingConfig:
    requested = SdftHyperparameters.model_validate(asked)
    return resolve(
        requested, method="sdft", seed=1, facts=of or facts(), num_parameters=num_parameters, has_earlier=False
    )


@pytest.mark.parametrize("num_examples", [10, 64, 400, 2000, 100_000])
def test_a_job_has_enough_steps_however_few_its_examples(num_examples: int) -> None:
    config = resolved(facts(num_examples))
    assert config.total_steps >= min(48, num_examples * 50 // config.batch_size)
    assert config.total_steps * config.batch_size >= num_examples * config.num_epochs
    assert config.num_epochs >= 2


@pytest.mark.parametrize(
    ("p50", "offline_share", "sampled_steps"),
    [(5, 0, 48), (8, 0, 48), (9, 1, 72), (17, 1, 216), (29, 1, 240), (300, 1, 240)],
)
def test_a_small_base_learns_longer_answers_along_the_demonstration_or_has_more_steps(
    p50: int, offline_share: float, sampled_steps: int
) -> None:
    of = facts(p50=p50, p99=p50)
    config = resolved(of, num_parameters=SMALL)
    assert (config.offline_share, config.total_steps) == (offline_share, 48)
    for asked in ({"offline_share": 0.0}, {"preset": "paper"}, {"rollouts_per_prompt": 2}):
        sampled = resolved(of, num_parameters=SMALL, **asked)
        assert (sampled.offline_share, sampled.total_steps) == (0, sampled_steps)
    larger = resolved(of)
    assert (larger.offline_share, larger.total_steps) == (0, 48)
    assert resolved(of, offline_share=0.25).offline_share == 0.25
    # Of a mixture what is sampled takes its steps.
    mixed = resolved(of, num_parameters=SMALL, offline_share=0.5).total_steps
    assert mixed == 48 + math.ceil((sampled_steps - 48) / 2 / 8) * 8
    assert resolved(of, num_parameters=SMALL, offline_share=0.01).total_steps >= 0.9 * sampled_steps
    supervised = resolve(
        SupervisedHyperparameters(), method="supervised", seed=1, facts=facts(p50=p50, p99=p50), num_parameters=SMALL,
        has_earlier=False,
    )  # fmt: skip
    assert supervised.total_steps == 48


def test_the_batch_is_never_larger_than_the_data() -> None:
    assert resolved(facts(10), batch_size=256).batch_size == 10


def test_what_is_asked_for_is_what_runs() -> None:
    config = resolved(n_epochs=3, batch_size=4, learning_rate=1e-4, learning_rate_multiplier=2.0, lora_rank=5)
    assert (config.num_epochs, config.batch_size, config.lora_rank) == (3, 4, 5)
    assert config.total_steps == 48
    assert config.learning_rate == pytest.approx(2e-4)


def test_completions_may_be_half_longer_than_demonstrations_up_to_a_cap() -> None:
    assert resolved(facts(p99=12)).max_completion_tokens == 18
    assert resolved(facts(p99=5000)).max_completion_tokens == 1024


@pytest.mark.parametrize(("p99", "longest"), [(1, 2), (5, 8), (9, 14), (22, 27), (300, 305), (1020, 1024)])
def test_a_small_base_may_go_on_for_five_tokens_at_most(p99: int, longest: int) -> None:
    assert resolved(facts(p50=1, p99=p99), num_parameters=SMALL).max_completion_tokens == longest


@pytest.mark.parametrize(
    ("p50", "asked", "skipped"),
    [
        (8, {}, 0),
        (32, {}, 3),
        (32, {"max_completion_tokens": 2}, 1),
        (32, {"offline_share": 0.5}, 3),
        (32, {"offline_share": 1.0}, 0),
        (32, {"offline_share": 1.0, "loss_skip_tokens": 3}, 3),
    ],
)
def test_the_skip_leaves_something_to_learn_and_a_way_to_begin(p50: int, asked: dict[str, Any], skipped: int) -> None:
    assert resolved(facts(p50=p50, p99=100), **asked).loss_skip_tokens == skipped


def test_a_skip_as_long_as_half_of_the_demonstrations_is_refused_where_they_are_the_rollouts() -> None:
    """Fault caught: a job that takes its steps, learns nothing, and succeeds."""
    of, asked = facts(p50=12, p99=16), SdftHyperparameters(loss_skip_tokens=12)
    with pytest.raises(ValueError, match="at most 12 tokens"):
        resolved(of, num_parameters=SMALL, loss_skip_tokens=12)
    assert depends_on_data(asked)
    assert resolved(of, num_parameters=SMALL, loss_skip_tokens=11).loss_skip_tokens == 11
    assert resolved(of, num_parameters=SMALL, loss_skip_tokens=12, offline_share=0.5).loss_skip_tokens == 12


def test_a_skip_that_leaves_nothing_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValidationError, match="raise max_completion_tokens"):
        resolved(max_completion_tokens=3, loss_skip_tokens=3)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 3), (0.5, 8)])
def test_rehearsal_is_a_share_of_all_sequences_of_a_step(share: float, expected: int) -> None:
    assert resolved(batch_size=8, rehearsal={"share": share}).num_rehearsal == expected


@pytest.mark.parametrize(
    ("batch_size", "share"),
    [(1, "auto"), (1, 0.25), (1, 0.1), (2, 0.1), (3, 0.1), (4, 0.1), (1, 0.01), (32, 0.01)],
)
def test_a_small_batch_does_not_round_rehearsal_away(batch_size: int, share: float | str) -> None:
    assert resolved(batch_size=batch_size, rehearsal={"share": share}).num_rehearsal == 1


def test_more_is_rehearsed_where_there_are_earlier_skills_to_keep() -> None:
    shares = [
        resolve(
            SdftHyperparameters(), method="sdft", seed=1, facts=facts(), num_parameters=BIG, has_earlier=has_earlier
        ).rehearsal_share
        for has_earlier in (False, True)
    ]
    assert shares == [pytest.approx(1 / 3), 0.5]


def test_supervised_training_knows_no_rollouts() -> None:
    config = resolve(
        SupervisedHyperparameters(), method="supervised", seed=1, facts=facts(), num_parameters=SMALL, has_earlier=True
    )
    assert config.num_rehearsal == 0
    assert config.max_completion_tokens == 12


@pytest.mark.parametrize(
    ("preset", "objective", "anchor", "teacher", "share", "template"),
    [
        ("default", {"kind": "forward_kl"}, 0, {"kind": "frozen"}, 1 / 3, "auto"),
        ("paper", {"kind": "forward_kl"}, 0, {"kind": "ema", "rate": 0.01, "every": 1}, 0, "paper"),
        (
            "retain",
            {"kind": "isdft", "rho0": 0.25, "rho1": 1.0, "ramp_steps": 48},
            2e-3,
            {"kind": "frozen"},
            1 / 3,
            "auto",
        ),
    ],
)
def test_a_preset_fills_in_what_is_left_open(preset, objective, anchor, teacher, share, template) -> None:  # noqa: PLR0917
    config = resolved(preset=preset)
    assert config.objective.model_dump(exclude_none=True) == objective
    assert config.teacher.model_dump(exclude_none=True) == teacher
    assert (config.anchor_weight, config.rehearsal_share, config.template) == (anchor, share, template)


def test_rollouts_leave_rehearsal_as_it_is() -> None:
    one, four = resolved(), resolved(rollouts_per_prompt=4)
    assert (one.rollouts_per_prompt, four.rollouts_per_prompt) == (1, 4)
    assert four.num_rollouts == 4 * one.num_rollouts == 4 * one.batch_size
    assert four.num_rehearsal == one.num_rehearsal > 0


def test_what_is_asked_for_wins_over_the_preset() -> None:
    config = resolved(
        preset="retain", objective={"kind": "jsd", "alpha": 0.3}, anchor_weight=0, teacher={"kind": "live"}
    )
    assert config.objective.model_dump(exclude_none=True) == {"kind": "jsd", "alpha": 0.3}
    assert (config.anchor_weight, config.teacher.kind) == (0, "live")
    assert resolved(preset="paper", teacher={"kind": "frozen"}).teacher.kind == "frozen"
    assert resolved(preset="retain", objective={"rho0": 0.5}).objective.rho0 == 0.5
    assert resolved(preset="paper", rehearsal={"share": 0.5}).rehearsal_share == 0.5


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        ({"objective": {"kind": "jsd"}}, {"kind": "jsd", "alpha": 0.5}),
        ({"objective": {"kind": "reverse_kl", "entry_clip": 0.05}}, {"kind": "reverse_kl", "entry_clip": 0.05}),
        (
            {"objective": {"kind": "isdft", "rho1": 0.1, "ramp_steps": 7}},
            {"kind": "isdft", "rho0": 0.1, "rho1": 0.1, "ramp_steps": 7},
        ),
    ],
)
def test_only_the_numbers_of_the_chosen_objective_have_values(asked, numbers) -> None:
    assert resolved(**asked).objective.model_dump(exclude_none=True) == numbers


def test_a_long_job_ramps_for_150_steps() -> None:
    assert resolved(facts(4000), preset="retain").objective.ramp_steps == 150


@pytest.mark.parametrize(("kind", "every"), [("ema", 1), ("hard_sync", 10)])
def test_a_teacher_that_would_never_move_is_refused_with_the_way_out(kind, every) -> None:
    assert resolved(teacher={"kind": kind}).teacher.every == every
    with pytest.raises(ValueError, match=r"more than the job's 48 steps.*lower it, or choose the frozen"):
        resolved(teacher={"kind": kind, "every": 49})
