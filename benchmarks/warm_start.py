"""How long a job waits for its first step: in a trainer that starts for it, and in one that has just finished another.

``python -m benchmarks.warm_start --home DIR --model NAME`` beside a running ``sdft up``. Posts the same small job again
and again, watches each through the API until it trains, and lets it finish: only then does its trainer stay.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Final

from openai import OpenAI

from app.cli.connection import connect
from app.cli.home import Home
from app.demo.skills import DATA

LOOK_SECONDS: Final = 0.02
NUM_EXAMPLES: Final = 24
HYPERPARAMETERS: Final = {"n_epochs": 1, "batch_size": 8, "max_completion_tokens": 16}
PHASES: Final = ("claimed", "loading", "checking", "training", "first step")


def main() -> None:
    """Print a line for each job: seconds from its post to the begin of each phase."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.warm_start", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--jobs", type=int, default=3)
    asked = parser.parse_args()
    client = connect(Home(asked.home), None, None)
    file_id = _upload(client)
    print("job".ljust(6), *(phase.rjust(11) for phase in PHASES))
    for number in range(1, asked.jobs + 1):
        seconds = _waits(client, asked.model, file_id)
        print(str(number).ljust(6), *(f"{seconds[phase]:11.2f}" for phase in PHASES), flush=True)
    print("Seconds since the post. Job 1 may have to start its trainer; each later one finds it waiting.")


def _upload(client: OpenAI) -> str:
    lines = (DATA / "route.jsonl").read_bytes().splitlines(keepends=True)[:NUM_EXAMPLES]
    return client.files.create(file=("warm.jsonl", b"".join(lines)), purpose="fine-tune").id


def _waits(client: OpenAI, model: str, file_id: str) -> dict[str, float]:
    """Post a job and see it through."""
    method = {"type": "sdft", "sdft": {"hyperparameters": HYPERPARAMETERS}}
    posted = time.perf_counter()
    job = client.fine_tuning.jobs.create(model=model, training_file=file_id, method=method)  # type: ignore[arg-type]
    seconds: dict[str, float] = {}
    while job.status in {"queued", "running"}:
        state = json.loads(client.fine_tuning.jobs.with_raw_response.retrieve(job.id).text)
        job.status = state["status"]
        passed = time.perf_counter() - posted
        reached = [state["phase"]] + ["first step"] * ((state["progress"]["step"] or 0) > 0)
        for phase in PHASES[: 1 + max((PHASES.index(name) for name in reached if name in PHASES), default=-1)]:
            seconds.setdefault(phase, passed)  # what went by between two looks began no later
        time.sleep(LOOK_SECONDS if "first step" not in seconds else 1.0)
    if job.status != "succeeded":
        raise SystemExit(f"The job {job.id} is {job.status}: see sdft jobs show {job.id}")
    return seconds


if __name__ == "__main__":
    main()
