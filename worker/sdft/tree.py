"""Sequences that begin alike, as one tree: what they share is computed once, and nothing is padded.

Each token sees those that lead to it. A system message, a question that several rollouts answer and the words with
which some of them begin are then one branch, with or without a graph: gradients of all that goes on from it meet there.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from worker.sdft.align import Aligned, buckets, common_length, make_batch
from worker.sdft.policy import TokenBatch
from worker.sdft.side_by_side import cut

TREE_TOKENS = 512
"""Of a tree whose sequences share little. Every token is compared with every other: a larger one does not earn that."""


_Make = Callable[[Sequence[list[int]], Sequence[list[int]], Sequence[int]], TokenBatch]


def batches(
    prompts: Sequence[list[int]],
    sequences: Sequence[Aligned],
    max_tokens: int,
    *,
    trees: bool,
    whole_prompts: bool = False,
) -> Iterator[tuple[list[int], TokenBatch]]:
    """Each batch with the places of its sequences; every sequence is in one.

    Args:
        prompts: The student's or the teacher's, one a sequence.
        sequences: Each with at least one loss position.
        max_tokens: Of a batch, padding included.
        trees: Whether sequences that make a tree may lie in one. Others get a row each, and are padded.
        whole_prompts: Of rows, as ``make_batch`` has it.
    """
    whole = [prompt + one.completion for prompt, one in zip(prompts, sequences, strict=True)]
    groups = grow(whole, max_tokens) if trees else []
    others = sorted(set(range(len(whole))).difference(*groups))
    rows = [[others[index] for index in one] for one in buckets([len(whole[place]) for place in others], max_tokens)]
    in_rows: _Make = partial(make_batch, whole_prompts=whole_prompts)
    made: list[tuple[_Make, list[int]]] = [*((make_tree, group) for group in groups), *((in_rows, row) for row in rows)]
    for make, places in made:
        yield (
            places,
            make(
                [prompts[place] for place in places],
                [sequences[place].completion for place in places],
                [sequences[place].skip for place in places],
            ),
        )


def grow(sequences: Sequence[list[int]], max_tokens: int) -> list[list[int]]:
    """Indices of those that make a tree together, at least two each; the others are left out.

    In the order of their ids, where those that begin alike lie together: each adds what it does not share with the one
    before it. A tree takes another in up to ``TREE_TOKENS``, and one that brings less than it shares up to
    ``max_tokens``.
    """
    groups: list[list[int]] = []
    size = 0
    before: list[int] = []
    for index in sorted(range(len(sequences)), key=sequences.__getitem__):
        ids = sequences[index]
        shared = common_length(before, ids)
        new = len(ids) - shared
        if not groups or size + new > (max_tokens if new < shared else min(TREE_TOKENS, max_tokens)):
            groups.append([])
            size, new = 0, len(ids)
        groups[-1].append(index)
        size, before = size + new, ids
    return [group for group in groups if len(group) > 1]


def alike(sequences: Sequence[list[int]], most: int) -> list[list[int]]:
    """Indices of all, in runs of about as many tokens each.

    In the order of their ids, where those that begin alike lie together.

    Args:
        sequences: Token ids.
        most: Runs; fewer where more do not pay.
    """
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    shared = [0, *(common_length(sequences[before], sequences[place]) for before, place in pairwise(order))]
    own = [len(sequences[place]) - length for place, length in zip(order, shared, strict=False)]
    return [order[run] for run in cut(own, shared[: len(order)], most)]


def make_tree(prompts: Sequence[list[int]], completions: Sequence[list[int]], skips: Sequence[int]) -> TokenBatch:
    """One row. Loss positions are those of ``make_batch``, in the same order.

    Args:
        prompts: One a sequence.
        completions: What follows; the last token of each predicts nothing and is left out.
        skips: Completion tokens at the start without loss.
    """
    whole = [prompt + completion[:-1] for prompt, completion in zip(prompts, completions, strict=True)]
    ids: list[int] = []
    positions: list[int] = []
    parts: list[tuple[list[int], int]] = []
    paths: list[list[int]] = [[]] * len(whole)
    path: list[int] = []
    before: list[int] = []
    for index in sorted(range(len(whole)), key=whole.__getitem__):
        shared = common_length(before, whole[index])
        new = len(whole[index]) - shared
        path = paths[index] = path[:shared] + list(range(len(ids), len(ids) + new))
        parts.append((path[:shared], new))
        ids += whole[index][shared:]
        positions += range(shared, shared + new)
        before = whole[index]
    rows = [
        place
        for path, prompt, skip in zip(paths, prompts, skips, strict=True)
        for place in path[len(prompt) - 1 + skip :]
    ]
    return TokenBatch(
        prefixes=[[]],
        ids_BL=torch.tensor([ids]),
        mask_BL=torch.ones(1, len(ids), dtype=torch.long),
        positions_BL=torch.tensor([positions]),
        rows_T=torch.tensor(rows, dtype=torch.long),
        targets_T=torch.tensor([token for one, skip in zip(completions, skips, strict=True) for token in one[skip:]]),
        num_rows=[max(0, len(completion) - skip) for completion, skip in zip(completions, skips, strict=True)],
        sees_LL=_sight(parts, len(ids)),
    )


def _sight(parts: Sequence[tuple[list[int], int]], length: int) -> Tensor:
    """Which token (row) sees which (column), [L, L]: what leads to its branch, and its branch up to itself.

    Args:
        parts: Of each branch, where what leads to it lies, and its own tokens, one branch after the other.
        length: Of all branches together.
    """
    sees_LL = torch.zeros(length, length, dtype=torch.bool)
    start = 0
    for leading, new in parts:
        branch = slice(start, start + new)
        sees_LL[branch, leading] = True
        sees_LL[branch, branch] = torch.ones(new, new, dtype=torch.bool).tril()
        start += new
    return sees_LL
