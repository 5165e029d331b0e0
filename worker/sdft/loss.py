"""The loss of next-token distributions from hidden states, without ever holding a batch's logits.

Value and gradient come from one pass over chunks of positions: a chunk's logits are made, used and dropped. The head is
frozen, so only the gradient of the hidden states exists. Logsumexp, softmax and divergence are fp32, whatever the
network computes in: a bf16 log-softmax gives negative KL and a spurious gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from worker.sdft.divergences import Divergence, Pair, forward_kl
from worker.sdft.products import linear

CHUNK_ELEMENTS = 1 << 23
"""Logits of a chunk: 32 MB in fp32. Each chunk reads the whole head, so that much smaller ones take longer."""
OVERLAP_TOP_K = 10


@dataclass(frozen=True)
class Head:
    """The frozen map from hidden states to logits.

    Args:
        weight_VH: Output embedding.
        bias_V: Added to the product, if the architecture has one.
        scale: Multiplies the logits.
        softcap: Logits become ``softcap * tanh(logits / softcap)``, after the scale.
    """

    weight_VH: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden_TH: Tensor) -> Tensor:
        """Logits in fp32, [T, V], without a graph."""
        logits_TV = linear(hidden_TH, self.weight_VH, self.bias_V).float()
        if self.scale != 1.0:
            logits_TV = logits_TV * self.scale
        if self.softcap is not None:
            logits_TV = torch.tanh(logits_TV / self.softcap) * self.softcap
        return logits_TV

    def pull_back(self, grad_TV: Tensor, logits_TV: Tensor) -> Tensor:
        """Gradient of the hidden states from the gradient of the logits that ``logits`` gave, [T, H]."""
        if self.softcap is not None:
            grad_TV = grad_TV * (1 - (logits_TV / self.softcap).square())
        if self.scale != 1.0:
            grad_TV = grad_TV * self.scale
        return linear(grad_TV.to(self.weight_VH.dtype), self.weight_VH.T)


@dataclass(frozen=True)
class Positions:
    """What is known of every loss position, without a graph.

    Args:
        loss_T: Divergence or cross-entropy.
        student_entropy_T: Nats.
        teacher_entropy_T: Nats; zero for a hard target.
        overlap_T: Share of the student's most likely tokens that are among the teacher's.
        agreement_T: 1 where the student's most likely token is the target's.
        anchor_T: KL(parent || student); zero without an anchor.
    """

    loss_T: Tensor
    student_entropy_T: Tensor
    teacher_entropy_T: Tensor
    overlap_T: Tensor
    agreement_T: Tensor
    anchor_T: Tensor

    def means(self, num_rows: list[int]) -> list[dict[str, float]]:
        """Averages over each of the sequences that the positions are made of, by name."""
        columns_NT = torch.stack(list(vars(self).values()))
        means_SN = torch.stack([part_Nt.mean(-1) for part_Nt in columns_NT.split(num_rows, dim=-1)]).tolist()
        names = [name.removesuffix("_T") for name in vars(self)]
        return [dict(zip(names, values, strict=True)) for values in means_SN]


_Chunk = Callable[[slice, Tensor], tuple[Tensor, Positions, Tensor]]
"""From a chunk's place and its log p [C, V] to its loss [C], what is known of it and the gradient of its logits
[C, V]."""


def distil(
    student_TH: Tensor,
    teacher_TH: Tensor,
    head: Head,
    weights_T: Tensor,
    *,
    divergence: Divergence = forward_kl,
    parent_TH: Tensor | None = None,
    anchor_weight: float = 0.0,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[Tensor, Positions]:
    """Weighted sum of the divergence from the teacher over the full vocabulary, plus that of the anchor.

    Args:
        student_TH: With a graph.
        teacher_TH: Of the same tokens, the demonstration before them.
        head: Frozen.
        weights_T: Of each position.
        divergence: Of student and teacher.
        parent_TH: Of the same tokens, as the point where the job began sees them without a demonstration.
        anchor_weight: Of KL(parent || student), added to the divergence.
        chunk_elements: Logits that may exist at once.
    """

    def chunk(part: slice, log_p_CV: Tensor) -> tuple[Tensor, Positions, Tensor]:
        pair = Pair.of(log_p_CV, head.logits(teacher_TH[part]).log_softmax(-1))
        loss_C, grad_CV = divergence(pair)
        total_C, anchor_C = loss_C, torch.zeros_like(loss_C)
        if parent_TH is not None:
            log_parent_CV = head.logits(parent_TH[part]).log_softmax(-1)
            anchor_C, anchor_grad_CV = forward_kl(Pair(log_p_CV, pair.p_CV, log_parent_CV, log_parent_CV.exp()))
            total_C, grad_CV = loss_C + anchor_weight * anchor_C, grad_CV.add_(anchor_grad_CV, alpha=anchor_weight)
        top_p_CK, top_t_CK = (
            log_CV.topk(min(OVERLAP_TOP_K, log_CV.shape[-1])).indices for log_CV in (log_p_CV, pair.log_t_CV)
        )
        known = Positions(
            loss_T=loss_C,
            student_entropy_T=_entropy(pair.p_CV, log_p_CV),
            teacher_entropy_T=_entropy(pair.t_CV, pair.log_t_CV),
            overlap_T=(top_p_CK[:, :, None] == top_t_CK[:, None, :]).any(-1).float().mean(-1),
            agreement_T=(top_p_CK[:, 0] == top_t_CK[:, 0]).float(),
            anchor_T=anchor_C,
        )
        return total_C, known, grad_CV

    return _run(student_TH, head, weights_T, chunk, chunk_elements)


def cross_entropy(
    student_TH: Tensor, targets_T: Tensor, head: Head, weights_T: Tensor, *, chunk_elements: int = CHUNK_ELEMENTS
) -> tuple[Tensor, Positions]:
    """Weighted sum of -log p(target): forward KL to a teacher that is certain."""

    def chunk(part: slice, log_p_CV: Tensor) -> tuple[Tensor, Positions, Tensor]:
        target_C1 = targets_T[part, None]
        p_CV = log_p_CV.exp()
        loss_C = -log_p_CV.gather(-1, target_C1)[:, 0]
        entropy_C = _entropy(p_CV, log_p_CV)
        agreement_C = (log_p_CV.argmax(-1, keepdim=True) == target_C1).float()[:, 0]
        known = Positions(
            loss_T=loss_C,
            student_entropy_T=entropy_C,
            teacher_entropy_T=torch.zeros_like(entropy_C),
            overlap_T=agreement_C,
            agreement_T=agreement_C,
            anchor_T=torch.zeros_like(entropy_C),
        )
        return loss_C, known, p_CV.scatter_add(-1, target_C1, torch.full_like(target_C1, -1, dtype=p_CV.dtype))

    return _run(student_TH, head, weights_T, chunk, chunk_elements)


def _run(
    student_TH: Tensor, head: Head, weights_T: Tensor, chunk: _Chunk, chunk_elements: int
) -> tuple[Tensor, Positions]:
    rows = max(1, chunk_elements // head.weight_VH.shape[0])
    loss, *known = _Fused.apply(student_TH, head, weights_T, chunk, rows)  # type: ignore[no-untyped-call]
    return loss, Positions(*known)


class _Fused(torch.autograd.Function):
    """Sum of weight x loss over positions, and in the same pass its gradient with respect to the hidden states."""

    @staticmethod
    def forward(  # noqa: PLR0917 - torch passes arguments by position
        ctx: Any, student_TH: Tensor, head: Head, weights_T: Tensor, chunk: _Chunk, rows: int
    ) -> tuple[Tensor, ...]:
        grad_TH = torch.empty_like(student_TH) if ctx.needs_input_grad[0] else None
        losses, known = [], []
        for part in (slice(start, start + rows) for start in range(0, len(student_TH), rows)):
            logits_CV = head.logits(student_TH[part])
            loss_C, positions, grad_CV = chunk(part, logits_CV.log_softmax(-1))
            losses.append(loss_C)
            known.append(positions)
            if grad_TH is not None:
                grad_TH[part] = head.pull_back(grad_CV.mul_(weights_T[part, None]), logits_CV)
        ctx.grad_TH = grad_TH
        columns = [torch.cat(column) for column in zip(*(vars(positions).values() for positions in known), strict=True)]
        ctx.mark_non_differentiable(*columns)
        return (torch.cat(losses) * weights_T).sum(), *columns

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_known: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        return ctx.grad_TH * grad, None, None, None, None


def _entropy(p_CV: Tensor, log_p_CV: Tensor) -> Tensor:
    return -(p_CV * log_p_CV).sum(-1)
