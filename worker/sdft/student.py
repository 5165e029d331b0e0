"""The student's part of a step: hidden states with a graph, the divergence, the gradient on its weights.

Micro-batches bound memory and change nothing else: every position carries its weight in the step's mean.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.sdft.align import Aligned, buckets, make_batch, row_weights
from worker.sdft.loss import Positions, cross_entropy, forward_kl
from worker.sdft.policy import Policy, TokenBatch


def backward(
    policy: Policy, sequences: Sequence[Aligned], teacher: Sequence[Tensor] | None, *, max_tokens: int
) -> list[dict[str, float]]:
    """Add the gradient of the mean loss to the student's weights.

    Args:
        policy: Student and head.
        sequences: Each with at least one loss position.
        teacher: Hidden states [T, H] a sequence; without them the target is the completion itself.
        max_tokens: Padded tokens of a micro-batch.

    Returns:
        What is known of the positions (``Positions``), averaged over each sequence.
    """
    weights = row_weights(sequences)
    means: list[dict[str, float]] = [{}] * len(sequences)
    for bucket in buckets([len(one.prompt) + len(one.completion) for one in sequences], max_tokens):
        chosen = [sequences[index] for index in bucket]
        batch = make_batch(
            [one.prompt for one in chosen], [one.completion for one in chosen], [one.skip for one in chosen]
        )
        weights_T = torch.tensor([weights[index] for index in bucket]).repeat_interleave(torch.tensor(batch.num_rows))
        target_TH = torch.cat([teacher[index] for index in bucket]) if teacher is not None else None
        loss, positions = _loss(policy, batch, target_TH, weights_T.to(policy.device))
        loss.backward()
        for index, mean in zip(bucket, positions.means(batch.num_rows), strict=True):
            means[index] = mean
    return means


def _loss(policy: Policy, batch: TokenBatch, target_TH: Tensor | None, weights_T: Tensor) -> tuple[Tensor, Positions]:
    student_TH = policy.hidden(batch, arm="student")
    if target_TH is None:
        return cross_entropy(student_TH, batch.targets_T.to(policy.device), policy.head, weights_T)
    return forward_kl(student_TH, target_TH, policy.head, weights_T)
