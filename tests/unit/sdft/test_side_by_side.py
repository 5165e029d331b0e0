"""Parts of a computation on threads of their own."""

import threading

import pytest
import torch

from worker.sdft import side_by_side as module
from worker.sdft.side_by_side import cut, on_one_thread, side_by_side

pytestmark = pytest.mark.usefixtures("four_threads")


@pytest.mark.parametrize("sizes", [[5], [3, 3, 3, 3, 3, 3], [100, 1, 1, 1], [1, 1, 1, 100], [7, 1, 9, 2, 8, 8, 3], []])
@pytest.mark.parametrize("most", [1, 2, 3, 10])
def test_a_cut_keeps_the_order_loses_nothing_and_is_about_even(sizes, most, monkeypatch):
    monkeypatch.setattr(module, "MIN_PART_TOKENS", 1)
    runs = [sizes[run] for run in cut(sizes, [0] * len(sizes), most)]
    assert [size for run in runs for size in run] == sizes
    assert len(runs) <= most
    assert all(runs)
    assert max(map(sum, runs), default=0) <= sum(sizes) / most + max(sizes, default=0)


def test_few_tokens_are_not_worth_a_thread():
    assert len(cut([20] * 5, [0] * 5, 4)) == 1
    assert len(cut([20] * 7, [0] * 7, 4)) == 2
    assert len(cut([20] * 50, [0] * 50, 4)) == 4


def test_what_all_begin_with_is_not_computed_in_every_part():
    """Fault caught: rollouts of one long prompt, each of which reads it again."""
    assert cut([1_012] + [12] * 7, [0] + [1_000] * 7, 4) == [slice(0, 8)]
    two_prompts = cut([1_012, 12, 12, 12] * 2, [0, 1_000, 1_000, 1_000] * 2, 4)
    assert two_prompts == [slice(0, 4), slice(4, 8)]
    assert len(cut([64] + [40] * 11, [0] + [24] * 11, 2)) == 2


def test_parts_run_at_the_same_time_with_their_share_of_threads_and_come_back_in_order():
    """Fault caught: one after the other (the barrier would break), or every part with all threads."""
    both = threading.Barrier(2, timeout=30)

    def work(part):
        both.wait()
        return part, torch.get_num_threads()

    assert side_by_side(work, ["a", "b"], 4) == [("a", 2), ("b", 2)]
    assert side_by_side(lambda part: (part, torch.get_num_threads()), ["a", "b"], 1) == [("a", 4), ("b", 4)]
    assert torch.get_num_threads() == 4


def test_what_a_part_raises_is_raised_when_no_part_is_at_work_any_more():
    at_work = []

    def work(part):
        at_work.append(part)
        try:
            if part == 1:
                raise ZeroDivisionError
            torch.randn(300, 300) @ torch.randn(300, 300)
        finally:
            at_work.remove(part)

    with pytest.raises(ZeroDivisionError):
        side_by_side(work, range(8), 4)
    assert at_work == []
    assert torch.get_num_threads() == 4


def test_nothing_of_it_is_left_behind():
    """Fault caught: pools that stay, and threads to come that are left with a lane's share."""
    before = threading.active_count()
    side_by_side(str, [1, 2, 3, 4], 4)
    assert threading.active_count() == before
    found = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [4]


def test_one_thread_is_for_a_while():
    with on_one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 4
