"""Parts of a computation on threads of their own."""

import threading

import pytest
import torch

from worker.sdft.side_by_side import cut, num_parts, on_one_thread, side_by_side

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("four_threads")


@pytest.mark.parametrize("sizes", [[5], [3, 3, 3, 3, 3, 3], [100, 1, 1, 1], [1, 1, 1, 100], [7, 1, 9, 2, 8, 8, 3]])
@pytest.mark.parametrize("num", [1, 2, 3, 10])
def test_a_cut_keeps_the_order_loses_nothing_and_is_about_even(sizes, num):
    parts = [sizes[run] for run in cut(sizes, num)]
    assert [size for part in parts for size in part] == sizes
    assert len(parts) <= num
    assert all(parts)
    assert max(map(sum, parts)) <= sum(sizes) / num + max(sizes)


def test_nothing_is_cut_into_nothing():
    assert cut([], 3) == []


def test_an_accelerator_gets_all_in_one_part_and_few_tokens_are_not_worth_a_thread():
    assert num_parts(100_000, torch.device("cuda")) == 1
    assert num_parts(100, CPU) == 1
    assert num_parts(130, CPU) == 2
    assert num_parts(100_000, CPU) == 4


def test_parts_run_at_the_same_time_with_their_share_of_threads_and_come_back_in_order():
    """Fault caught: one after the other (the barrier would break), or every part with all threads."""
    both = threading.Barrier(2, timeout=30)

    def work(part):
        both.wait()
        return part, torch.get_num_threads()

    assert side_by_side(work, ["a", "b"], CPU) == [("a", 2), ("b", 2)]
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
        side_by_side(work, range(8), CPU)
    assert at_work == []
    assert torch.get_num_threads() == 4


def test_threads_to_come_are_not_left_with_a_lanes_share():
    side_by_side(str, [1, 2, 3, 4], CPU)
    found = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [4]


def test_one_thread_is_for_a_while():
    with on_one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 4
