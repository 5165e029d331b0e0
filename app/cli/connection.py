"""Which API a command talks to: what was named, or else the service of the home."""

from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.home import Home
from app.cli.output import CliError

if TYPE_CHECKING:
    from openai import OpenAI

Url = Annotated[str | None, typer.Option("--url", envvar="SDFT_URL", help="URL of the service. [default: the home's]")]
Key = Annotated[str | None, typer.Option("--key", envvar="SDFT_API_KEY", help="API key. [default: the home's]")]


def connect(home: Home, url: str | None, key: str | None) -> "OpenAI":
    """The official client, pointed at a service.

    Raises:
        CliError: There is no service or no key to be found; the message says how to name one.
    """
    from openai import OpenAI

    if url is None:
        running = home.running()
        if running is None:
            raise CliError(
                f"No service runs below {home.root}. Start one with `sdft up`, or name one: --url or SDFT_URL."
            )
        url = running.url
    key = key or home.saved_key()
    if key is None:
        raise CliError(f"There is no key in {home.key_path}. Name one: --key or SDFT_API_KEY.")
    base = url.rstrip("/")
    return OpenAI(base_url=base if base.endswith("/v1") else f"{base}/v1", api_key=key)
