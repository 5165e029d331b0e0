"""The home folder of an embedded service: where everything lies, who holds it, and how to reach what runs there.

::

    lock            held by the `sdft up` or the operator command that owns the folder now
    service.json    how to reach what runs: written when it is ready, gone after an orderly stop
    key             an API key, for this machine's own commands; readable by its owner only
    postgres/ valkey/ store/ models/ work/ logs/ run/
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.output import CliError

if TYPE_CHECKING:
    from app.resources import Resources

HomeOption = Annotated[
    Path, typer.Option("--home", envvar="SDFT_HOME", help="Folder of the embedded service.", show_default="~/.sdft")
]
DEFAULT_HOME = Path("~/.sdft")
DATABASE_VARIABLE = "SDFT_DATABASE__URL"
BROKER_VARIABLE = "SDFT_BROKER__URL"
STORE_VARIABLE = "SDFT_STORAGE__ROOT"
MODELS_VARIABLE = "SDFT_STORAGE__MODELS"
_NO_BROKER = "redis+socket:///an-operator-rings-nobody"


@dataclass(frozen=True)
class Running:
    """How to reach what runs below a home."""

    url: str
    database_url: str
    broker_url: str


class Home:
    """One folder with all of a service in it.

    Args:
        root: The folder; made, private, when something is put into it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        self.key_path = self.root / "key"
        self._service_path = self.root / "service.json"

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Own the folder; the kernel lets go of it when this process ends, however it ends.

        Raises:
            CliError: Another process has it.
        """
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.root / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                running = self.running()
                at = f" at {running.url}" if running else ""
                raise CliError(
                    f"A service is running below {self.root}{at}; stop it, or name another --home."
                ) from None
            yield

    def running(self) -> Running | None:
        """What was last announced and not taken back; after a kill -9 it may be gone all the same."""
        try:
            return Running(**json.loads(self._service_path.read_text()))
        except FileNotFoundError:
            return None

    @contextmanager
    def announce(self, running: Running) -> Iterator[None]:
        """Let commands on this machine find the service while it runs."""
        _write_private(self._service_path, json.dumps(asdict(running)))
        try:
            yield
        finally:
            self._service_path.unlink(missing_ok=True)

    def saved_key(self) -> str | None:
        """The key for this machine's own commands."""
        try:
            return self.key_path.read_text().strip()
        except FileNotFoundError:
            return None

    def save_key(self, secret: str) -> None:
        """Keep a key for this machine's own commands."""
        _write_private(self.key_path, secret)

    def folder(self, name: str) -> Path:
        """A folder below the home, made if missing."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def environment(self, database_url: str, broker_url: str) -> dict[str, str]:
        """The settings of this service as a process's environment; what is set there already wins."""
        return {
            DATABASE_VARIABLE: database_url,
            BROKER_VARIABLE: broker_url,
            STORE_VARIABLE: str(self.folder("store")),
            MODELS_VARIABLE: str(self.folder("models")),
            "SDFT_STORAGE__WORK": str(self.folder("work")),
            **os.environ,
        }


@contextmanager
def operator_resources(home: Home) -> Iterator["Resources"]:
    """Database and store for a command of the operator.

    The ones that ``SDFT_*`` settings name, or else the home's: of the service that runs there, or of a database
    started for the length of this command.
    """
    from app.db.session import make_sessions
    from app.dispatch import Broker
    from app.resources import Resources
    from app.storage.store import Store

    with ExitStack() as stack:
        database_url = os.environ.get(DATABASE_VARIABLE) or _database_url(home, stack)
        environment = home.environment(database_url, _NO_BROKER)
        resources = Resources(
            sessions=make_sessions(database_url, pool_size=1),
            store=Store(Path(environment[STORE_VARIABLE])),
            broker=Broker(_NO_BROKER, key_prefix=""),
            models=Path(environment[MODELS_VARIABLE]),
        )
        stack.callback(resources.close)
        yield resources


def _database_url(home: Home, stack: ExitStack) -> str:
    try:
        stack.enter_context(home.hold())
    except CliError:
        running = home.running()
        if running is None:
            raise
        return running.database_url
    return stack.enter_context(_database_for_one_command(home))


@contextmanager
def _database_for_one_command(home: Home) -> Iterator[str]:
    from app.db.migrate import upgrade
    from app.embedded import start_postgres

    with start_postgres(home.folder("postgres")) as server:
        upgrade(server.url)
        yield server.url


def _write_private(path: Path, content: str) -> None:
    """Whole or not at all, and never readable by others, not even for a moment."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as target:
        target.write(content)
    new.rename(path)
