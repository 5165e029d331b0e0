"""The machine's peak: fp32 products of square matrices as large as the caches like them, the best of many."""

import sys
import time

import torch

from benchmarks.turnstile import Turnstile

SIZE, REPEATS = 2048, 8


def main() -> None:
    """Measure whenever asked to."""
    torch.set_num_threads(int(sys.argv[1]))
    turnstile = Turnstile()
    left, right = torch.rand(SIZE, SIZE), torch.rand(SIZE, SIZE)
    turnstile.pass_on()
    while True:
        turnstile.pass_on(flop_per_second=2 * SIZE**3 / min(seconds(left, right) for _ in range(REPEATS)))


def seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    """Of one product."""
    began = time.perf_counter()
    left @ right
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
