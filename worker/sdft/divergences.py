"""How far a student is from its teacher at each position: value, and gradient with respect to the student's logits.

Knows distributions over a vocabulary and nothing of where they come from. The teacher's is a constant.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pair:
    """What student (p) and teacher (t) predict at the same positions."""

    log_p_CV: Tensor
    p_CV: Tensor
    log_t_CV: Tensor
    t_CV: Tensor

    @classmethod
    def of(cls, log_p_CV: Tensor, log_t_CV: Tensor) -> "Pair":
        """From log-probabilities in fp32."""
        return cls(log_p_CV, log_p_CV.exp(), log_t_CV, log_t_CV.exp())


MAX_GAP = 80.0
"""Nats beyond which an exponential would overflow in fp32; the smaller of the two probabilities is then nothing."""

Divergence = Callable[[Pair], tuple[Tensor, Tensor]]
"""From a pair to the divergence [C] and the gradient of the student's logits [C, V]."""


# Sums run over products t * (log t - log p): as a difference of two sums they lose a hundredfold of precision.


def forward_kl(pair: Pair, *, entry_clip: float | None = None) -> tuple[Tensor, Tensor]:
    """KL(t || p): the student must cover whatever the teacher would say.

    The paper prints the reverse direction; its authors state that its results used this one.
    """
    entries_CV = pair.t_CV * (pair.log_t_CV - pair.log_p_CV)
    grad_CV = pair.p_CV - pair.t_CV
    if entry_clip is None:
        return entries_CV.sum(-1), grad_CV
    return _clipped(pair, entries_CV, -pair.t_CV, grad_CV, entry_clip)


def reverse_kl(pair: Pair, *, entry_clip: float | None = None) -> tuple[Tensor, Tensor]:
    """KL(p || t): the student must say nothing that the teacher would not."""
    ratio_CV = pair.log_p_CV - pair.log_t_CV
    entries_CV = pair.p_CV * ratio_CV
    loss_C = entries_CV.sum(-1)
    grad_CV = pair.p_CV * (ratio_CV - loss_C[:, None])
    if entry_clip is None:
        return loss_C, grad_CV
    return _clipped(pair, entries_CV, pair.p_CV * (ratio_CV + 1), grad_CV, entry_clip)


def jsd(pair: Pair, *, alpha: float, entry_clip: float | None = None) -> tuple[Tensor, Tensor]:
    """Both to their mixture m = alpha t + (1 - alpha) p, 0 < alpha < 1: alpha KL(t || m) + (1 - alpha) KL(p || m).

    Never above the entropy of alpha. Close to the teacher it is alpha (1 - alpha) times the KL, and so is its gradient.
    """
    # log p - log m and log t - log m, each without a difference of nearly equal numbers where one weight is small.
    gap_CV = pair.log_t_CV - pair.log_p_CV
    to_student_CV = -torch.log1p(alpha * torch.expm1(gap_CV.clamp(max=MAX_GAP)))
    to_teacher_CV = -torch.log1p((1 - alpha) * torch.expm1(-gap_CV.clamp(min=-MAX_GAP)))
    student_CV = (1 - alpha) * pair.p_CV * to_student_CV
    entries_CV = alpha * pair.t_CV * to_teacher_CV + student_CV
    grad_CV = student_CV - pair.p_CV * student_CV.sum(-1, keepdim=True)
    if entry_clip is None:
        return entries_CV.sum(-1), grad_CV
    return _clipped(pair, entries_CV, student_CV, grad_CV, entry_clip)


def _clipped(
    pair: Pair, entries_CV: Tensor, slopes_CV: Tensor, grad_CV: Tensor, entry_clip: float
) -> tuple[Tensor, Tensor]:
    """Let no vocabulary entry count for more than ``entry_clip``; one that would is a constant and teaches nothing.

    Args:
        pair: Of the entries.
        entries_CV: What each adds to the divergence.
        slopes_CV: Derivative of each with respect to its own log p.
        grad_CV: Gradient of the logits without the limit.
        entry_clip: Nats.
    """
    lost_CV = slopes_CV.where(entries_CV > entry_clip, 0.0)
    return entries_CV.clamp(max=entry_clip).sum(-1), grad_CV - lost_CV + pair.p_CV * lost_CV.sum(-1, keepdim=True)
