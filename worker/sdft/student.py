"""The student's part of a step: hidden states with a graph, the divergence, the gradient on its weights.

Parts side by side and micro-batches change nothing but time and memory: every position carries its weight in the step's
mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import Parameter

from worker.sdft.align import Aligned, row_weights
from worker.sdft.divergences import Divergence, forward_kl
from worker.sdft.loss import CHUNK_ELEMENTS, Positions, cross_entropy, distil
from worker.sdft.policy import Policy
from worker.sdft.side_by_side import side_by_side
from worker.sdft.tree import alike, batches


def backward(
    policy: Policy,
    sequences: Sequence[Aligned],
    teacher: Sequence[Tensor] | None,
    *,
    max_tokens: int,
    divergence: Divergence = forward_kl,
    parent: Sequence[Tensor] | None = None,
    anchor_weight: float = 0.0,
) -> list[dict[str, float]]:
    """Add the gradient of the mean loss to the student's weights.

    Args:
        policy: Student and head.
        sequences: Each with at least one loss position.
        teacher: Hidden states [T, H] a sequence; without them the target is the completion itself.
        max_tokens: Padded tokens of a micro-batch.
        divergence: Of student and teacher.
        parent: Hidden states [T, H] a sequence that the anchor holds the student to.
        anchor_weight: Of KL(parent || student).

    Returns:
        What is known of the positions (``Positions``), averaged over each sequence.
    """
    weights = row_weights(sequences)
    groups = _groups(sequences, max_tokens, policy.num_lanes)
    parts = [
        _Part(
            [sequences[place] for place in group],
            [weights[place] for place in group],
            [teacher[place] for place in group] if teacher is not None else None,
            [parent[place] for place in group] if parent is not None else None,
        )
        for group in groups
    ]
    parameters = list(policy.parameters().values())
    share = max(1, len(parts))
    gradient = partial(
        _gradient, policy, parameters, max_tokens=max_tokens // share, chunk_elements=CHUNK_ELEMENTS // share,
        divergence=divergence, anchor_weight=anchor_weight,
    )  # fmt: skip
    known: dict[int, dict[str, float]] = {}
    for group, (total, means) in zip(groups, side_by_side(gradient, parts, policy.num_lanes), strict=True):
        for parameter, found in zip(parameters, total, strict=True):
            parameter.grad = _sum(parameter.grad, found)
        known |= zip(group, means, strict=True)
    return [known[place] for place in range(len(sequences))]


def _groups(sequences: Sequence[Aligned], max_tokens: int, num_lanes: int) -> list[list[int]]:
    """Places of sequences that are computed in one part; all parts together hold no more than one micro-batch would."""
    ids = [one.prompt + one.completion for one in sequences]
    return alike(ids, min(num_lanes, max_tokens // max(map(len, ids), default=1)))


@dataclass(frozen=True)
class _Part:
    """Some of a step's sequences, with what belongs to each."""

    sequences: list[Aligned]
    weights: list[float]
    teacher: list[Tensor] | None
    parent: list[Tensor] | None


def _gradient(
    policy: Policy, parameters: list[Parameter], part: _Part, *,
    max_tokens: int, chunk_elements: int, divergence: Divergence, anchor_weight: float,
) -> tuple[list[Tensor | None], list[dict[str, float]]]:  # fmt: skip
    """The gradient of a part's loss, one tensor a parameter, and what is known of each of its sequences.

    A parameter may have none: of a mixture of experts, those that no token was sent to.
    """
    total: list[Tensor | None] = [None] * len(parameters)
    order: list[int] = []
    means: list[Tensor] = []
    prompts = [one.prompt for one in part.sequences]
    for places, batch in batches(prompts, part.sequences, max_tokens, trees=policy.reads_trees):
        weights_T = torch.tensor([part.weights[place] for place in places]).repeat_interleave(
            torch.tensor(batch.num_rows)
        )
        student_TH, weights_T = policy.hidden(batch, arm="student"), weights_T.to(policy.device)
        if part.teacher is None:
            targets_T = batch.targets_T.to(policy.device)
            loss, positions = cross_entropy(
                student_TH, targets_T, policy.head, weights_T, chunk_elements=chunk_elements
            )
        else:
            loss, positions = distil(
                student_TH,
                torch.cat([part.teacher[place] for place in places]),
                policy.head,
                weights_T,
                divergence=divergence,
                parent_TH=torch.cat([part.parent[place] for place in places]) if part.parent else None,
                anchor_weight=anchor_weight,
                chunk_elements=chunk_elements,
            )
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        total = [_sum(one, other) for one, other in zip(total, found, strict=True)]
        order += places
        means.append(positions.means(batch.num_rows))
    # Read once: each time waits for all that is queued on an accelerator.
    known = dict(zip(order, Positions.by_name(torch.cat(means)), strict=True))
    return total, [known[place] for place in range(len(order))]


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return one if other is None else other
    return one + other
