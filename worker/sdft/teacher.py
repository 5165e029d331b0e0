"""The teacher: the same network with the demonstration in its context, its weights fixed or following the student's."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from worker.sdft.align import Aligned
from worker.sdft.policy import Policy
from worker.sdft.tree import batches


@torch.no_grad()
def freeze(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> None:
    """Make the teacher a snapshot of the student.

    That is the adapter that the job starts from, not the bare base, which would pull every skill of an earlier version
    back out.
    """
    for name, tensor in teacher.items():
        tensor.copy_(student[name]).requires_grad_(False)  # noqa: FBT003


@torch.no_grad()
def follow(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], *, rate: float) -> None:
    """Move the teacher's factors towards the student's: teacher + rate (student - teacher), all the way at 1.

    In fp32, as both are kept: in bf16 a small step is rounded away. And from the student's own start, not from zero,
    where the product of two factors that both lag would lag quadratically.
    """
    for name, tensor in teacher.items():
        tensor.lerp_(student[name], rate)


@torch.no_grad()
def teacher_hidden(policy: Policy, sequences: Sequence[Aligned], *, max_tokens: int) -> list[Tensor]:
    """The teacher's hidden states at each sequence's loss positions, [T, H] each, in batches of its own.

    Hidden states are small; logits would not be. They are made before the student's graph exists. What weights that
    never move make of a demonstration, a policy may remember.
    """
    scored: list[Tensor] = [torch.empty(0)] * len(sequences)
    # Prompts without a demonstration are short, and read together where they begin alike: not worth a memory.
    ways = [
        (one.taught_by, policy.remembers_prompts and one.taught_by == "parent" and one.teacher_prompt != one.prompt)
        for one in sequences
    ]
    for arm, whole_prompts in dict.fromkeys(ways):
        places = [place for place, way in enumerate(ways) if way == (arm, whole_prompts)]
        chosen = [sequences[place] for place in places]
        prompts = [one.teacher_prompt for one in chosen]
        trees = policy.reads_trees and not whole_prompts
        for group, batch in batches(prompts, chosen, max_tokens, trees=trees, whole_prompts=whole_prompts):
            parts = policy.hidden(batch, arm=arm).split(batch.num_rows)
            for index, part_TH in zip(group, parts, strict=True):
                scored[places[index]] = part_TH
    return scored


def parent_hidden(policy: Policy, sequences: Sequence[Aligned], *, max_tokens: int) -> list[Tensor]:
    """The same of the starting point without a demonstration: what the anchor holds the student to."""
    unaided = [Aligned(one.prompt, one.prompt, one.completion, one.skip) for one in sequences]
    return teacher_hidden(policy, unaided, max_tokens=max_tokens)
