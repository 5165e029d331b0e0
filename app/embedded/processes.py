"""Processes of ours that the next start can find, whatever happened to whoever started them.

Each runs in its own session and inherits a locked file, its record, which holds its process id. The kernel drops the
lock when the process and all it forked are gone, and not before: a locked record is a live process, and its id cannot
have been given to another. No start times, no scanning of process tables, no ports.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

SOCKETS_NAME = "sockets"
POLL_SECONDS = 0.02
KILL_SECONDS = 10
MAX_SOCKET_PATH = 103
"""The kernels' limit is 108 bytes on Linux and 104 on macOS, with the final NUL."""

# The shell writes the id before it becomes the command: no moment in which a process runs that no record names.
_RECORD_THEN_RUN = 'echo $$ > "$0" && exec "$@"'


class ProcessFailed(Exception):
    """A process ended, or did not become ready; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class OwnedProcess:
    """A child with a record.

    Args:
        name: For messages.
        child: The process; leader of its own session and group.
        record: File with its id, locked while it or anything it forked lives.
        log: Where its output goes.
        stop_signal: What asks it to leave in order.
        grace_seconds: How long it may take to do so.
    """

    name: str
    child: subprocess.Popen[bytes]
    record: Path
    log: Path
    stop_signal: signal.Signals
    grace_seconds: float

    @property
    def pid(self) -> int:
        """Process id, also of its group."""
        return self.child.pid

    def stop(self) -> None:
        """Ask it to leave, and kill what is left of it when its grace is over."""
        end(self.record, stop_signal=self.stop_signal, grace_seconds=self.grace_seconds)
        self.child.wait()

    def wait_until(self, ready: Callable[[], bool], *, timeout_seconds: float) -> None:
        """Return as soon as ``ready()``.

        Raises:
            ProcessFailed: It ended or took too long; it is stopped by then.
        """
        deadline = time.monotonic() + timeout_seconds
        while not ready():
            ended = self.child.poll() is not None
            if ended or time.monotonic() > deadline:
                self.stop()
                why = f"ended with status {self.child.returncode}" if ended else "did not become ready"
                raise ProcessFailed(f"{self.name} {why}. The end of {self.log}:\n{tail(self.log)}")
            time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class Server(OwnedProcess):
    """A running server; as a context manager it is stopped at the end of the block.

    Args:
        url: How to reach it; the same after a restart below the same folder.
        folder: Where it keeps its data.
    """

    url: str
    folder: Path

    @classmethod
    def of(cls, process: OwnedProcess, *, url: str, folder: Path) -> Self:
        """A process that answers at ``url``."""
        return cls(**vars(process), url=url, folder=folder)

    def stop(self) -> None:
        """Shut down in order; nothing that was acknowledged is lost."""
        super().stop()
        link = self.folder / SOCKETS_NAME
        if link.is_symlink():
            shutil.rmtree(link.readlink(), ignore_errors=True)
            link.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def start(
    name: str,
    command: Sequence[str | Path],
    *,
    folder: Path,
    log: Path,
    env: Mapping[str, str] | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
    grace_seconds: float = 30,
) -> OwnedProcess:
    """Start a command under the record ``<folder>/<name>.pid``, after ending what an earlier one left under it."""
    record = folder / f"{name}.pid"
    end(record, stop_signal=stop_signal, grace_seconds=grace_seconds)
    with record.open("w") as lock, log.open("ab") as output:
        if not _locked(lock):
            raise ProcessFailed(f"Someone else is starting {name} below {folder} at this moment.")
        child = subprocess.Popen(
            ["/bin/sh", "-c", _RECORD_THEN_RUN, record, *command],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[lock.fileno()],
            start_new_session=True,
        )
    return OwnedProcess(name, child, record, log, stop_signal, grace_seconds)


def end(record: Path, *, stop_signal: signal.Signals, grace_seconds: float) -> None:
    """End the process that a record names, and everything it forked; return at once if none is alive.

    Raises:
        ProcessFailed: It is still there after SIGKILL.
    """
    if not record.exists():
        return
    with record.open() as lock:
        if _locked(lock):
            return
        asked = _send(record, os.kill, stop_signal)
        if asked and _wait_for_lock(lock, grace_seconds):
            return
        _send(record, os.killpg, signal.SIGKILL)
        if not _wait_for_lock(lock, KILL_SECONDS):
            raise ProcessFailed(
                f"The process of {record} does not end; end process group {record.read_text()} by hand."
            )


def tail(log: Path, num_lines: int = 20) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-num_lines:]) if log.exists() else ""


def socket_folder(folder: Path, *, longest_name: str) -> Path:
    """Where a server below ``folder`` may put its socket: the folder itself, or a short one when its path is too long.

    ``<folder>/sockets`` then links to the short one, so that the next start uses it again.
    """
    if len(os.fsencode(folder / longest_name)) <= MAX_SOCKET_PATH:
        return folder
    link = folder / SOCKETS_NAME
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(tempfile.mkdtemp(prefix="sdft-"))
    return link.readlink()


def _locked(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for_lock(handle: IO[str], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (locked := _locked(handle)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return locked


def _send(record: Path, send: Callable[[int, int], None], number: signal.Signals) -> bool:
    """Signal what the record names; false if it is not there (any more, or yet)."""
    pid = record.read_text().strip()
    try:
        send(int(pid), number)
    except (ValueError, ProcessLookupError):
        return False
    return True
