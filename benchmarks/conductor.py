"""Processes that wait for their turn, one step at a time, so that what slows the machine down slows all of them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from benchmarks.arms import ARMS, Order

# As our launcher starts a trainer: threads that wait give their core away. It helps whoever waits at a turnstile.
ENVIRONMENT = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "HF_HUB_OFFLINE": "1"}


class Player:
    """A process behind a turnstile.

    Args:
        module: To run.
        argument: On its command line.
        log: What it prints.

    Attributes:
        facts: What it said when it was ready.
    """

    def __init__(self, module: str, argument: str, log: Path) -> None:
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, argument],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1,
                env=os.environ | ENVIRONMENT,
            )  # fmt: skip
        assert self._process.stdin is not None  # noqa: S101 - a pipe
        assert self._process.stdout is not None  # noqa: S101 - a pipe
        self._words, self._answers = self._process.stdin, self._process.stdout
        self.facts = self._hear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._words.close()
        self._answers.close()
        self._process.wait()

    def play(self) -> dict[str, Any]:
        """Have it do one thing; what it says of it, and the seconds that it took as seen from here."""
        began = time.perf_counter()
        self._words.write("go\n")
        said = self._hear()
        return said | {"seconds": time.perf_counter() - began}

    def _hear(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            raise RuntimeError(f"an arm has died; its log is {self._log}:\n{self._log.read_text()[-2000:]}")
        said: dict[str, Any] = json.loads(line)
        return said


def run(names: Sequence[str], log_folder: Path, *, steps: int, threads: int, **order: Any) -> dict[str, Any]:
    """All arms side by side, a step each in turn, whoever began a round being last in the next.

    Args:
        names: Of arms.
        log_folder: For what they print.
        steps: Of each.
        threads: Of the CPU.
        order: The rest of ``Order``.

    Returns:
        ``arms``: by name, what each said of itself, of each step, and at the end. ``gemm``: the machine's peak, FLOP/s.
    """
    with ExitStack() as stack:
        gemm = stack.enter_context(Player("benchmarks.gemm", str(threads), log_folder / "gemm.log"))
        peaks = [gemm.play()["flop_per_second"]]
        players = {}
        for name in names:
            arm = ARMS[name]
            part = Order(settings=arm.settings, steps=steps, threads=threads, **order)
            print(f"  {arm.label}: loading", file=sys.stderr)
            players[name] = stack.enter_context(Player(arm.module, part.to_json(), log_folder / f"{name}.log"))
        records: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for number in range(steps):
            for name in [*names[number % len(names) :], *names[: number % len(names)]]:
                records[name].append(players[name].play())
            peaks.append(gemm.play()["flop_per_second"])
            seconds = ", ".join(f"{name} {records[name][-1]['seconds']:.1f}" for name in names)
            print(f"  step {number + 1} of {steps}: {seconds} s", file=sys.stderr)
        arms = {name: players[name].facts | {"steps": records[name]} | players[name].play() for name in names}
    return {"arms": arms, "gemm": max(peaks), "gemm_measured": peaks}
