"""A trainer process: started in a session of its own, spoken and listened to, asked to stop, killed, its end explained.

Knows the pipe of ``app.domain.trainer_protocol`` and how processes die; nothing of the database. The trainer gets an
environment of chosen variables, without credentials.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from app.domain.lifecycle import FailureCode
from app.domain.trainer_protocol import DRAINED_EXIT_CODE, KEEP_ALIVE, MESSAGES, REPORT_FD_VARIABLE, Message, Stay

TRAINER: Final = (sys.executable, "-m", "worker.trainer_process")
LOG_TAIL_BYTES: Final = 16 * 1024
PIPE_BYTES: Final = 1 << 16

_PASSED_ON: Final = (
    "PATH", "HOME", "USER", "LANG", "LC_", "TZ", "TMPDIR", "PYTHON", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "OMP_", "GOMP_",
    "MKL_", "CUDA", "NVIDIA_", "NCCL_", "TORCH", "PYTORCH_", "ROCR_", "HIP_", "HSA_", "HF_HOME", "HF_DATASETS_CACHE",
    "NLTK_DATA",
)  # fmt: skip
_FIXED: Final = {
    # Base models lie on disk; a trainer never fetches anything.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_UNLESS_SET: Final = {
    # Threads that spin for long while they wait make a shared machine many times slower.
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "0",
}
_OOM_COUNTERS: Final = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))
_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None)


class Trainer:
    """A trainer process and the pipes to it.

    Args:
        command: What to run; ``stay`` is added as the last argument.
        scratch: For its output, on a disk of the worker.
        device: auto, cpu, cuda or cuda:N.
        stay: How long it may wait for a next attempt.
    """

    def __init__(self, command: Sequence[str], scratch: Path, *, device: str, stay: Stay) -> None:
        self._log = TemporaryFile(buffering=0, dir=scratch)  # noqa: SIM115 - open until ``close``
        self._oom_kills = 0
        self._unread = b""
        self._silent = self._told_to_stop = False
        self._writing = threading.Lock()
        self._pipe, pipe_of_trainer = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*command, stay.model_dump_json()],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                env=_environment(os.environ, device) | {REPORT_FD_VARIABLE: str(pipe_of_trainer)},
                pass_fds=[pipe_of_trainer],
                start_new_session=True,
                preexec_fn=_dying_with(os.getpid()),  # noqa: PLW1509 - calls what is loaded, takes no lock
            )
        except OSError:  # no memory, or too many processes
            os.close(self._pipe)
            self._log.close()
            raise
        finally:
            os.close(pipe_of_trainer)

    def begin(self, folder: Path) -> None:
        """Give it an attempt's folder, ready to be worked in."""
        self._oom_kills = _count_oom_kills()
        self._log.seek(0)  # the trainer writes where this handle stands: the two are one
        self._log.truncate()
        self._say(os.fsencode(folder) + b"\n")

    def close(self) -> None:
        """End it and everything it started."""
        self.kill()
        self._process.wait()
        os.close(self._pipe)
        self._log.close()
        with self._writing:
            if self._process.stdin:
                self._process.stdin.close()

    @property
    def may_stay(self) -> bool:
        """Whether it can take another attempt: it lives, and nobody has asked it to stop."""
        return not self.ended and not self._told_to_stop

    @property
    def ended(self) -> bool:
        """Whether the process is gone; what it had started is gone by then too."""
        if self._process.returncode is None and self._process.poll() is not None:
            self._kill_group()
        return self._process.returncode is not None

    @property
    def drained(self) -> bool:
        """Whether it left because it was asked to, with a checkpoint."""
        return self._process.returncode == DRAINED_EXIT_CODE

    @property
    def silent(self) -> bool:
        """Whether everything it ever said has been received."""
        return self._silent

    def receive(self, timeout_seconds: float) -> list[Message]:
        """What it has said since the last call; waits for the first word at most that long.

        Raises:
            pydantic.ValidationError: It said something that is not in the protocol.
        """
        if self._silent:
            time.sleep(timeout_seconds)
        elif b"\n" not in self._unread:
            self._read(timeout_seconds)
        *lines, self._unread = self._unread.split(b"\n")
        return [MESSAGES.validate_json(line) for line in lines]

    def speaks(self, timeout_seconds: float) -> bool:
        """Whether there is something to receive, at once or within that time."""
        if not self._unread and not self._silent:
            self._read(timeout_seconds)
        return bool(self._unread)

    def keep_alive(self) -> None:
        """Tell it that the lease is held; silence or end of file would mean the opposite."""
        self._say(KEEP_ALIVE)

    def terminate(self) -> None:
        """Ask it to write a checkpoint and leave."""
        self._told_to_stop = True
        if not self.ended:
            self._process.terminate()

    def kill(self) -> None:
        """End it and everything it started."""
        if not self.ended:
            self._kill_group()

    def explain_end(self) -> tuple[FailureCode, str]:
        """Why it ended without saying so itself: a code and a sentence for the client."""
        status = self._process.wait()
        if status == -signal.SIGKILL and _count_oom_kills() > self._oom_kills:
            return (
                "out_of_memory",
                "The worker ran out of memory; a smaller batch_size or shorter completions need less.",
            )
        if status < 0:
            return "worker_lost", f"The trainer was ended by signal {-status} ({signal.Signals(-status).name})."
        return "worker_lost", f"The trainer ended unexpectedly with exit status {status}."

    def log_tail(self) -> str:
        """The end of its output; for the operator, never for a client."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), LOG_TAIL_BYTES, max(0, size - LOG_TAIL_BYTES)).decode(errors="replace")

    def _read(self, timeout_seconds: float) -> None:
        if select.select([self._pipe], [], [], timeout_seconds)[0]:
            chunk = os.read(self._pipe, PIPE_BYTES)
            self._silent = not chunk
            self._unread += chunk

    def _say(self, line: bytes) -> None:
        with self._writing:
            if self._process.stdin and not self._process.stdin.closed:
                with suppress(BrokenPipeError):  # it is gone, as the attempt's loop is about to see
                    self._process.stdin.write(line)

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _environment(ours: Mapping[str, str], device: str) -> dict[str, str]:
    passed_on = {name: value for name, value in ours.items() if name.startswith(_PASSED_ON)}
    chosen = _UNLESS_SET | passed_on | _FIXED
    if device == "cpu":
        chosen["CUDA_VISIBLE_DEVICES"] = ""
    elif device.startswith("cuda:"):
        chosen["CUDA_VISIBLE_DEVICES"] = device.removeprefix("cuda:")
    return chosen


def _dying_with(parent: int) -> Callable[[], None] | None:
    """What the new process does first, so that no trainer outlives a supervisor that was killed.

    Linux only; elsewhere the end of its standard input tells it.
    """
    if sys.platform != "linux":
        return None

    def set_death_signal() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return set_death_signal


def _count_oom_kills() -> int:
    """How many processes the kernel has ended for want of memory, on this machine and in this control group."""
    lines = [line for counter in _OOM_COUNTERS if counter.exists() for line in counter.read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
