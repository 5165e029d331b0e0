"""``sdft demo``: starts the story of ``app.demo.run``, which is only a client of the API and of this command line."""

import os
import sys
from typing import Annotated

import typer

from app.cli.home import DEFAULT_HOME, HomeOption


def demo(
    skills: Annotated[int, typer.Option(min=1, max=3, help="Skills to train, each on top of the one before.")] = 2,
    home: HomeOption = DEFAULT_HOME,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the service running at the end.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the jobs.")] = 0,
    compare: Annotated[
        bool, typer.Option("--compare", help="Train each skill by plain fine-tuning too, and show both in the report.")
    ] = False,
) -> None:
    """Train small skills, each on top of the one before, on a small real model, on a CPU; what is learned and kept."""
    command = [sys.executable, "-m", "app.demo.run", f"--skills={skills}", f"--home={home}", f"--seed={seed}"]
    command += ["--keep"] * keep + ["--compare"] * compare
    os.execv(command[0], command)  # noqa: S606 - ours; signals reach the demo itself
