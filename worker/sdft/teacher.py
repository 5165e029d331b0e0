"""The teacher: the network as it was when the job began, with the demonstration in its context."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from worker.sdft.align import Aligned, buckets, make_batch
from worker.sdft.policy import Policy


@torch.no_grad()
def freeze(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> None:
    """Make the teacher a snapshot of the student.

    That is the adapter that the job starts from, not the bare base, which would pull every skill of an earlier version
    back out.
    """
    for name, tensor in teacher.items():
        tensor.copy_(student[name]).requires_grad_(False)  # noqa: FBT003


@torch.no_grad()
def teacher_hidden(policy: Policy, sequences: Sequence[Aligned], *, max_tokens: int) -> list[Tensor]:
    """The teacher's hidden states at each sequence's loss positions, [T, H] each, in batches of its own.

    Hidden states are small; logits would not be. They are made before the student's graph exists.
    """
    scored: list[Tensor] = [torch.empty(0)] * len(sequences)
    for bucket in buckets([len(one.teacher_prompt) + len(one.completion) for one in sequences], max_tokens):
        chosen = [sequences[index] for index in bucket]
        batch = make_batch(
            [one.teacher_prompt for one in chosen],
            [one.completion for one in chosen],
            [one.skip for one in chosen],
            whole_prompts=policy.remembers_prompts,
        )
        parts = policy.hidden(batch, arm="parent").split(batch.num_rows)
        for index, part_TH in zip(bucket, parts, strict=True):
            scored[index] = part_TH
    return scored
