"""How many cores a trainer's threads may use."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

CPU_MAX: Final = Path("/sys/fs/cgroup/cpu.max")
"""A container's quota and its period in microseconds, or ``max`` and the period (cgroup v2)."""


def usable_cores(cpu_max: Path = CPU_MAX) -> int:
    """Those this process may run on, and of them no more than its container's quota has time for; at least one.

    More threads than that would wait for one another in turns: a step of many short products is slowed many times.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = map(int, cpu_max.read_text(encoding="ascii").split())
        cores = min(cores, quota // period)
    return max(cores, 1)
