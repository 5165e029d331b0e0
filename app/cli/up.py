"""``sdft up``: the whole service under one folder, until it is told to stop."""

import signal
import threading
from contextlib import suppress
from typing import Annotated

import typer

from app.cli.home import DEFAULT_HOME, Home, HomeOption
from app.cli.output import Json, print_json, say

DEFAULT_PROJECT = "default"


def up(
    home: HomeOption = DEFAULT_HOME,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    json: Json = False,
) -> None:
    """Run database, broker, worker and API until Ctrl-C or SIGTERM; the next start finds everything as it was.

    Every request needs an API key; the first start makes one. SDFT_DATABASE__URL and SDFT_BROKER__URL, where set,
    are used instead of the embedded servers.
    """
    from app.cli.service import run_service

    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    place = Home(home)

    def tell(line: str) -> None:
        say(line, err=True)

    with place.hold():
        with run_service(place, host=host, port=port, say=tell) as service:
            new_key = _ensure_key(place)
            if json:
                print_json({"url": service.url, "home": str(place.root), "api_key": new_key})
            else:
                _welcome(service.url, place, new_key)
            service.watch(stopping)
            tell("Stopping. A job in training writes a checkpoint first and goes on at the next start.")
        tell("Stopped.")


def _ensure_key(home: Home) -> str | None:
    """Make a key, unless the saved one opens this database. None if it does."""
    from app.cli.home import operator_resources
    from app.db.session import transaction
    from app.domain.errors import Unauthenticated
    from app.services.access import authenticate, create_key

    with operator_resources(home) as resources, transaction(resources.sessions) as session:
        with suppress(Unauthenticated):
            authenticate(session, home.saved_key())
            return None
        secret = create_key(session, project=DEFAULT_PROJECT, name="sdft up").secret
        # Inside the transaction: a key that could not be saved does not exist.
        home.save_key(secret)
    return secret


def _welcome(url: str, home: Home, new_key: str | None) -> None:
    shown = new_key or f"$(cat {home.key_path})"
    first = "" if new_key is None else f"  API key  {new_key}  (also in {home.key_path})\n"
    say(
        f"The service runs at {url} (Ctrl-C stops it).\n"
        f"  Home     {home.root}\n{first}"
        f"  OpenAI   export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY={shown}\n"
        f"  Docs     {url}/docs"
    )
