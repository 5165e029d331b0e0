"""The loss of next-token distributions from hidden states, without ever holding a batch's logits.

Value and gradient come from one pass over chunks of positions [C]: a chunk's logits are made by one product, compared a
block of positions [B] at a time, and dropped. The head is frozen, so only the gradient of the hidden states exists.
Logsumexp, softmax and divergence are fp32, whatever the network computes in: a bf16 log-softmax gives negative KL and a
spurious gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from worker.sdft.divergences import Divergence, Pair, forward_kl
from worker.sdft.products import linear

CHUNK_ELEMENTS = 1 << 24
"""Logits of a chunk, of all that are compared: 64 MB in fp32. Each chunk reads the whole head: half as many took 1.3 of
the time."""
BLOCK_ELEMENTS = 1 << 18
"""Logits of a block: 1 MB, which a processor's cache holds. Comparing takes ten tensors of this size."""
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
        return self.finish(linear(hidden_TH, self.weight_VH, self.bias_V).float())

    def finish(self, logits_TV: Tensor) -> Tensor:
        """Logits from the product with weight and bias, whose place they take, [T, V]."""
        if self.scale != 1.0:
            logits_TV.mul_(self.scale)
        if self.softcap is not None:
            logits_TV.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits_TV

    def product_grad(self, grad_TV: Tensor, logits_TV: Tensor) -> Tensor:
        """Gradient of the product with the weight from that of the logits, which it takes the place of, [T, V]."""
        if self.softcap is not None:
            grad_TV.mul_(1 - (logits_TV / self.softcap).square())
        return grad_TV.mul_(self.scale) if self.scale != 1.0 else grad_TV

    def pull_back(self, grad_TV: Tensor) -> Tensor:
        """Gradient of the hidden states from that of the product with the weight, [T, H]."""
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

    def means(self, num_rows: list[int]) -> Tensor:
        """Averages over each of the sequences that the positions are made of, [S, N], still on their device."""
        columns_NT = torch.stack(list(vars(self).values()))
        return torch.stack([part_Nt.mean(-1) for part_Nt in columns_NT.split(num_rows, dim=-1)])

    @classmethod
    def by_name(cls, means_SN: Tensor) -> list[dict[str, float]]:
        """Those averages by name; waits for their device."""
        names = [field.name.removesuffix("_T") for field in fields(cls)]
        return [dict(zip(names, values, strict=True)) for values in means_SN.tolist()]


_Compare = Callable[..., tuple[Tensor, Positions, Tensor]]
"""From a block's place and log-probabilities [B, V], the student's first, to its loss [B], what is known of it and the
gradient of the student's logits [B, V]."""


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

    def compare(
        _place: slice, log_p_BV: Tensor, log_t_BV: Tensor, log_parent_BV: Tensor | None = None
    ) -> tuple[Tensor, Positions, Tensor]:
        pair = Pair.of(log_p_BV, log_t_BV)
        loss_B, grad_BV = divergence(pair)
        total_B, anchor_B = loss_B, torch.zeros_like(loss_B)
        if log_parent_BV is not None:
            anchor_B, anchor_grad_BV = forward_kl(Pair(log_p_BV, pair.p_CV, log_parent_BV, log_parent_BV.exp()))
            total_B, grad_BV = loss_B + anchor_weight * anchor_B, grad_BV.add_(anchor_grad_BV, alpha=anchor_weight)
        top_p_BK, top_t_BK = (
            log_BV.topk(min(OVERLAP_TOP_K, log_BV.shape[-1])).indices for log_BV in (log_p_BV, log_t_BV)
        )
        known = Positions(
            loss_T=loss_B,
            student_entropy_T=_entropy(pair.p_CV, log_p_BV),
            teacher_entropy_T=_entropy(pair.t_CV, log_t_BV),
            overlap_T=(top_p_BK[:, :, None] == top_t_BK[:, None, :]).any(-1).float().mean(-1),
            agreement_T=(top_p_BK[:, 0] == top_t_BK[:, 0]).float(),
            anchor_T=anchor_B,
        )
        return total_B, known, grad_BV

    others = [teacher_TH] if parent_TH is None else [teacher_TH, parent_TH]
    return _run(student_TH, others, head, weights_T, compare, chunk_elements)


