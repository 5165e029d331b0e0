"""``sdft adapters`` and ``sdft report``: what jobs left behind."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.connection import Key, Url, connect
from app.cli.home import DEFAULT_HOME, Home, HomeOption
from app.cli.output import CliError, Json, print_json, print_table, show_time

if TYPE_CHECKING:
    from openai import OpenAI

cli = typer.Typer(help="List and download adapters.", no_args_is_help=True)


@cli.command("list")
def list_(home: HomeOption = DEFAULT_HOME, url: Url = None, key: Key = None, json: Json = False) -> None:
    """List adapters and their versions."""
    client = connect(Home(home), url, key)
    adapters = _get(client, "/adapters?limit=100")["data"]
    if json:
        print_json(adapters)
        return
    columns = ("adapter", "created", "model", "starts from", "job")
    rows = (
        (f"{item['adapter']}:{item['version']}", show_time(item["created_at"]), item["model"], item["parent_model"],
         item["job_id"])
        for adapter in adapters
        for item in adapter["versions"]
    )  # fmt: skip
    print_table(columns, rows, empty="There are no adapters; a job makes one: sdft jobs create")


@cli.command()
def pull(
    adapter: Annotated[str, typer.Argument(help="NAME for the latest version, or NAME:VERSION.")],
    to: Annotated[Path | None, typer.Option(help="Folder to make. [default: ./NAME-vVERSION]")] = None,
    home: HomeOption = DEFAULT_HOME,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Download a version as a PEFT folder, every file checked against its digest."""
    from app.cli.download import pull_adapter

    client = connect(Home(home), url, key)
    name, _, number = adapter.partition(":")
    if not number:
        number = _get(client, f"/adapters/{name}")["latest_version"]
    version = _get(client, f"/adapters/{name}/versions/{number}")
    folder = to or Path(f"{name}-v{version['version']}")
    if folder.exists():
        raise CliError(f"{folder} exists; remove it, or name another folder with --to.")
    pull_adapter(client, version["archive_file_id"], folder)
    if json:
        print_json({**version, "folder": str(folder)})
    else:
        typer.echo(
            f'{folder}\nLoad it: PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), "{folder}")'
        )


@cli.command()
def lineage(
    name: Annotated[str, typer.Argument(help="Name of the adapter.")],
    home: HomeOption = DEFAULT_HOME,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Show what each version was taught and what it still knows of the skills before."""
    found = _get(connect(Home(home), url, key), f"/adapters/{name}/lineage")
    if json:
        print_json(found)
        return
    from app.cli.lineage_view import show_lineage
    from app.cli.output import console

    show_lineage(found, console())


def report(
    job: Annotated[str, typer.Argument(help="Id of a job (ftjob-...) or of an evaluation (eval-...).")],
    html: Annotated[Path | None, typer.Option(help="Also write the report as a page.")] = None,
    home: HomeOption = DEFAULT_HOME,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Show what a job's version learned and what it kept."""
    client = connect(Home(home), url, key)
    evaluation_id = _evaluation_id(client, job)
    evaluation = _get(client, f"/evaluations/{evaluation_id}")
    if html:
        accept_html: Any = {"headers": {"Accept": "text/html"}}
        html.write_text(client.get(f"/evaluations/{evaluation_id}", cast_to=str, options=accept_html))
    if json:
        print_json(evaluation)
        return
    from rich.console import Console

    from app.cli.report_view import show_report

    show_report(evaluation["report"], Console())


def _evaluation_id(client: "OpenAI", named: str) -> str:
    if named.startswith("eval-"):
        return named
    job = client.fine_tuning.jobs.retrieve(named)
    evaluation_id: str | None = getattr(job, "evaluation_id", None)
    if evaluation_id is None:
        raise CliError(f"{named} is {job.status} and has no report; a job has one once it has succeeded.")
    return evaluation_id


def _get(client: "OpenAI", path: str) -> dict[str, Any]:
    """A route that the official client has no method for."""
    answer: Any = client.get(path, cast_to=object)
    return dict(answer)
