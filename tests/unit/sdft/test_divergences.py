"""Every objective against plain autograd on full logits in fp64, and against what is known of it by algebra."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.unit.sdft.test_loss import HEADS, NUM_ROWS, VOCABULARY, make_rows, reference_logits
from worker.sdft.divergences import Pair, forward_kl, jsd, reverse_kl
from worker.sdft.isdft import LOOK_STEPS, MAX_STEPS, TOLERANCE, isdft, solve_tilt
from worker.sdft.loss import Head, distil

pytestmark = pytest.mark.usefixtures("torchs_products")


def entries(kind: str, log_p_TV: Tensor, log_t_TV: Tensor, alpha: float = 0.5) -> Tensor:
    """What each vocabulary entry adds, as the definitions are written."""
    p_TV, t_TV = log_p_TV.exp(), log_t_TV.exp()
    if kind == "forward_kl":
        return t_TV * (log_t_TV - log_p_TV)
    if kind == "reverse_kl":
        return p_TV * (log_p_TV - log_t_TV)
    log_m_TV = (alpha * t_TV + (1 - alpha) * p_TV).log()
    return alpha * t_TV * (log_t_TV - log_m_TV) + (1 - alpha) * p_TV * (log_p_TV - log_m_TV)


OBJECTIVES = {
    "forward_kl": (forward_kl, partial(entries, "forward_kl")),
    "reverse_kl": (reverse_kl, partial(entries, "reverse_kl")),
} | {
    f"jsd {alpha}": (partial(jsd, alpha=alpha), partial(entries, "jsd", alpha=alpha))
    for alpha in (0.01, 0.1, 0.5, 0.9)
}  # fmt: skip
EVERY = [divergence for divergence, _ in OBJECTIVES.values()] + [partial(isdft, rho=rho) for rho in (0.0, 0.25, 1.0)]


def logits(seed: int, rows: int = 6, vocabulary: int = 40, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    """A student's and a teacher's, in fp64."""
    both = torch.randn(2, rows, vocabulary, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return both[0] * scale, both[1] * scale


def pair_of(student_TV: Tensor, teacher_TV: Tensor) -> Pair:
    return Pair.of(student_TV.log_softmax(-1), teacher_TV.log_softmax(-1))


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("chunk_rows", [1, 4, 100])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
@pytest.mark.parametrize("name", OBJECTIVES)
def test_fused_value_and_gradient_are_those_of_autograd(name, head, chunk_rows, clip):
    """Fault caught: a wrong factor, sign or direction; a chunk's edge; weights that do not reach the gradient."""
    divergence, define = OBJECTIVES[name]
    student_TH, teacher_TH, weight_VH, weights_T = make_rows()
    exact_TH = student_TH.double().requires_grad_()
    each_TV = define(
        *(reference_logits(rows, weight_VH, head).log_softmax(-1) for rows in (exact_TH, teacher_TH.double()))
    )
    exact = (weights_T * (each_TV.clamp(max=clip) if clip else each_TV).sum(-1)).sum()
    exact.backward()

    fused_TH = student_TH.clone().requires_grad_()
    loss, known = distil(
        fused_TH, teacher_TH, Head(weight_VH, **head), weights_T, chunk_elements=chunk_rows * VOCABULARY,
        divergence=partial(divergence, entry_clip=clip),
    )  # fmt: skip
    loss.backward()

    # Taking a clipped entry's large slope back out costs a digit.
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    assert (fused_TH.grad - exact_TH.grad).norm() < (1e-5 if clip else 1e-6) * exact_TH.grad.norm()
    assert len(known.loss_T) == NUM_ROWS


@pytest.mark.parametrize("divergence", EVERY)
def test_equal_distributions_have_no_loss_and_no_gradient(divergence):
    student_TV, _ = logits(0)
    loss_T, grad_TV = divergence(pair_of(student_TV.float(), student_TV.float()))
    assert loss_T.abs().max() < 1e-6
    assert grad_TV.abs().max() < 1e-6


@pytest.mark.parametrize(
    "divergence", [*EVERY, partial(forward_kl, entry_clip=0.05), partial(reverse_kl, entry_clip=0.05)]
)
def test_a_constant_added_to_all_logits_changes_nothing(divergence):
    """The gradient sums to 0 over the vocabulary; fault caught: a clipped entry's share that is not taken back."""
    _, grad_TV = divergence(pair_of(*logits(1)))
    assert grad_TV.abs().max() > 1e-3
    assert grad_TV.sum(-1).abs().max() < 1e-12


