"""``sdft evaluate``: ask versions that exist, without training anything."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.connection import Key, Url, connect
from app.cli.files import send
from app.cli.home import DEFAULT_HOME, Home, HomeOption
from app.cli.output import JOB_FAILED_EXIT_CODE, CliError, Json, console, print_json, say
from app.cli.report import why_no_report

if TYPE_CHECKING:
    from openai import OpenAI

_WORDS = ("lineage", "general")
"""Suites that are not to be taken for files of these names."""


def evaluate(
    versions: Annotated[list[str], typer.Argument(metavar="VERSION...", help="NAME:VERSION or NAME@ALIAS.")],
    against: Annotated[
        str | None, typer.Option(help="Another version, or base. [default: what each started from]")
    ] = None,
    suite: Annotated[
        list[str],
        typer.Option(
            help="lineage, general, a version for its skill, your own questions (an uploaded file's id, or a path to "
            "upload), or lm_eval:NAME, a task of lm-evaluation-harness; repeat. [default: lineage, general]"
        ),
    ] = [],  # noqa: B006 - typer copies it
    watch: Annotated[bool, typer.Option("--watch", help="Wait for the reports and show them.")] = False,
    home: HomeOption = DEFAULT_HOME,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Queue an evaluation of each version. With --watch exit code 3 if one fails or is cancelled."""
    for named in suite:
        _refuse_missing(named)
    client = connect(Home(home), url, key)
    asked = {"against": against, "suites": [_suite(client, named) for named in suite] or None}
    body = {name: value for name, value in asked.items() if value is not None}
    queued = []
    for version in versions:  # each told of at once: a later one may be refused
        queued.append(_post(client, {"version": version} | body))
        if watch:
            say(f"{queued[-1]['id']} is queued.", err=True)
        else:
            _show(queued[-1], json=json, watched=False)
    if watch:
        ended = [_follow(client, evaluation, json=json) for evaluation in queued]
        for evaluation in ended:
            _show(evaluation, json=json, watched=True)
        if any(evaluation["status"] != "succeeded" for evaluation in ended):
            raise typer.Exit(JOB_FAILED_EXIT_CODE)


def _suite(client: "OpenAI", named: str) -> str:
    """Upload what is a path; the service knows every other name."""
    path = Path(named)
    return send(client, path, "evals").id if named not in _WORDS and path.is_file() else named


def _refuse_missing(named: str) -> None:
    """Refuse what can only be meant as a path, and is none."""
    if (path := Path(named)).suffix and not path.is_file() and not set(named) & {":", "@"}:
        raise CliError(f"--suite: {named} is no file on this machine.")


def _post(client: "OpenAI", body: dict[str, Any]) -> dict[str, Any]:
    answer: Any = client.post("/evaluations", cast_to=object, body=body)
    return dict(answer)


def _follow(client: "OpenAI", evaluation: dict[str, Any], *, json: bool) -> dict[str, Any]:
    """Wait until it has ended, telling on a terminal what it does."""
    import time

    from app.cli.watch import POLL_SECONDS, TERMINAL

    name = f"{evaluation['adapter']}:{evaluation['version']}"
    with console(width=None, stderr=True, quiet=json).status(f"{name}: {evaluation['phase']}") as status:
        while evaluation["status"] not in TERMINAL:
            time.sleep(POLL_SECONDS)
            answer: Any = client.get(f"/evaluations/{evaluation['id']}", cast_to=object)
            evaluation = dict(answer)
            done = evaluation["progress"]
            count = f" {done['done']}/{done['total']}" if done["total"] else ""
            status.update(f"{name}: {evaluation['phase']}{count}")
    return evaluation


def _show(evaluation: dict[str, Any], *, json: bool, watched: bool) -> None:
    if json:
        print_json(evaluation)
    elif evaluation["report"]:
        from app.cli.report_view import show_report

        show_report(evaluation["report"], evaluation["gate"], console(width=None))
    elif watched:
        say(why_no_report(evaluation))
    else:
        say(f"{evaluation['id']}\nRead it once it is done: sdft report {evaluation['id']}")
