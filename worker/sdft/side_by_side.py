"""Parts of a computation side by side on a CPU: a few threads each, instead of all threads on one part after the other.

A pass over a few hundred tokens is several hundred small products, and threads that share each of them wait for one
another at its end. Threads with parts of their own wait once. Knows nothing of what is computed.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import TypeVar

import torch

MIN_PART_TOKENS = 64
"""Of a part that is worth threads of its own."""
MAX_AGAIN = 0.25
"""Share of all tokens that may be computed in several parts, because what is parted begins alike."""

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


def cut(own: Sequence[int], shared: Sequence[int], most: int) -> list[slice]:
    """Runs of neighbours, each with about as many tokens as the others; as few as pay.

    Args:
        own: Tokens of each that the one before it does not begin with.
        shared: Tokens of each that the one before it begins with too: a run that begins here computes them again.
        most: Runs.
    """
    for num in range(min(most, sum(own) // MIN_PART_TOKENS), 1, -1):
        runs = _even(own, num)
        if sum(shared[run.start] for run in runs[1:]) <= MAX_AGAIN * sum(own):
            return runs
    return [slice(0, len(own))] if own else []


def _even(sizes: Sequence[int], num: int) -> list[slice]:
    """Each belongs to the run in which its middle lies; none is empty."""
    middles = [end - size / 2 for end, size in zip(accumulate(sizes), sizes, strict=True)]
    runs = [int(middle * num / sum(sizes)) for middle in middles]
    starts = [index for index, run in enumerate(runs) if index == 0 or run != runs[index - 1]]
    return [slice(start, end) for start, end in pairwise([*starts, len(sizes)])]


def side_by_side(work: Callable[[_Part], _Result], parts: Sequence[_Part], num_lanes: int) -> list[_Result]:
    """The result of each part, in their order.

    Args:
        work: What it changes must be its part's own. Modes of torch that hold for one thread, such as that without
            gradients, are its own to set.
        parts: Any number.
        num_lanes: How many at the same time; they share torch's threads. One after the other at 1.

    Raises:
        Exception: What a part has raised; those that had not begun are left out.
    """
    num_threads, num_lanes = torch.get_num_threads(), min(num_lanes, len(parts))
    if num_lanes < 2:
        return [work(part) for part in parts]

    def lane(part: _Part) -> _Result:
        _take_threads(max(1, num_threads // num_lanes))
        return work(part)

    try:
        with ThreadPoolExecutor(num_lanes, "lane") as pool:
            futures = [pool.submit(lane, part) for part in parts]
            wait(futures, return_when=FIRST_EXCEPTION)
            pool.shutdown(cancel_futures=True)
    finally:
        torch.set_num_threads(num_threads)
    return [future.result() for future in futures if not future.cancelled()]


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Compute to bits that do not depend on how many threads the caller was left with."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _take_threads(num: int) -> None:
    """For this thread; asked first, as one that has not computed yet would take what was set last by any other."""
    torch.get_num_threads()
    torch.set_num_threads(num)