@pytest.mark.parametrize("divergence", EVERY)
def test_opposite_certainties_are_finite_and_never_negative(divergence):
    student_TV = torch.full((1, 50), -1000.0)
    teacher_TV = student_TV.clone()
    student_TV[0, 3] = teacher_TV[0, 7] = 1000.0
    loss_T, grad_TV = divergence(pair_of(student_TV, teacher_TV))
    assert 0 <= loss_T.item() < math.inf
    assert grad_TV.isfinite().all()


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_close_to_the_teacher_the_jsd_is_a_fixed_share_of_the_kl(alpha):
    """Fault caught: alpha and 1 - alpha swapped in one of the two halves."""
    student_TV, noise_TV = logits(2)
    pair = pair_of(student_TV, student_TV + 1e-3 * noise_TV)
    (jsd_T, jsd_grad_TV), (kl_T, kl_grad_TV) = jsd(pair, alpha=alpha), forward_kl(pair)
    torch.testing.assert_close(jsd_T, alpha * (1 - alpha) * kl_T, rtol=1e-2, atol=0)
    assert (jsd_grad_TV - alpha * (1 - alpha) * kl_grad_TV).norm() < 1e-2 * jsd_grad_TV.norm()


def test_the_reverse_gradient_is_what_single_sampled_tokens_give_on_average():
    """The mean over p of log(p / t) times the gradient of log p. Fault caught: the direction swapped."""
    student_TV, teacher_TV = logits(3)
    pair = pair_of(student_TV, teacher_TV)
    score_TVV = torch.eye(student_TV.shape[-1], dtype=torch.float64) - pair.p_CV[:, None, :]
    expected_TV = ((pair.p_CV * (pair.log_p_CV - pair.log_t_CV))[:, :, None] * score_TVV).sum(1)
    assert (reverse_kl(pair)[1] - expected_TV).abs().max() < 1e-12


@pytest.mark.parametrize("k", [1, 5, 39, 40])
def test_less_of_the_vocabulary_never_sees_more_of_the_divergence(k):
    """Top tokens and one bucket for the tail: at most the full KL, all of it at the whole vocabulary."""
    student_TV, teacher_TV = logits(4)
    pair = pair_of(student_TV, teacher_TV)
    kept_TK = student_TV.topk(k).indices
    parts = [log_TV.exp().gather(-1, kept_TK) for log_TV in (pair.log_p_CV, pair.log_t_CV)]
    p_TK, t_TK = (torch.cat([part, (1 - part.sum(-1, keepdim=True)).clamp(min=1e-300)], dim=-1) for part in parts)
    bucketed_T = (t_TK * (t_TK.log() - p_TK.log())).sum(-1)
    full_T, _ = forward_kl(pair)
    assert (bucketed_T <= full_T + 1e-12).all()
    assert torch.allclose(bucketed_T, full_T, atol=1e-10) == (k >= 39)


def test_no_entry_counts_for_more_than_the_clip_and_the_rest_still_teaches():
    """As with one style token that dwarfs all others."""
    student_TV, teacher_TV = logits(5, rows=1)
    teacher_TV[0, 7] += 12
    pair = pair_of(student_TV, teacher_TV)
    whole, _ = forward_kl(pair)
    clipped, grad_TV = forward_kl(pair, entry_clip=0.05)
    rest = entries("forward_kl", pair.log_p_CV, pair.log_t_CV).clone()
    assert rest[0, 7] > 5
    rest[0, 7] = 0
    assert whole.item() > 5 > clipped.item() == pytest.approx(rest.sum().item() + 0.05)
    assert grad_TV[0, 7] > 0  # no pull towards it; the others push against its probability
    assert grad_TV.abs().max() > 1e-6


@pytest.mark.parametrize("chunk_rows", [1, 5, 100])
def test_the_anchor_adds_its_divergence_and_its_gradient_in_the_same_pass(chunk_rows):
    """Fault caught: the anchor's direction, its weight, or its part of a chunk."""
    student_TH, teacher_TH, weight_VH, weights_T = make_rows()
    parent_TH = make_rows(seed=9)[0]
    exact_TH = student_TH.double().requires_grad_()
    log_p_TV, log_t_TV, log_parent_TV = (
        (rows.double() @ weight_VH.double().T).log_softmax(-1) for rows in (exact_TH, teacher_TH, parent_TH)
    )
    anchor_T = entries("forward_kl", log_p_TV, log_parent_TV).sum(-1)
    exact = (weights_T * (entries("reverse_kl", log_p_TV, log_t_TV).sum(-1) + 0.3 * anchor_T)).sum()
    exact.backward()

    fused_TH = student_TH.clone().requires_grad_()
    loss, known = distil(
        fused_TH, teacher_TH, Head(weight_VH), weights_T, divergence=reverse_kl, parent_TH=parent_TH,
        anchor_weight=0.3, chunk_elements=chunk_rows * VOCABULARY,
    )  # fmt: skip
    loss.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    assert (fused_TH.grad - exact_TH.grad).norm() < 1e-6 * exact_TH.grad.norm()
    torch.testing.assert_close(known.anchor_T, anchor_T.float().detach(), rtol=1e-4, atol=1e-5)


