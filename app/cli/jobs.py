"""``sdft jobs``: create, list, show, watch and cancel training jobs."""

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from app.cli.connection import Key, Url, connect
from app.cli.estimate_view import show_estimate
from app.cli.files import send
from app.cli.home import DEFAULT_HOME, Home, HomeOption
from app.cli.output import (
    JOB_FAILED_EXIT_CODE,
    CliError,
    Json,
    console,
    insist_on_pass,
    print_fields,
    print_json,
    print_table,
    say,
    show_time,
)

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.fine_tuning import FineTuningJob

cli = typer.Typer(help="Create, list, show, watch and cancel training jobs.", no_args_is_help=True)


def _named(job_id: str) -> str:
    if not job_id.strip():
        raise typer.BadParameter("An empty text names no job; give the id of one, ftjob-...")
    return job_id


JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job: ftjob-...", callback=_named)]
Pairs = Annotated[list[str], typer.Option(metavar="NAME=VALUE", help="Repeat for more.")]


@cli.command()
def create(
    model: Annotated[str, typer.Option(help="Base model, as `sdft models list` shows it.")],
    training_file: Annotated[str, typer.Option(help="Id of an uploaded file, or a path to upload.")],
    validation_file: Annotated[str | None, typer.Option(help="The same, for held-out demonstrations.")] = None,
    suffix: Annotated[str | None, typer.Option(help="Name of the adapter; an existing one gets a new version.")] = None,
    parent: Annotated[str | None, typer.Option(help='Version to start from: "name:3" or "name@alias".')] = None,
    method: Annotated[Literal["sdft", "supervised"], typer.Option(help="How to train.")] = "sdft",
    seed: Annotated[int | None, typer.Option(help="Same seed, same result on the same machine.")] = None,
    set_: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Hyperparameter, like preset=retain or objective.kind=isdft; repeat."
        ),
    ] = [],  # noqa: B006
    gate: Annotated[
        list[str],
        typer.Option(metavar="NAME=VALUE", help="What to show: min_gain, max_forgetting, confidence, on_pass; repeat."),
    ] = [],  # noqa: B006 - typer copies it
    suite: Annotated[
        list[str],
        typer.Option(
            metavar="SUITE",
            help="Questions of your own: id of an uploaded file, or a path; or lm_eval:NAME, a task of "
            "lm-evaluation-harness; repeat.",
        ),
    ] = [],  # noqa: B006 - typer copies it
    scorer: Annotated[str | None, typer.Option(help="Of the skill's held-out answers; see docs/evaluation.md.")] = None,
    tolerance: Annotated[float | None, typer.Option(help="Of the scorer numeric.")] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="supervised[=LEARNING_RATE]",
            help="Train plain fine-tuning on the same data too, for the report only.",
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Train so many times, 1 to 5, and report each; the first is the version.")
    ] = None,
    metadata: Pairs = [],  # noqa: B006 - typer copies it
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job until it ends.")] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only say what the job would take; a path is uploaded.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Create a job, or say what it would take. With --watch the exit code says how it ended."""
    from app.domain.evaluation import TASK_PREFIX

    # All that can be refused here is, before anything is uploaded.
    hyperparameters = _nested(_pairs(set_))
    labels = _pairs(metadata)
    ours = {
        "parent_adapter": parent,
        "gate": {name: _value(text) for name, text in _pairs(gate).items()},
        "compare": [_comparison(compare)] if compare else None,
    }
    files = [name for name in suite if not name.startswith(TASK_PREFIX)]
    named = {"--training-file": [training_file], "--validation-file": [validation_file or ""], "--suite": files}
    local = [_is_local(name, option) for option, names in named.items() for name in names if name]
    client = connect(Home(home), url, key)
    if any(local):
        _insist_on_base(client, model)
    request: dict[str, Any] = {
        "model": model,
        "training_file": _file_id(client, training_file),
        "validation_file": _file_id(client, validation_file) if validation_file else None,
        "suffix": suffix,
        "seed": seed,
        "method": {"type": method, method: {"hyperparameters": hyperparameters}},
        "metadata": labels or None,
    }
    measured = {
        "scorer": scorer,
        "tolerance": tolerance,
        "suites": [_file_id(client, name, purpose="evals") if name in files else name for name in suite] or None,
        "seeds": seeds,
    }
    ours["evaluation"] = {name: value for name, value in measured.items() if value is not None}
    request = {name: value for name, value in request.items() if value is not None}
    ours = {name: value for name, value in ours.items() if value}
    if estimate:
        show_estimate(client, request | ours, as_json=json)
        return
    job = client.fine_tuning.jobs.create(**request, extra_body=ours or None)
    if watch:
        say(f"{job.id} is queued.", err=True)
        _follow(client, job.id, json=json)
    elif json:
        print_json(job.to_dict())
    else:
        say(f"{job.id}\nFollow it: sdft jobs watch {job.id}")


