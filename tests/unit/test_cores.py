"""How many threads a trainer gets where nobody says."""

import os
from pathlib import Path

import pytest

from worker.cores import usable_cores

MACHINE = usable_cores(Path("no quota"))


@pytest.mark.parametrize(
    ("cpu_max", "cores"),
    [("100000 100000\n", 1), ("50000 100000\n", 1), ("100000000000 100000\n", MACHINE), ("max 100000\n", MACHINE)],
    ids=["one", "half", "more than there are", "no limit"],
)
def test_a_containers_quota_bounds_the_threads(cpu_max: str, cores: int, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(cpu_max)
    assert usable_cores(tmp_path / "cpu.max") == cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="macOS has no affinity")
def test_cores_that_the_process_may_not_run_on_are_not_counted() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores(Path("no quota")) == 1
    finally:
        os.sched_setaffinity(0, allowed)