def cross_entropy(
    student_TH: Tensor, targets_T: Tensor, head: Head, weights_T: Tensor, *, chunk_elements: int = CHUNK_ELEMENTS
) -> tuple[Tensor, Positions]:
    """Weighted sum of -log p(target): forward KL to a teacher that is certain."""

    def compare(place: slice, log_p_BV: Tensor) -> tuple[Tensor, Positions, Tensor]:
        target_B1 = targets_T[place, None]
        p_BV = log_p_BV.exp()
        loss_B = -log_p_BV.gather(-1, target_B1)[:, 0]
        entropy_B = _entropy(p_BV, log_p_BV)
        agreement_B = (log_p_BV.argmax(-1, keepdim=True) == target_B1).float()[:, 0]
        known = Positions(
            loss_T=loss_B,
            student_entropy_T=entropy_B,
            teacher_entropy_T=torch.zeros_like(entropy_B),
            overlap_T=agreement_B,
            agreement_T=agreement_B,
            anchor_T=torch.zeros_like(entropy_B),
        )
        return loss_B, known, p_BV.scatter_add_(-1, target_B1, torch.full_like(target_B1, -1, dtype=p_BV.dtype))

    return _run(student_TH, [], head, weights_T, compare, chunk_elements)


def _run(  # noqa: PLR0917 - as ``_Fused`` has them
    student_TH: Tensor, others: list[Tensor], head: Head, weights_T: Tensor, compare: _Compare, chunk_elements: int
) -> tuple[Tensor, Positions]:
    rows = max(1, chunk_elements // (len(head.weight_VH) * (1 + len(others))))
    loss, known_NT = _Fused.apply(student_TH, others, head, weights_T, compare, rows)  # type: ignore[no-untyped-call]
    return loss, Positions(*known_NT)


class _Fused(torch.autograd.Function):
    """Sum of weight x loss over positions, and in the same pass its gradient with respect to the hidden states."""

    @staticmethod
    def forward(  # noqa: PLR0917 - torch passes arguments by position
        ctx: Any, student_TH: Tensor, others: list[Tensor], head: Head, weights_T: Tensor, compare: _Compare, rows: int
    ) -> tuple[Tensor, Tensor]:
        ctx.grad_TH = torch.empty_like(student_TH) if ctx.needs_input_grad[0] else None
        # Made before the logits: what stays, wherever it lies among what goes, keeps the heap from being used again.
        found_NT = weights_T.new_empty(1 + len(fields(Positions)), len(student_TH))
        for chunk in _slices(0, len(student_TH), rows):
            _compare_chunk(chunk, [student_TH, *others], head, weights_T, compare, found_NT, ctx.grad_TH)
        loss_T, known_NT = found_NT[0], found_NT[1:]
        ctx.mark_non_differentiable(known_NT)
        return (loss_T * weights_T).sum(), known_NT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _known_NT: Tensor) -> tuple[Tensor | None, None, None, None, None, None]:
        return ctx.grad_TH * grad, None, None, None, None, None


def _compare_chunk(  # noqa: PLR0917 - as ``_Fused`` has them
    chunk: slice, hidden: list[Tensor], head: Head, weights_T: Tensor, compare: _Compare,
    found_NT: Tensor, grad_TH: Tensor | None,
) -> None:  # fmt: skip
    """Write a chunk's losses, what is known of it and the gradient of the student's hidden states.

    One tensor holds all logits, then the gradient in place of the student's, and is gone at the end. Of several that
    live into the next chunk, glibc, which cannot put an aligned block where one of the same size has been, makes a heap
    that grows with every chunk.
    """
    logits_CV, *others = head.logits(torch.cat([hidden_TH[chunk] for hidden_TH in hidden])).chunk(len(hidden))
    rows = len(logits_CV)  # at once on an accelerator, where each operation waits to begin
    if logits_CV.device.type == "cpu":
        rows = max(torch.get_num_threads(), BLOCK_ELEMENTS // logits_CV.shape[-1])  # threads share a block by its rows
    for place in _slices(chunk.start, chunk.stop, rows):
        block = slice(place.start - chunk.start, place.stop - chunk.start)
        logits_BV = logits_CV[block]
        log_others = [other_CV[block].log_softmax(-1) for other_CV in others]
        loss_B, known, grad_BV = compare(place, logits_BV.log_softmax(-1), *log_others)
        found_NT[:, place] = torch.stack([loss_B, *vars(known).values()])
        if grad_TH is not None:
            logits_BV.copy_(head.product_grad(grad_BV.mul_(weights_T[place, None]), logits_BV))
    if grad_TH is not None:
        grad_TH[chunk] = head.pull_back(logits_CV)


def _slices(start: int, stop: int, step: int) -> list[slice]:
    return [slice(first, min(first + step, stop)) for first in range(start, stop, step)]


def _entropy(p_CV: Tensor, log_p_CV: Tensor) -> Tensor:
    return -(p_CV * log_p_CV).sum(-1)
