"""Which API a command talks to: what was named, or else the service of the home."""

import re
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from app.cli.home import Home
from app.cli.output import CliError

if TYPE_CHECKING:
    from openai import OpenAI

Url = Annotated[str | None, typer.Option("--url", envvar="SDFT_URL", help="URL of the service. [default: the home's]")]
Key = Annotated[
    str | None, typer.Option("--key", envvar="SDFT_API_KEY", help="API key. [default: the home's, for its own service]")
]


def connect(home: Home, url: str | None, key: str | None) -> "OpenAI":
    """The official client, pointed at a service.

    Raises:
        CliError: There is no service or no key to be found, or one cannot be; the message says how to name one.
    """
    from openai import OpenAI

    named, running = (url or "").strip(), home.running()
    if not named and running is None:
        raise CliError(f"No service runs below {home.root}. Start one with `sdft up`, or name one: --url or SDFT_URL.")
    own = _address(running.url) if running else None
    address = _address(named) if named else own
    key = (key or "").strip()
    if not key and address != own:  # nobody but the home's own service gets to see its key
        raise CliError(f"Name a key for {address}: --key or SDFT_API_KEY. The saved one is for the home's own service.")
    return OpenAI(base_url=f"{address}/v1", api_key=_checked(key or home.saved_key() or "", home))


def insist_on_names(*parts: str, of: str, otherwise: str) -> None:
    """Refuse what can be no name and no id: as a part of an address of the API it would lead to another one.

    Args:
        parts: Of the address.
        of: The text that they are from.
        otherwise: What that does not name, and how to write it.

    Raises:
        CliError: One is empty, or has other characters than names and ids have.
    """
    if not all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", part) for part in parts):
        raise CliError(f"{of or 'An empty text'} names no {otherwise}")


def _checked(key: str, home: Home) -> str:
    if not key:
        raise CliError(f"There is no key in {home.key_path}. Name one: --key or SDFT_API_KEY.")
    if not re.fullmatch(r"[!-~]+", key):
        raise CliError("The API key has spaces or characters that no key has; copy it again.")
    return key


def _address(url: str) -> str:
    """Where the service is, without the ``/v1`` that is always there."""
    if not re.match("https?://", url, re.IGNORECASE):
        raise CliError(f"{url} begins with neither http:// nor https://; write http://{url.rpartition('://')[2]}.")
    try:
        host, port = urlsplit(url).hostname or "", urlsplit(url).port
        usable = host.encode("idna") and port != 0 and url.isprintable() and " " not in url
    except ValueError:  # of brackets, of a port, of a name
        usable = False
    if not usable:
        raise CliError(f"{url} is no URL; write one like http://127.0.0.1:8000.")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")
