"""``sdft report``: what an evaluation measured, at the terminal, as a page, or as JSON."""

import tempfile
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.connection import Key, Url, connect, insist_on_names
from app.cli.home import DEFAULT_HOME, Home, HomeOption
from app.cli.output import CliError, Json, console, insist_on_pass, print_json
from app.domain.lifecycle import without_report

if TYPE_CHECKING:
    from openai import OpenAI

_OTHERWISE = "job (ftjob-...), no evaluation (eval-...) and no version (NAME:VERSION, NAME@ALIAS)."


def report(
    of: Annotated[
        str,
        typer.Argument(
            metavar="JOB|EVALUATION|VERSION",
            help="Id of a job (ftjob-...) or of an evaluation (eval-...); or NAME:VERSION, NAME@ALIAS.",
        ),
    ],
    open_: Annotated[bool, typer.Option("--open", help="Also open the report's page in a browser.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the report's page.")] = None,
    home: HomeOption = DEFAULT_HOME,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Show what a job's version learned and what it kept. Exit code 2 if it did not pass its gate."""
    client = connect(Home(home), url, key)
    evaluation_id = _evaluation_id(client, of)
    evaluation: Any = client.get(f"/evaluations/{evaluation_id}", cast_to=object)
    if evaluation["report"] is None:
        raise CliError(why_no_report(evaluation))
    if json:
        print_json(evaluation)
    else:
        from app.cli.report_view import show_report

        show_report(evaluation["report"], evaluation["gate"], console(width=None))
    if open_ or html:
        path = html or Path(tempfile.mkdtemp(prefix="sdft-")) / "report.html"
        path.write_text(_page(client, evaluation_id), encoding="utf-8")
        if open_:
            _open(path)
    insist_on_pass(evaluation["gate"])


def why_no_report(found: Mapping[str, Any]) -> str:
    """Of a job or an evaluation, as the API has it, why there is no report."""
    error = found["error"] or {}
    stands = without_report(found["status"], found["phase"], error.get("code"), error.get("message"))
    return f"{found['id']} {stands}"


def _evaluation_id(client: "OpenAI", named: str) -> str:
    if named.startswith("eval-"):
        insist_on_names(named, of=named, otherwise=_OTHERWISE)
        return named
    if not named.startswith("ftjob-"):
        return _made_with(client, named)
    job = client.fine_tuning.jobs.retrieve(named)
    evaluation_id: str | None = getattr(job, "evaluation_id", None)
    if evaluation_id is None:
        raise CliError(why_no_report(job.to_dict()))
    return evaluation_id


def _made_with(client: "OpenAI", version: str) -> str:
    """The evaluation that a job made with its version."""
    name, _, chosen = version.partition("@" if "@" in version else ":")
    insist_on_names(name, chosen, of=version, otherwise=_OTHERWISE)
    found: Any = client.get(f"/adapters/{name}/versions/{chosen}", cast_to=object)
    if found["evaluation_id"] is None:
        raise CliError(f"{version} has no report.")
    return str(found["evaluation_id"])


def _page(client: "OpenAI", evaluation_id: str) -> str:
    accept_html: Any = {"headers": {"Accept": "text/html"}}
    return client.get(f"/evaluations/{evaluation_id}", cast_to=str, options=accept_html)


def _open(page: Path) -> None:
    if not webbrowser.open(page.resolve().as_uri()):
        raise CliError(f"No browser could be started here; the page lies in {page}.")
