"""``sdft evaluations``: list, show and cancel what ``sdft evaluate`` asked for, and what jobs made."""

from typing import Annotated, Any

import typer

from app.cli.connection import Key, Url, connect, insist_on_names
from app.cli.home import DEFAULT_HOME, Home, HomeOption
from app.cli.output import Json, print_fields, print_json, print_table, say, show_time

cli = typer.Typer(help="List, show and cancel evaluations.", no_args_is_help=True)


def _named(evaluation_id: str) -> str:
    insist_on_names(evaluation_id, of=evaluation_id, otherwise="evaluation; give the id of one, eval-...")
    return evaluation_id


EvaluationId = Annotated[
    str, typer.Argument(metavar="EVALUATION", help="Id of the evaluation: eval-...", callback=_named)
]


@cli.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    home: HomeOption = DEFAULT_HOME,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """List evaluations, newest first."""
    found: Any = connect(Home(home), url, key).get(f"/evaluations?limit={limit}", cast_to=object)
    if json:
        print_json(found["data"])
        return
    columns = ("evaluation", "created", "status", "version", "against", "suites", "job")
    rows = (
        (one["id"], show_time(one["created_at"]), one["status"], f"{one['adapter']}:{one['version']}", one["against"],
         " ".join(one["suites"] or ()), one["job_id"])
        for one in found["data"]
    )  # fmt: skip
    print_table(columns, rows, empty="There are no evaluations; jobs make them, and so does: sdft evaluate")


@cli.command()
def show(
    evaluation: EvaluationId, home: HomeOption = DEFAULT_HOME, url: Url = None, key: Key = None, json: Json = False
) -> None:
    """Show an evaluation as it stands. What it measured: sdft report."""
    found: Any = connect(Home(home), url, key).get(f"/evaluations/{evaluation}", cast_to=object)
    if json:
        print_json(found)
    else:
        print_fields({name: value for name, value in found.items() if name != "report"})


@cli.command()
def cancel(
    evaluation: EvaluationId, home: HomeOption = DEFAULT_HOME, url: Url = None, key: Key = None, json: Json = False
) -> None:
    """End an evaluation that was asked for by itself."""
    found: Any = connect(Home(home), url, key).post(f"/evaluations/{evaluation}/cancel", cast_to=object)
    if json:
        print_json(found)
    else:
        say(f"{found['id']} is {'cancelled' if found['status'] == 'cancelled' else 'being cancelled'}.")