def bisected(pair: Pair, rho: float) -> Tensor:
    """The tilt by 40 bisections."""
    advantage_TV = pair.log_t_CV - pair.log_p_CV
    goal_T = rho * (pair.t_CV * advantage_TV).sum(-1)
    low_T, high_T = torch.zeros_like(goal_T), torch.ones_like(goal_T)
    for _ in range(40):
        middle_T = (low_T + high_T) / 2
        q_TV = (pair.log_p_CV + middle_T[:, None] * advantage_TV).softmax(-1)
        enough_T = (q_TV * advantage_TV).sum(-1) >= goal_T
        low_T, high_T = torch.where(enough_T, low_T, middle_T), torch.where(enough_T, middle_T, high_T)
    return high_T


def tilt(pair: Pair, rho: float) -> Tensor:
    advantage_TV = pair.log_t_CV - pair.log_p_CV
    return solve_tilt(pair.log_p_CV, advantage_TV, rho * (pair.t_CV * advantage_TV).sum(-1))[:, 0]


@pytest.mark.parametrize("rho", [0.0, 0.25, 0.7, 0.99, 0.9999])
@pytest.mark.parametrize("scale", [0.01, 0.5, 2.0, 8.0, 30.0])
def test_newton_reaches_what_bisection_reaches(scale, rho):
    """Fault caught: a derivative that is not the variance; a step that leaves the bracket."""
    pair = pair_of(*logits(6, rows=200, scale=scale))
    assert (tilt(pair, rho) - bisected(pair, rho)).abs().max() < 1e-6


@pytest.mark.parametrize("scale", [0.5, 8.0])
def test_a_tilt_that_is_looked_at_only_now_and_then_is_the_same(scale, monkeypatch):
    """As on an accelerator. Fault caught: a loop that goes on to its end there, or stops before it is enough."""
    looks, looked = [], torch.Tensor.__lt__
    monkeypatch.setattr("worker.sdft.isdft._look_steps", lambda _: LOOK_STEPS)
    monkeypatch.setattr(torch.Tensor, "__lt__", lambda one, other: looks.append(other) or looked(one, other))
    pair = pair_of(*logits(6, rows=200, scale=scale))
    assert (tilt(pair, 0.25) - bisected(pair, 0.25)).abs().max() < 1e-6
    assert 0 < looks.count(TOLERANCE) < MAX_STEPS / LOOK_STEPS


@pytest.mark.parametrize("rho", [0.0, 0.25, 0.7])
def test_four_steps_are_enough_where_student_and_teacher_are_soft(rho, monkeypatch):
    """Fault caught: bisection alone, which would be off by up to 2**-5 here."""
    monkeypatch.setattr("worker.sdft.isdft.MAX_STEPS", 4)
    pair = pair_of(*logits(6, rows=200, scale=0.5))
    assert (tilt(pair, rho) - bisected(pair, rho)).abs().max() < 1e-9


def test_the_target_has_just_the_advantage_that_was_asked_for_and_more_is_further():
    pair = pair_of(*logits(7, rows=50))
    advantage_TV = pair.log_t_CV - pair.log_p_CV
    rhos = (0.0, 0.25, 0.5, 0.75, 0.999)
    tilts = [tilt(pair, rho) for rho in rhos]
    for rho, tilt_T in zip(rhos, tilts, strict=True):
        q_TV = (pair.log_p_CV + tilt_T[:, None] * advantage_TV).softmax(-1)
        has_T, wanted_T = (q_TV * advantage_TV).sum(-1), rho * (pair.t_CV * advantage_TV).sum(-1)
        torch.testing.assert_close(has_T, wanted_T, atol=1e-6, rtol=1e-6)
    assert all((one < more).all() for one, more in pairwise(tilts))
    assert tilts[-1].min() > 0.99


def test_all_of_the_advantage_is_plain_self_distillation():
    pair = pair_of(*logits(8))
    for of_isdft, of_sdft in zip(isdft(pair, rho=1.0), forward_kl(pair), strict=True):
        torch.testing.assert_close(of_isdft, of_sdft)


def test_a_target_that_is_the_student_itself_teaches_nothing(monkeypatch):
    monkeypatch.setattr("worker.sdft.isdft.solve_tilt", lambda _, __, goal_C: torch.zeros_like(goal_C)[:, None])
    loss_T, grad_TV = isdft(pair_of(*logits(9)), rho=0.5)
    assert loss_T.abs().max() < 1e-12
    assert grad_TV.abs().max() < 1e-12


def test_the_target_is_a_constant_and_its_gradient_is_student_minus_target():
    """Fault caught: a gradient that flows through the target, or one towards the teacher instead."""
    pair = pair_of(*logits(10))
    tilt_T = bisected(pair, 0.25)
    q_TV = (pair.log_p_CV + tilt_T[:, None] * (pair.log_t_CV - pair.log_p_CV)).softmax(-1)
    torch.testing.assert_close(isdft(pair, rho=0.25)[1], pair.p_CV - q_TV, atol=1e-6, rtol=1e-6)