@cli.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    metadata: Pairs = [],  # noqa: B006 - typer copies it
    home: HomeOption = DEFAULT_HOME,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """List jobs, newest first."""
    client = connect(Home(home), url, key)
    filters: dict[str, Any] = {"metadata": _pairs(metadata)} if metadata else {}
    jobs = client.fine_tuning.jobs.list(limit=limit, **filters).data
    if json:
        print_json([job.to_dict() for job in jobs])
        return
    columns = ("job", "created", "status", "model", "fine-tuned model")
    rows = ((job.id, show_time(job.created_at), job.status, job.model, job.fine_tuned_model) for job in jobs)
    print_table(columns, rows, empty="There are no jobs; create one with: sdft jobs create")


@cli.command()
def show(job: JobId, home: HomeOption = DEFAULT_HOME, url: Url = None, key: Key = None, json: Json = False) -> None:
    """Show a job as it stands."""
    found = connect(Home(home), url, key).fine_tuning.jobs.retrieve(job).to_dict()
    if json:
        print_json(found)
    else:
        print_fields(found)


@cli.command()
def watch(job: JobId, home: HomeOption = DEFAULT_HOME, url: Url = None, key: Key = None, json: Json = False) -> None:
    """Follow a job until it ends: phase, step, loss, speed, time left.

    Exit code 2 if its version does not pass its gate, 3 if it fails or is cancelled.
    """
    _follow(connect(Home(home), url, key), job, json=json)


@cli.command()
def cancel(job: JobId, home: HomeOption = DEFAULT_HOME, url: Url = None, key: Key = None, json: Json = False) -> None:
    """End a job; what it had trained is thrown away."""
    found = connect(Home(home), url, key).fine_tuning.jobs.cancel(job)
    if json:
        print_json(found.to_dict())
    else:
        say(f"{found.id} is {'cancelled' if found.status == 'cancelled' else 'being cancelled'}.")


def _follow(client: "OpenAI", job_id: str, *, json: bool) -> None:
    from app.cli.watch import follow, watch

    if json:
        job = follow(client, job_id, on_event=lambda event: print_json(event.to_dict()), on_state=lambda _: None)
        print_json(job.to_dict())
    else:
        job = watch(client, job_id, console(width=None))
        say(_ending(job))
    if job.status != "succeeded":
        raise typer.Exit(JOB_FAILED_EXIT_CODE)
    insist_on_pass(getattr(job, "gate", None))


def _ending(job: "FineTuningJob") -> str:
    if job.status == "succeeded":
        adapter = getattr(job, "adapter", None) or {}
        pulled = f"{adapter.get('name')}:{adapter.get('version')}"
        gate = getattr(job, "gate", None)
        judged = f"Gate: {gate['verdict'].replace('_', ' ')}\n" if gate else ""
        return f"{job.fine_tuned_model}\n{judged}Report: sdft report {job.id}\nAdapter: sdft adapters pull {pulled}"
    if job.error and job.error.code:
        return f"The job failed ({job.error.code}): {job.error.message}"
    return f"The job was {job.status}."


def _comparison(text: str) -> str | dict[str, Any]:
    """What to compare with: a name, or a name with the learning rate that it is to have."""
    method, equals, rate = text.partition("=")
    return {"method": method, "learning_rate": _value(rate)} if equals else method


def _is_local(named: str, option: str) -> bool:
    """Whether an option names a file on this machine; else it must name an uploaded one."""
    if not (is_local := Path(named).is_file()) and not named.startswith("file-"):
        raise CliError(f"{option}: {named} is neither a file on this machine nor the id of an uploaded one (file-...).")
    return is_local


def _insist_on_base(client: "OpenAI", model: str) -> None:
    """Refuse a model that jobs cannot train on, which the service would do after the uploads."""
    bases = [one.id for one in client.models.list() if one.to_dict().get("base_model") is None]
    if model not in bases:
        known = ", ".join(bases) or "none yet"
        raise CliError(f"--model: {model} is no base model that can be trained here; there are: {known}.")


def _file_id(client: "OpenAI", named: str, *, purpose: Literal["fine-tune", "evals"] = "fine-tune") -> str:
    """Upload what is a path; a file's id is taken as it is."""
    path = Path(named)
    if not path.is_file():
        return named
    file = send(client, path, purpose)
    say(f"{path} is uploaded as {file.id}.", err=True)  # to be named the next time
    return file.id


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise CliError(f"{text!r} has no value; write NAME=VALUE.")
        pairs[name] = value
    return pairs


def _nested(pairs: dict[str, str]) -> dict[str, Any]:
    """Hyperparameters by their dotted names, as the objects that the service takes."""
    found: dict[str, Any] = {}
    for name, text in pairs.items():
        *path, last = name.split(".")
        place = found
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise CliError(f"--set {name}: {part} is set already, to {place}.")
        if last in place:
            raise CliError(f"--set {name} is set twice.")
        place[last] = _value(text)
    return found


def _value(text: str) -> Any:
    """A hyperparameter as JSON where it is that (numbers, objects), else as text."""
    try:
        return jsonlib.loads(text)
    except ValueError:
        return text
