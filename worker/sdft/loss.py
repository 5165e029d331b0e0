"""Divergence of two next-token distributions from hidden states, without ever holding a batch's logits.

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
        """Logits in fp32, [T, V]."""
        logits_TV = torch.nn.functional.linear(hidden_TH, self.weight_VH, self.bias_V).float()
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
        return grad_TV.to(self.weight_VH.dtype) @ self.weight_VH


@dataclass(frozen=True)
class Positions:
    """What is known of every loss position, without a graph.

    Args:
        loss_T: Divergence or cross-entropy.
        student_entropy_T: Nats.
        teacher_entropy_T: Nats; zero for a hard target.
        overlap_T: Share of the student's most likely tokens that are among the teacher's.
        agreement_T: 1 where the student's most likely token is the target's.
    """

    loss_T: Tensor
    student_entropy_T: Tensor
    teacher_entropy_T: Tensor
    overlap_T: Tensor
    agreement_T: Tensor

    def means(self, num_rows: list[int]) -> list[dict[str, float]]:
        """Averages over each of the sequences that the positions are made of, by name."""
        columns_5T = torch.stack(list(vars(self).values()))
        means_S5 = torch.stack([part_5t.mean(-1) for part_5t in columns_5T.split(num_rows, dim=-1)]).tolist()
        names = [name.removesuffix("_T") for name in vars(self)]
        return [dict(zip(names, values, strict=True)) for values in means_S5]


_Chunk = Callable[[slice, Tensor], tuple[Positions, Tensor]]
"""From a chunk's place and its log p [C, V] to what is known of it and the gradient of its logits [C, V]."""


def forward_kl(
    student_TH: Tensor, teacher_TH: Tensor, head: Head, weights_T: Tensor, *, chunk_elements: int = CHUNK_ELEMENTS
) -> tuple[Tensor, Positions]:
    """Weighted sum of KL(teacher || student) over the full vocabulary; gradient of the logits is p - T.

    The paper prints the reverse direction; its authors state that its results used this one.
    """

    def chunk(part: slice, log_p_CV: Tensor) -> tuple[Positions, Tensor]:
        log_t_CV = head.logits(teacher_TH[part]).log_softmax(-1)
        p_CV, t_CV = log_p_CV.exp(), log_t_CV.exp()
        top_p_CK, top_t_CK = (
            log_CV.topk(min(OVERLAP_TOP_K, log_CV.shape[-1])).indices for log_CV in (log_p_CV, log_t_CV)
        )
        known = Positions(
            # Element by element: as a difference of two sums it loses a hundredfold of precision.
            loss_T=(t_CV * (log_t_CV - log_p_CV)).sum(-1),
            student_entropy_T=_entropy(p_CV, log_p_CV),
            teacher_entropy_T=_entropy(t_CV, log_t_CV),
            overlap_T=(top_p_CK[:, :, None] == top_t_CK[:, None, :]).any(-1).float().mean(-1),
            agreement_T=(top_p_CK[:, 0] == top_t_CK[:, 0]).float(),
        )
        return known, p_CV - t_CV

    return _run(student_TH, head, weights_T, chunk, chunk_elements)


def cross_entropy(
    student_TH: Tensor, targets_T: Tensor, head: Head, weights_T: Tensor, *, chunk_elements: int = CHUNK_ELEMENTS
) -> tuple[Tensor, Positions]:
    """Weighted sum of -log p(target): forward KL to a teacher that is certain."""

    def chunk(part: slice, log_p_CV: Tensor) -> tuple[Positions, Tensor]:
        target_C1 = targets_T[part, None]
        p_CV = log_p_CV.exp()
        entropy_C = _entropy(p_CV, log_p_CV)
        agreement_C = (log_p_CV.argmax(-1, keepdim=True) == target_C1).float()[:, 0]
        known = Positions(
            loss_T=-log_p_CV.gather(-1, target_C1)[:, 0],
            student_entropy_T=entropy_C,
            teacher_entropy_T=torch.zeros_like(entropy_C),
            overlap_T=agreement_C,
            agreement_T=agreement_C,
        )
        return known, p_CV.scatter_add(-1, target_C1, torch.full_like(target_C1, -1, dtype=p_CV.dtype))

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
        known = []
        for part in (slice(start, start + rows) for start in range(0, len(student_TH), rows)):
            logits_CV = head.logits(student_TH[part])
            positions, grad_CV = chunk(part, logits_CV.log_softmax(-1))
            known.append(positions)
            if grad_TH is not None:
                grad_TH[part] = head.pull_back(grad_CV.mul_(weights_T[part, None]), logits_CV)
        ctx.grad_TH = grad_TH
        columns = [torch.cat(column) for column in zip(*(vars(positions).values() for positions in known), strict=True)]
        ctx.mark_non_differentiable(*columns)
        return (columns[0] * weights_T).sum(), *columns

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_known: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        return ctx.grad_TH * grad, None, None, None, None


def _entropy(p_CV: Tensor, log_p_CV: Tensor) -> Tensor:
    return -(p_CV * log_p_CV).sum(-1)
