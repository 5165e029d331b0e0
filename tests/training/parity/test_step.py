"""Whole optimizer steps: templates, ids, positions, masks, means, gradient, clipping, all at once."""

import pytest

from app.domain.distillation import ObjectiveConfig
from benchmarks.trl_trainer import student_factors
from tests.tiny_models import FAMILIES, save_tiny
from tests.training.parity.twins import copy_of, make_config, open_theirs, step_ours, updates
from tests.training.test_policy import load

UNCLIPPED = {"max_grad_norm": 1e9, "learning_rate": 1e-3}
CLIPPED = {"max_grad_norm": 0.1, "learning_rate": 0.1}
"""Both move the factors by a few hundredths at most: a larger step makes rounding grow into a difference."""


@pytest.fixture
def step_both(tmp_path, monkeypatch):
    """What two steps change, by our loop and by TRL's trainer."""

    def steps(config, *, family="llama", lengths=(9, 4, 7, 5), **settings):
        base = save_tiny(family, tmp_path / "base")
        policy = load(base)
        before = copy_of(policy.parameters())
        script = step_ours(policy, config, monkeypatch, lengths=lengths)
        trainer = open_theirs(base, tmp_path / "trl", before, config, script=script, **settings)
        trainer.train()
        return updates(policy.parameters(), before), updates(student_factors(trainer), before)

    return steps


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("template", "size"), [("paper", UNCLIPPED), ("multi_turn_twice", CLIPPED)])
def test_two_steps_of_sgd_give_trls_weights(step_both, family, template, size):
    """Forward KL over the full vocabulary, frozen base, one rollout a prompt.

    Fault caught: a mean over tokens instead of over sequences, a position off by one, a teacher that moves.
    """
    ours, theirs = step_both(make_config(steps=2, template=template, **size), family=family)
    assert ours.norm() > 1e-4
    assert (theirs - ours).norm() < 1e-4 * ours.norm()


@pytest.mark.parametrize(
    ("objective", "alpha", "rate"),
    [({"kind": "reverse_kl"}, 1.0, 1e-3), ({"kind": "jsd", "alpha": 0.5}, 0.5, 4e-3)],
    ids=["reverse", "jsd"],
)
def test_other_objectives_give_trls_weights(step_both, objective, alpha, rate):
    """Fault caught: an objective that is asked for and not used, or used with another's scale.

    Near the teacher the gradient of the JSD is a quarter of the KL's; at the same rate, the last bits of the weights
    would be 1e-4 of what changes.
    """
    config = make_config(steps=2, objective=ObjectiveConfig(**objective), **UNCLIPPED | {"learning_rate": rate})
    ours, theirs = step_both(config, distillation_alpha=alpha)
    assert (theirs - ours).norm() < 1e-4 * ours.norm()


def test_first_tokens_without_loss_give_trls_weights(step_both):
    """Fault caught: a skip that is off by one, or that hides its tokens from attention too."""
    ours, theirs = step_both(make_config(steps=2, loss_skip_tokens=3, **UNCLIPPED))
    assert (theirs - ours).norm() < 1e-4 * ours.norm()


def test_a_completion_that_ends_before_the_skip_is_left_out_and_trl_counts_it_as_a_loss_of_zero(step_both):
    """A difference on purpose: with one of four too short, TRL's gradient is three quarters of ours."""
    config = make_config(steps=1, loss_skip_tokens=3, **UNCLIPPED)
    ours, theirs = step_both(config, lengths=(2, 9, 7, 5))
    assert (theirs - 0.75 * ours).norm() < 1e-4 * ours.norm()
