"""One completion under two contexts: the same token ids, position by position, and the weight of each in the loss.

Knows lengths and ids, not what they mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from worker.sdft.policy import Arm, TokenBatch

MAX_PADDING = 0.25
"""A scored batch's shortest sequence is at most this share shorter than its longest."""
MIN_SAVING = 64
"""Tokens that sharing a prefix must save before it is worth a pass of its own."""


@dataclass(frozen=True)
class Aligned:
    """A completion with the student's and the teacher's context.

    Args:
        prompt: What the student was asked.
        teacher_prompt: What the teacher is shown.
        completion: Said by the student, or by the expert where training is supervised.
        skip: Completion tokens at the start that carry no loss; attention sees them.
        taught_by: Whose weights the teacher has.
        weight: In the mean over sequences.
    """

    prompt: list[int]
    teacher_prompt: list[int]
    completion: list[int]
    skip: int = 0
    taught_by: Arm = "parent"
    weight: float = 1.0

    @property
    def num_rows(self) -> int:
        """Loss positions."""
        return max(0, len(self.completion) - self.skip)


def row_weights(sequences: Sequence[Aligned]) -> list[float]:
    """Weight of each of a sequence's loss positions.

    The weighted sum of all losses is then the weighted mean over sequences of the mean over their positions. A
    completion that ends before the skip does not count as a sequence.
    """
    total = sum(sequence.weight for sequence in sequences if sequence.num_rows)
    return [sequence.weight / (total * sequence.num_rows) if sequence.num_rows else 0.0 for sequence in sequences]


def buckets(lengths: Sequence[int], max_tokens: int, *, max_padding: float = MAX_PADDING) -> list[list[int]]:
    """Indices grouped by length: a group's padded size is within ``max_tokens``, unless it is one sequence.

    Longest first, so that a device that is too small says so at once.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        longest = lengths[groups[-1][0]] if groups else 0
        full = (len(groups[-1]) + 1) * longest > max_tokens if groups else True
        if full or lengths[index] < longest * (1 - max_padding):
            groups.append([])
        groups[-1].append(index)
    return groups


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Ids that two sequences begin with alike."""
    length = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        length += 1
    return length


def shared_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """What all prompts begin with, such as a system message; empty where computing it once would save too little.

    At least one token of each prompt is left over.
    """
    first, last = min(prompts), max(prompts)  # in lexical order: what these two share, all share
    length = common_length(first[:-1], last[:-1])
    return first[:length] if length * (len(prompts) - 1) >= MIN_SAVING else []


def make_batch(
    prompts: Sequence[list[int]], completions: Sequence[list[int]], skips: Sequence[int], *, whole_prompts: bool = False
) -> TokenBatch:
    """Pad prompt + completion on the right. The hidden state *before* a completion token is what predicts it.

    Args:
        prompts: One a sequence.
        completions: What follows.
        skips: Completion tokens at the start without loss.
        whole_prompts: Make each prompt but its last token the sequence's own prefix, instead of what all share.
    """
    prefixes = [prompt[:-1] for prompt in prompts] if whole_prompts else [shared_prefix(prompts)] * len(prompts)
    rests = [
        prompt[len(prefix) :] + completion
        for prefix, prompt, completion in zip(prefixes, prompts, completions, strict=True)
    ]
    length = max(len(rest) for rest in rests)
    ids_BL = torch.zeros(len(prompts), length, dtype=torch.long)
    mask_BL = torch.zeros_like(ids_BL)
    rows: list[int] = []
    targets: list[int] = []
    for index, (rest, completion, skip) in enumerate(zip(rests, completions, skips, strict=True)):
        ids_BL[index, : len(rest)] = torch.tensor(rest)
        mask_BL[index, : len(rest)] = 1
        first = index * length + len(rest) - len(completion) - 1
        rows += range(first + skip, first + len(completion))
        targets += completion[skip:]
    past_B1 = torch.tensor([[len(prefix)] for prefix in prefixes])
    return TokenBatch(
        prefixes=prefixes,
        ids_BL=ids_BL,
        mask_BL=mask_BL,
        positions_BL=past_B1 + torch.arange(length),
        rows_T=torch.tensor(rows, dtype=torch.long),
        targets_T=torch.tensor(targets, dtype=torch.long),
        num_rows=[max(0, len(completion) - skip) for completion, skip in zip(completions, skips, strict=True)],
        whole_prompts=whole_prompts,
    )
