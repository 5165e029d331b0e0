"""What each way to train teaches, and what it costs elsewhere: a table and a plot. ``make study``.

One training at a time, each as a job would do it. What is done is kept, so this may be killed and begun again at any
time; see benchmarks/README.md.
"""

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean
from typing import Any

from app.settings import WorkerSettings
from benchmarks.run import import_base
from benchmarks.study import plot, table
from benchmarks.study.cells import ARMS, SEEDS, SKILLS, USUAL_SKILLS, Cell, plan
from benchmarks.study.figures import outcome
from benchmarks.study.store import Results, code_sha256
from benchmarks.study.training import train
from worker.launcher import TRAINER
from worker.seat import Seat

TABLE = "study.md"


def main(argv: Sequence[str] | None = None) -> None:
    """Run what was asked for and is not done; a new table and plot after each training."""
    asked = parse(argv)
    results = Results(asked.out, asked.base or import_base(asked.out / "models"))
    cells = plan(asked.arms, asked.skills, asked.seeds)
    with results.alone(), closing(Seat(TRAINER, results.folder, WorkerSettings())) as seat:
        write(results, cells)
        for cell in cells:
            if results.get(cell) is None:
                print(f"{cell}. {outlook(results, cells)}", flush=True)
                train(cell, results, seat, threads=asked.threads, say=say)
                write(results, cells)
    print(f"All {len(cells)} trainings that were asked for are done: {results.folder / TABLE}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forgetting", description=__doc__)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--skills", nargs="+", choices=SKILLS, default=list(USUAL_SKILLS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--base", type=Path, help="folder of an imported base; the demo's is fetched if not given")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("build/study"))
    return parser.parse_args(argv)


def say(phase: str) -> None:
    """What a training does now."""
    print(f"  {time.strftime('%H:%M:%S')} {phase}", flush=True)


def write(results: Results, asked: Sequence[Cell]) -> None:
    """Table and plot of all that is done, asked for now or not."""
    seeds = sorted({*SEEDS, *(cell.seed for cell in asked)})
    done = {cell: result for cell in plan(list(ARMS), list(SKILLS), seeds) if (result := results.get(cell))}
    outcomes = {cell: result["failed"] or outcome(result["report"], result["seconds"]) for cell, result in done.items()}
    planned = [
        cell
        for cell in plan(list(ARMS), list(SKILLS), seeds)
        if cell in done or cell in asked or (cell.skill in USUAL_SKILLS and cell.seed in SEEDS)
    ]
    (results.folder / TABLE).write_text(table.render(outcomes, planned, notes(results, done)), encoding="utf-8")
    (results.folder / "study.svg").write_text(plot.render(outcomes), encoding="utf-8")


def notes(results: Results, done: Mapping[Cell, Mapping[str, Any]]) -> list[str]:
    """What holds for all of the table, or does not although it should."""
    steps: dict[str, set[int]] = {}
    for cell, result in done.items():
        if result["report"]:
            skill = SKILLS[cell.skill].label
            steps.setdefault(skill, set()).add(result["report"]["provenance"]["config"]["total_steps"])
    counts = ", ".join(f"{skill} {' or '.join(map(str, sorted(some)))}" for skill, some in steps.items())
    num_other = sum(result["code"] != code_sha256() for result in done.values())
    said = [f"Base: {results.base.name}. Optimizer steps of every way: {counts}."] if counts else []
    if num_other:
        said.append(f"{num_other} of these trainings were done with other code of the trainer than the present one.")
    return said


def outlook(results: Results, cells: Sequence[Cell]) -> str:
    """How many trainings are left, and how long they will take if they take what those of their way took."""
    known = [(cell, results.get(cell)) for cell in cells]
    seconds = [(cell.arm, result["seconds"]) for cell, result in known if result and not result["failed"]]
    left = [cell.arm for cell, result in known if result is None]
    if not seconds:
        return f"{len(left)} are left; how long they take is known after the first."
    hours = sum(fmean([took for arm, took in seconds if arm == one] or [took for _, took in seconds]) for one in left)
    return f"{len(left)} are left, about {hours / 3600:.1f} h."


if __name__ == "__main__":
    main()
