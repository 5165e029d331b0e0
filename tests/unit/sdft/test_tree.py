"""Sequences in one row: which token lies where, sees what, and predicts what."""

import pytest
import torch

from tests.unit.sdft.bigram import Bigrams
from worker.sdft import tree
from worker.sdft.align import Aligned, make_batch
from worker.sdft.tree import batches, grow, make_tree

PROMPTS = [[1, 3, 2], [1, 3, 4, 2], [1, 3, 2], [5, 2]]
COMPLETIONS = [[4, 5, 6, 0], [5, 0], [4, 5, 7, 8, 0], [8, 8, 0]]
SKIPS = [0, 1, 2, 3]


def test_what_sequences_begin_with_alike_lies_there_once():
    batch = make_tree(PROMPTS, COMPLETIONS, SKIPS)
    # [1 3 2 4 5] once, then 6 | 7 8; [4 2] and 5 after [1 3]; [5 2 8 8] on its own.
    assert batch.ids_BL.shape == (1, 5 + 1 + 2 + 3 + 4)
    assert sorted(batch.ids_BL[0].tolist()) == sorted([1, 3, 2, 4, 5, 6, 7, 8, 4, 2, 5, 5, 2, 8, 8])


def test_each_token_sees_what_leads_to_it_and_nothing_of_another_branch():
    """Fault caught: a completion that reads its sibling, or a branch that starts at the wrong token."""
    batch = make_tree(PROMPTS, COMPLETIONS, SKIPS)
    ids = batch.ids_BL[0]
    seen = [ids[batch.sees_LL[place]].tolist() for place in range(len(ids))]
    whole = [prompt + completion[:-1] for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True)]
    expected = {tuple(one[: length + 1]) for one in whole for length in range(len(one))}
    assert sorted(map(tuple, seen)) == sorted(expected)
    assert batch.positions_BL[0].tolist() == [len(one) - 1 for one in seen]


def test_loss_positions_are_those_of_padded_rows_in_the_same_order():
    tree_, rows = make_tree(PROMPTS, COMPLETIONS, SKIPS), make_batch(PROMPTS, COMPLETIONS, SKIPS)
    policy = Bigrams()
    assert tree_.targets_T.tolist() == rows.targets_T.tolist()
    assert tree_.num_rows == rows.num_rows == [4, 1, 3, 0]
    assert torch.equal(policy.hidden(tree_, arm="student"), policy.hidden(rows, arm="student"))


def test_a_tree_holds_little_that_is_unalike_and_much_that_is_alike(monkeypatch):
    """Fault caught: rollouts of one long prompt that each read it, or a tree as large as a batch may be."""
    monkeypatch.setattr(tree, "TREE_TOKENS", 10)
    unalike = [[first, *range(50, 53)] for first in range(5)]
    assert [sum(len(unalike[place]) for place in group) for group in grow(unalike, 100)] == [8, 8]  # the fifth alone
    alike = [[*range(20), last] for last in range(30, 36)]
    assert grow(alike, 100) == [[0, 1, 2, 3, 4, 5]]
    assert grow(alike, 22) == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("trees", [False, True])
def test_every_sequence_is_in_one_batch(trees):
    sequences = [
        Aligned([1, place % 3], [1], [2] * (1 + 37 * place % 11), place % 2) for place in range(20) if place % 5
    ] + [Aligned(list(range(600)), [1], [7, 7])]
    made = list(batches([one.prompt for one in sequences], sequences, 1000, trees=trees))
    assert sorted(place for places, _ in made for place in places) == list(range(len(sequences)))
    for places, batch in made:
        assert batch.num_rows == [sequences[place].num_rows for place in places]
    assert any(batch.sees_LL is not None for _, batch in made) == trees
    assert [batch.sees_LL is None for places, batch in made if len(sequences) - 1 in places] == [True]
