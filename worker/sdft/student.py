"""The student's part of a step: hidden states with a graph, the divergence, the gradient on its weights.

Micro-batches bound memory and change nothing else: every position carries its weight in the step's mean.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.sdft.align import Aligned, row_weights
from worker.sdft.divergences import Divergence, forward_kl
from worker.sdft.loss import cross_entropy, distil
from worker.sdft.policy import Policy
from worker.sdft.tree import batches


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
    means: list[dict[str, float]] = [{}] * len(sequences)
    for places, batch in batches([one.prompt for one in sequences], sequences, max_tokens, trees=policy.reads_trees):
        weights_T = torch.tensor([weights[place] for place in places]).repeat_interleave(torch.tensor(batch.num_rows))
        student_TH, weights_T = policy.hidden(batch, arm="student"), weights_T.to(policy.device)
        if teacher is None:
            loss, positions = cross_entropy(student_TH, batch.targets_T.to(policy.device), policy.head, weights_T)
        else:
            loss, positions = distil(
                student_TH,
                torch.cat([teacher[place] for place in places]),
                policy.head,
                weights_T,
                divergence=divergence,
                parent_TH=torch.cat([parent[place] for place in places]) if parent else None,
                anchor_weight=anchor_weight,
            )
        loss.backward()
        for place, mean in zip(places, positions.means(batch.num_rows), strict=True):
            means[place] = mean
    return means
