"""``sdft keys``: who may use the API. For the operator: it talks to the database, not to the API."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.home import DEFAULT_HOME, Home, HomeOption, operator_resources
from app.cli.output import CliError, Json, print_json, print_table, say
from app.cli.up import DEFAULT_PROJECT

if TYPE_CHECKING:
    from app.db.models import ApiKey

cli = typer.Typer(help="Make, list and revoke API keys (operator).", no_args_is_help=True)


@cli.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for, e.g. who holds it.")],
    project: Annotated[str, typer.Option(help="Files, jobs and adapters of a project are seen by its keys only.")] = (
        DEFAULT_PROJECT
    ),
    days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Refused after so many. [default: only once it is revoked]")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Make a key. It is shown once: only its hash is stored."""
    from app.db.session import transaction
    from app.domain.characters import is_blank
    from app.services.access import create_key, list_keys

    if is_blank(name):
        raise typer.BadParameter("A key needs a name: say what it is for, or who holds it.")
    with operator_resources(Home(home)) as resources, transaction(resources.sessions) as session:
        same = (key for key, of in list_keys(session) if (of.name, key.name) == (project, name))
        if taken := next((key for key in same if _opens(key)), None):
            raise CliError(f"{taken.id} is called {name} already: revoke it (sdft keys revoke), or take another name.")
        expires_at = datetime.now(UTC) + timedelta(days=days) if days else None
        key = create_key(session, project=project, name=name, expires_at=expires_at)
    if json:
        print_json({"id": key.id, "name": name, "project": project, "expires_at": expires_at, "api_key": key.secret})
    else:
        say(f"{key.secret}\nKeep it: it cannot be shown again. To take it back: sdft keys revoke {key.id}")


@cli.command("list")
def list_(home: HomeOption = DEFAULT_HOME, json: Json = False) -> None:
    """List keys; the keys themselves are not stored."""
    from app.db.session import transaction
    from app.services.access import list_keys

    with operator_resources(Home(home)) as resources, transaction(resources.sessions) as session:
        rows = [
            {
                "id": key.id,
                "name": key.name,
                "project": project.name,
                "created_at": key.created_at,
                "last_used_at": key.last_used_at,
                "expires_at": key.expires_at,
                "revoked_at": key.revoked_at,
            }
            for key, project in list_keys(session)
        ]
    if json:
        print_json(rows)
    else:
        columns = ("id", "name", "project", "created_at", "last_used_at", "expires_at", "revoked_at")
        print_table(columns, ([row[column] for column in columns] for row in rows), empty="There are no keys.")


@cli.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Id of the key, as `sdft keys list` shows it.")],
    home: HomeOption = DEFAULT_HOME,
    json: Json = False,
) -> None:
    """Refuse a key from now on."""
    from app.db.session import transaction
    from app.services.access import revoke_key

    with operator_resources(Home(home)) as resources, transaction(resources.sessions) as session:
        revoked_at = revoke_key(session, key).revoked_at
    if json:
        print_json({"id": key, "revoked_at": revoked_at})
    else:
        say(f"{key} is refused from now on.")


def _opens(key: "ApiKey") -> bool:
    """Whether it is neither revoked nor expired."""
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > datetime.now(UTC))
