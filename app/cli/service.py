"""Runs a whole service below one home: Postgres, Valkey, the schema, one worker, the API; in this order, and back.

A part that crashes is started again, a little later each time; one that keeps crashing ends the service with the end
of its log. Nothing here is needed in production, where each process has its own supervisor.
"""

import http.client
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib.util import find_spec
from typing import TypeVar

from app.cli.home import BROKER_VARIABLE, DATABASE_VARIABLE, Home, Running
from app.cli.output import CliError
from app.db.migrate import upgrade
from app.embedded import ProcessFailed, start_postgres, start_valkey
from app.embedded.processes import OwnedProcess, start, tail

API_START_SECONDS = 60
API_STOP_SECONDS = 15
WORKER_STOP_SECONDS = 60
"""A drain takes up to 30 seconds: the trainer writes a checkpoint at its next step."""
MAX_CRASHES = 5
CRASH_WINDOW_SECONDS = 120
POLL_SECONDS = 0.2

Process = TypeVar("Process", bound=OwnedProcess)


@dataclass
class Part:
    """One process of the service, started again when it crashes."""

    launch: Callable[[], OwnedProcess]
    process: OwnedProcess
    crashed_at: list[float] = field(default_factory=list)

    def mend(self, stopping: threading.Event, say: Callable[[str], None]) -> None:
        """Start it again if it has crashed.

        Raises:
            ProcessFailed: It has crashed too often.
        """
        status = self.process.child.poll()
        if status is None:
            return
        now = time.monotonic()
        self.crashed_at = [at for at in self.crashed_at if at > now - CRASH_WINDOW_SECONDS] + [now]
        name, log = self.process.name, self.process.log
        if len(self.crashed_at) > MAX_CRASHES:
            raise ProcessFailed(f"{name} keeps ending (status {status}). The end of {log}:\n{tail(log)}")
        delay = 2.0 ** (len(self.crashed_at) - 1) / 2
        say(f"{name} ended with status {status}; starting it again in {delay:g} s (log: {log})")
        if not stopping.wait(delay):
            self.process = self.launch()

    def stop(self) -> None:
        """End it in order."""
        self.process.stop()


class Service:
    """A running service and how to reach it.

    Args:
        stopping_order: Stops the parts at its end, the last one first.
        say: Takes lines for whoever started it.
    """

    def __init__(self, stopping_order: ExitStack, say: Callable[[str], None]) -> None:
        self.url = ""
        self._parts: list[Part] = []
        self._stopping_order = stopping_order
        self._say = say

    def run(self, launch: Callable[[], Process]) -> Process:
        """Start a part, and mend it until it is stopped."""
        part = Part(launch, process := launch())
        self._parts.append(part)
        self._stopping_order.callback(part.stop)
        return process

    def watch(self, stopping: threading.Event) -> None:
        """Mend what crashes, until asked to stop.

        Raises:
            ProcessFailed: A part keeps crashing.
        """
        while not stopping.wait(POLL_SECONDS):
            for part in self._parts:
                part.mend(stopping, self._say)


@contextmanager
def run_service(home: Home, *, host: str, port: int, say: Callable[[str], None]) -> Iterator[Service]:
    """A service that answers, for the length of the block.

    Args:
        home: Held by the caller.
        host: Address to listen on.
        port: 0 takes a free one.
        say: Takes lines for whoever started it.

    Raises:
        CliError: The address is taken, or the training side is not installed.
        ProcessFailed: A part does not start; what had started is stopped by then.
    """
    if find_spec("torch") is None:
        raise CliError(
            "The training side is not installed: in the repository, pip install -c constraints.txt '.[worker]'"
        )
    port = _free_port(host, port)
    with ExitStack() as stack:
        service = Service(stack, say)
        database_url = os.environ.get(DATABASE_VARIABLE)
        if not database_url:
            database_url = service.run(lambda: start_postgres(home.folder("postgres"))).url
        broker_url = os.environ.get(BROKER_VARIABLE)
        if not broker_url:
            broker_url = service.run(lambda: start_valkey(home.folder("valkey"))).url
        upgrade(database_url)
        environment = home.environment(database_url, broker_url)
        service.run(lambda: _start_worker(home, environment))
        service.run(lambda: _start_api(home, environment, host, port))
        service.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        stack.enter_context(home.announce(Running(service.url, database_url, broker_url)))
        yield service


def _start_worker(home: Home, environment: dict[str, str]) -> OwnedProcess:
    return start(
        "worker",
        [sys.executable, "-m", "celery", "-A", "worker.celery_app", "worker", "--concurrency=1", "--loglevel=INFO"],
        folder=home.folder("run"),
        log=home.folder("logs") / "worker.log",
        env=environment,
        grace_seconds=WORKER_STOP_SECONDS,
    )


def _start_api(home: Home, environment: dict[str, str], host: str, port: int) -> OwnedProcess:
    process = start(
        "api",
        [
            sys.executable,
            "-m",
            "uvicorn",
            "--factory",
            "app.main:create_app",
            "--no-access-log",
            f"--host={host}",
            f"--port={port}",
        ],
        folder=home.folder("run"),
        log=home.folder("logs") / "api.log",
        env=environment,
        grace_seconds=API_STOP_SECONDS,
    )
    process.wait_until(lambda: _is_ready(host, port), timeout_seconds=API_START_SECONDS)
    return process


def _free_port(host: str, port: int) -> int:
    """The port itself if nobody has it, or a free one for 0."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise CliError(
            f"Cannot listen on {host} port {port}: {error.strerror}. Name another --port (0: any)."
        ) from error


def _is_ready(host: str, port: int) -> bool:
    """Whether the API answers that all it needs is there."""
    any_address = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to ask, not where to listen
    connection = http.client.HTTPConnection(any_address.get(host, host), port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()
