"""What each way to train teaches, and what it costs elsewhere: a table and a plot. ``make study``.

One training at a time, each as a job would do it. What is done is kept, so this may be killed and begun again at any
time; see benchmarks/README.md.
"""

import argparse
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean

import worker
from app.settings import WorkerSettings
from benchmarks.run import import_base
from benchmarks.study import plot, table
from benchmarks.study.cells import ARMS, SEEDS, SKILLS, USUAL_ARMS, Cell, plan
from benchmarks.study.figures import Known, Outcome
from benchmarks.study.store import PUBLISHED, Results
from benchmarks.study.training import train
from worker.circumstances import code_sha256
from worker.launcher import TRAINER
from worker.seat import Seat

TABLE, PLOT = "study.md", "study.svg"
README, BEGINS, ENDS = Path(__file__).parents[1] / "README.md", "<!-- the study's figures begin -->", "<!-- and end -->"


def main(argv: Sequence[str] | None = None) -> None:
    """Run what was asked for and is not done; a new table and plot after each training."""
    asked = parse(argv)
    results = Results(asked.out, asked.base or import_base(asked.out / "models"))
    cells = plan(asked.arms, asked.skills, asked.seeds)
    if asked.publish:
        publish(results, cells)
        return
    with results.alone(), closing(Seat(TRAINER, results.folder, WorkerSettings())) as seat:
        write(results, cells)
        while missing := results.missing(cells):
            cell = missing[0]
            print(f"{cell}. {outlook(results, missing)}", flush=True)
            train(cell, results, seat, threads=asked.threads, say=say)
            write(results, cells)
    print(f"All {len(cells)} trainings that were asked for are done: {results.folder / TABLE}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forgetting", description=__doc__)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(USUAL_ARMS))
    parser.add_argument("--skills", nargs="+", choices=SKILLS, default=list(SKILLS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--base", type=Path, help="folder of an imported base; the demo's is fetched if not given")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("build/study"))
    parser.add_argument("--publish", action="store_true", help="run nothing; make what is done a part of the project")
    return parser.parse_args(argv)


def say(phase: str) -> None:
    """What a training does now."""
    print(f"  {time.strftime('%H:%M:%S')} {phase}", flush=True)


def publish(results: Results, asked: Sequence[Cell]) -> None:
    """Figures, table and plot of all that is done into the source tree, and a summary into the README."""
    write(results, asked)
    known = done(results, asked)
    results.publish(known)
    for name in (TABLE, PLOT):
        shutil.copyfile(results.folder / name, PUBLISHED.with_name(name))
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGINS)
    summary = table.summary(outcomes(known), plan(USUAL_ARMS, list(SKILLS), SEEDS))
    README.write_text(f"{before}{BEGINS}\n{summary}\n{ENDS}{rest.partition(ENDS)[2]}", encoding="utf-8")


def outcomes(known: Mapping[Cell, Known]) -> dict[Cell, Outcome | str]:
    """What came of each, or why nothing did."""
    return {cell: one.outcome or one.failed or "" for cell, one in known.items()}


def done(results: Results, asked: Sequence[Cell]) -> dict[Cell, Known]:
    """What is known of all cells, asked for now or not."""
    seeds = sorted({*SEEDS, *(cell.seed for cell in asked)})
    cells = once(results, plan(list(ARMS), list(SKILLS), seeds))
    return {cell: known for cell in cells if (known := results.known(cell))}


def once(results: Results, cells: Sequence[Cell]) -> list[Cell]:
    """Each training once, as the first of the ways that ask for it.

    Where answers are short, the default with every rollout sampled is the default.
    """
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(results.digest(cell), cell)
    return list(first.values())


def write(results: Results, asked: Sequence[Cell]) -> None:
    """Table and plot of all that is done."""
    known = done(results, asked)
    came = outcomes(known)
    usual = plan(USUAL_ARMS, list(SKILLS), SEEDS)
    planned = once(results, [*usual, *known, *asked])
    (results.folder / TABLE).write_text(table.render(came, planned, notes(results, known)), encoding="utf-8")
    (results.folder / PLOT).write_text(plot.render(came), encoding="utf-8")


def notes(results: Results, known: Mapping[Cell, Known]) -> list[str]:
    """What holds for all of the table, or does not although it should."""
    steps: dict[str, set[int]] = {}
    for cell, one in known.items():
        if one.total_steps:
            steps.setdefault(SKILLS[cell.skill].label, set()).add(one.total_steps)
    counts = ", ".join(f"{skill} {' or '.join(map(str, sorted(some)))}" for skill, some in steps.items())
    num_other = sum(one.code != code_sha256(worker) for one in known.values())
    base = f"{results.base.name} ({results.base.source})"
    said = [f"Base: {base}. Optimizer steps of every way: {counts}."] if counts else []
    if num_other:
        said.append(f"{num_other} of these trainings were done with other code of the trainer than the present one.")
    return said


def outlook(results: Results, missing: Sequence[Cell]) -> str:
    """How many trainings are left, and how long they will take if they take what those of their way took."""
    took = [(cell.arm, one.seconds) for cell, one in done(results, missing).items() if not one.failed]
    left = [cell.arm for cell in once(results, missing)]
    if not took:
        return f"{len(left)} are left; how long they take is known after the first."
    seconds = sum(fmean([one for way, one in took if way == arm] or [one for _, one in took]) for arm in left)
    return f"{len(left)} are left, about {seconds / 3600:.1f} h."


if __name__ == "__main__":
    main()
