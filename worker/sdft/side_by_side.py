"""Parts of a computation side by side on a CPU: a few threads each, instead of all threads on one part after the other.

A pass over a few hundred tokens is several hundred small products, and threads that share each of them wait for one
another at its end. Threads with parts of their own wait once. Knows nothing of what is computed.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from itertools import accumulate, pairwise
from typing import TypeVar

import torch

MIN_PART_TOKENS = 64
"""Of a part that is worth threads of its own."""

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


def num_parts(num_tokens: int, device: torch.device) -> int:
    """In how many parts so many tokens are best computed: one on an accelerator, which does its own."""
    if device.type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), num_tokens // MIN_PART_TOKENS))


def cut(sizes: Sequence[int], num: int) -> list[slice]:
    """Up to ``num`` runs of neighbours, each about as large as the others; none is empty."""
    # Each belongs to the part in which its middle lies.
    middles = [end - size / 2 for end, size in zip(accumulate(sizes), sizes, strict=True)]
    parts = [int(middle * num / sum(sizes)) for middle in middles]
    starts = [index for index, part in enumerate(parts) if index == 0 or part != parts[index - 1]]
    return [slice(start, end) for start, end in pairwise([*starts, len(sizes)])]


def side_by_side(work: Callable[[_Part], _Result], parts: Sequence[_Part], device: torch.device) -> list[_Result]:
    """The result of each part, in their order.

    Args:
        work: What it changes must be its part's own. Modes of torch that hold for one thread, such as that without
            gradients, are its own to set.
        parts: Any number.
        device: Where it computes.

    Raises:
        Exception: What a part has raised; those that had not begun are left out.
    """
    num_threads = torch.get_num_threads()
    num_lanes = min(num_threads, len(parts)) if device.type == "cpu" else 1
    if num_lanes < 2:
        return [work(part) for part in parts]
    futures = [_lanes(num_lanes, num_threads // num_lanes).submit(work, part) for part in parts]
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
    finally:
        for future in futures:
            future.cancel()
        wait(futures)
        torch.set_num_threads(
            num_threads
        )  # what a lane sets for itself would hold for every thread that is yet to come
    return [future.result() for future in futures]


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Compute to bits that do not depend on how many threads the caller was left with."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _lanes(num: int, threads_each: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num, "lane", initializer=torch.set_num_threads, initargs=(threads_each,))
