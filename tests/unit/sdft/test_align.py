"""Which hidden state predicts which token, with which weight, in which batch."""

import pytest
import torch

from worker.sdft.align import MAX_PADDING, Aligned, buckets, make_batch, row_weights, shared_prefix

END = 0


def test_each_loss_position_lies_one_before_its_token_and_the_end_is_one_of_them():
    batch = make_batch([[5, 6, 7], [8]], [[10, 11, END], [12, END]], [0, 0])
    before = batch.ids_BL.flatten()[batch.rows_T].tolist()
    assert before == [7, 10, 11, 8, 12]
    assert batch.targets_T.tolist() == [10, 11, END, 12, END]
    assert batch.num_rows == [3, 2]


def test_padding_is_told_by_the_mask_although_it_has_the_id_of_the_end():
    batch = make_batch([[5, 6, 7], [8]], [[10, 11, END], [12, END]], [0, 0])
    assert batch.mask_BL.tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]
    assert batch.mask_BL.flatten()[batch.rows_T].all()


def test_skipped_tokens_carry_no_loss_but_are_attended_to():
    whole, skipped = make_batch([[5, 6]], [[10, 11, 12, END]], [0]), make_batch([[5, 6]], [[10, 11, 12, END]], [3])
    assert skipped.targets_T.tolist() == [END]
    assert torch.equal(whole.mask_BL, skipped.mask_BL)
    assert torch.equal(whole.ids_BL, skipped.ids_BL)


def test_weights_make_a_mean_over_sequences_of_means_over_their_positions():
    sequences = [Aligned([1], [1], [2, 3, 4, 5]), Aligned([1], [1], [2])]
    losses = [[1.0, 2.0, 3.0, 6.0], [10.0]]
    total = sum(weight * sum(loss) for weight, loss in zip(row_weights(sequences), losses, strict=True))
    assert total == pytest.approx((3.0 + 10.0) / 2)


def test_a_sequence_of_twice_the_weight_counts_as_two():
    sequences = [Aligned([1], [1], [2, 3]), Aligned([1], [1], [2], weight=2.0), Aligned([1], [1], [], weight=2.0)]
    once, twice = (
        sum(weight * sum(loss) for weight, loss in zip(row_weights(given), losses, strict=True))
        for given, losses in (
            (sequences, [[1.0, 3.0], [8.0], []]),
            ([sequences[0], *[Aligned([1], [1], [2])] * 2], [[1.0, 3.0], [8.0], [8.0]]),
        )
    )
    assert once == pytest.approx(twice) == pytest.approx(6.0)


def test_a_completion_shorter_than_the_skip_is_no_sequence_of_the_mean():
    """Counting it as a loss of zero would halve the loss of the other."""
    sequences = [Aligned([1], [1], [2, 3, 4, 5], skip=3), Aligned([1], [1], [2, 3], skip=3)]
    assert row_weights(sequences) == [1.0, 0.0]
    assert make_batch([[1], [1]], [[2, 3, 4, 5], [2, 3]], [3, 3]).num_rows == [1, 0]


def test_buckets_hold_every_sequence_once_and_bound_size_and_padding():
    lengths = [(17 * index) % 90 + 1 for index in range(60)]
    groups = buckets(lengths, max_tokens=200)
    assert sorted(index for group in groups for index in group) == list(range(60))
    for group in groups:
        longest, shortest = max(lengths[index] for index in group), min(lengths[index] for index in group)
        assert longest * len(group) <= 200
        assert shortest >= longest * (1 - MAX_PADDING)


def test_a_sequence_over_the_budget_is_a_batch_of_its_own():
    assert buckets([10, 500, 9], max_tokens=100) == [[1], [0, 2]]


def test_a_shared_beginning_is_held_once_and_leaves_every_prompt_a_token():
    system = list(range(100, 180))
    prompts = [[*system, 1, 2], [*system, 1, 3, 4], system[:]]
    assert shared_prefix(prompts) == system[:-1]
    batch = make_batch(prompts, [[7], [8], [9]], [0, 0, 0])
    assert batch.prefixes == [system[:-1]] * len(batch.prefixes)
    assert batch.ids_BL[:, :1].eq(179).all()
    assert batch.positions_BL[0, 0] == 79
    assert batch.targets_T.tolist() == [7, 8, 9]


def test_a_short_shared_beginning_is_not_worth_a_pass():
    assert shared_prefix([[1, 2, 3], [1, 2, 4]]) == []
    assert shared_prefix([list(range(500))]) == []
