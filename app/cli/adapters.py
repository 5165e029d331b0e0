"""``sdft adapters``: what jobs left behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.connection import Key, Url, connect, insist_on_names
from app.cli.home import DEFAULT_HOME, Home, HomeOption
from app.cli.output import CliError, Json, console, print_json, print_table, say, show_time

if TYPE_CHECKING:
    from openai import OpenAI

cli = typer.Typer(help="List, download and promote adapters.", no_args_is_help=True)


@cli.command("list")
def list_(home: HomeOption = DEFAULT_HOME, url: Url = None, key: Key = None, json: Json = False) -> None:
    """List adapters and their versions."""
    client = connect(Home(home), url, key)
    adapters = list(_all_pages(client, "/adapters"))
    if json:
        print_json(adapters)
        return
    columns = ("adapter", "aliases", "created", "model", "starts from", "gate", "job")
    rows = (
        (f"{item['adapter']}:{item['version']}", " ".join(item["aliases"]), show_time(item["created_at"]),
         item["model"], item["parent_model"], item["gate_verdict"], item["job_id"])
        for adapter in adapters
        for item in adapter["versions"]
    )  # fmt: skip
    print_table(columns, rows, empty="No adapter has a version; a job makes one: sdft jobs create")


def _all_pages(client: "OpenAI", path: str) -> Iterator[Any]:
    page = _get(client, f"{path}?limit=100")
    yield from page["data"]
    while page["has_more"]:
        page = _get(client, f"{path}?limit=100&after={page['last_id']}")
        yield from page["data"]


@cli.command()
def pull(
    adapter: Annotated[str, typer.Argument(help="NAME for the latest version, NAME:VERSION or NAME@ALIAS.")],
    to: Annotated[Path | None, typer.Option(help="Folder to make. [default: ./NAME-vVERSION]")] = None,
    home: HomeOption = DEFAULT_HOME,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Download a version as a PEFT folder, every file checked against its digest."""
    from app.cli.download import how_to_load, pull_adapter

    name, _, chosen = adapter.partition("@" if "@" in adapter else ":")
    how = "adapter; write NAME for its latest version, NAME:VERSION or NAME@ALIAS."
    insist_on_names(name, chosen or name, of=adapter, otherwise=how)
    client = connect(Home(home), url, key)
    chosen = chosen or _latest(client, name)
    version = _get(client, f"/adapters/{name}/versions/{chosen}")
    folder = to or Path(f"{name}-v{version['version']}")
    if folder.exists():
        raise CliError(f"{folder} exists; remove it, or name another folder with --to.")
    pull_adapter(client, version["archive_file_id"], folder)
    if json:
        print_json({**version, "folder": str(folder)})
    else:
        say(f"{folder}\n{how_to_load(folder)}")


def _latest(client: "OpenAI", name: str) -> str:
    latest = _get(client, f"/adapters/{name}")["latest_version"]
    if latest is None:
        raise CliError(f"{name} has no version left: all were deleted; a job makes another one: sdft jobs create")
    return str(latest)


@cli.command()
def promote(
    version: Annotated[str, typer.Argument(metavar="NAME:VERSION", help="The version to point at.")],
    alias: Annotated[str, typer.Option(help="Which alias, e.g. production; made if there is none.")],
    override: Annotated[bool, typer.Option("--override", help="Move it although no gate was passed.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why, for the audit log; an override needs it.")] = None,
    if_match: Annotated[
        str | None, typer.Option(metavar="ETAG", help="Only if the alias has not moved since; audit_log_id of --json.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Point an alias at a version. Exit code 2 if the version did not pass its gate."""
    name, _, number = version.partition(":")
    written = (name, number if number.isdecimal() else "")
    insist_on_names(*written, of=version, otherwise="version; write NAME:VERSION, like my-adapter:3.")
    insist_on_names(alias, of=alias, otherwise="alias; write one like --alias production.")
    body = {"version": int(number), "override": override, "reason": reason}
    client = connect(Home(home), url, key)
    expected: Any = {"headers": {"If-Match": if_match}} if if_match is not None else {}
    with _hint_at_override():
        moved: Any = client.put(f"/adapters/{name}/aliases/{alias}", cast_to=object, body=body, options=expected)
    if json:
        print_json(moved)
    else:
        say(f"{name}@{alias} points at {name}:{moved['version']} ({moved['model']}).")


@contextmanager
def _hint_at_override() -> Iterator[None]:
    """Say what the service's advice is called here."""
    from openai import APIStatusError

    try:
        yield
    except APIStatusError as error:
        if error.code == "gate_not_passed":
            error.add_note("Here: --override --reason TEXT.")
        raise


@cli.command("remove-alias")
def remove_alias(
    alias: Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="The alias to take away; its version stays.")],
    reason: Annotated[str | None, typer.Option(help="Why, for the audit log.")] = None,
    home: HomeOption = DEFAULT_HOME,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Take an alias away."""
    adapter, _, name = alias.partition("@")
    insist_on_names(adapter, name, of=alias, otherwise="alias; write NAME@ALIAS, like my-adapter@production.")
    because: Any = {"params": {"reason": reason}} if reason else {}
    removed: Any = connect(Home(home), url, key).delete(
        f"/adapters/{adapter}/aliases/{name}", cast_to=object, options=because
    )
    if json:
        print_json(removed)
    else:
        say(f"{alias} is gone; its version stays.")


@cli.command()
def audit(home: HomeOption = DEFAULT_HOME, url: Url = None, key: Key = None, json: Json = False) -> None:
    """Show the last hundred moves of aliases: who made them, and why."""
    entries = _get(connect(Home(home), url, key), "/audit_logs?limit=100")["data"]
    if json:
        print_json(entries)
        return
    columns = ("when", "alias", "from", "to", "by", "override", "reason")
    rows = (
        (show_time(entry["created_at"]), entry["subject"], entry["details"]["from_version"],
         entry["details"]["to_version"] or "removed", entry["actor"],
         "yes" if entry["details"].get("override") else "", entry["details"].get("reason"))
        for entry in entries
    )  # fmt: skip
    print_table(columns, rows, empty="No alias was ever moved; sdft adapters promote moves one.")


@cli.command()
def lineage(
    name: Annotated[str, typer.Argument(help="Name of the adapter.")],
    home: HomeOption = DEFAULT_HOME,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Show what each version was taught and what it still knows of the skills before."""
    insist_on_names(name, of=name, otherwise="adapter; write its name alone, like my-adapter.")
    found = _get(connect(Home(home), url, key), f"/adapters/{name}/lineage")
    if json:
        print_json(found)
        return
    from app.cli.lineage_view import show_lineage

    show_lineage(found, console())


def _get(client: "OpenAI", path: str) -> dict[str, Any]:
    """A route that the official client has no method for."""
    answer: Any = client.get(path, cast_to=object)
    return dict(answer)
