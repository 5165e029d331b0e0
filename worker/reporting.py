"""The trainer's side of the pipe: what it tells its supervisor, and how it learns that it should stop.

Knows the messages of ``app.domain.trainer_protocol`` and nothing of databases. The trainer process holds no
credentials; the supervisor writes everything down under its fence.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, BinaryIO, Literal, Protocol

from app.domain.lifecycle import FailureCode, Phase
from app.domain.trainer_protocol import (
    KEEP_ALIVE,
    CheckpointWritten,
    Failed,
    Finished,
    Message,
    Noted,
    PhaseStarted,
    Progress,
    ReportFinished,
    Resolved,
    StepDone,
    Working,
)
from app.domain.training import TrainingConfig

ORPHANED_EXIT_CODE = 70
WORKING_SECONDS = 5.0
"""Between two signs of life; batches may take less by far."""


class Drained(Exception):
    """The supervisor asked this process to leave; what can be resumed has been written down."""


class RunFailed(Exception):
    """The job cannot succeed; the message is for the client."""

    def __init__(self, code: FailureCode, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code: FailureCode = code
        self.message, self.param = message, param


class Reporter(Protocol):
    """What the training loop needs to say and to know."""

    def step(self, step: int, total_steps: int, trained_tokens: int, metrics: dict[str, float]) -> None:
        """One optimizer step is done."""

    def event(self, level: Literal["info", "warn", "error"], message: str, **data: Any) -> None:
        """Something the client should read."""

    def checkpoint(self, step: int, folder: Path, metrics: dict[str, float]) -> None:
        """A whole checkpoint lies in ``folder``."""

    def should_stop(self) -> bool:
        """Whether to write a checkpoint now and leave."""


class PipeReporter:
    """Reporter over a pipe to the supervisor.

    Args:
        pipe: Written to, one JSON object a line, whole lines only.
        folder: The attempt's folder; paths are sent relative to it.
        leave: Set when the supervisor wants the attempt to stop.
    """

    def __init__(self, pipe: BinaryIO, folder: Path, leave: threading.Event) -> None:
        self._pipe = pipe
        self._folder = folder
        self._leave = leave
        self._lock = threading.Lock()
        self._said_at = time.monotonic()

    def phase(self, phase: Phase) -> None:
        """A new phase begins."""
        self._send(PhaseStarted(phase=phase))

    def progress(self, done: int, total: int) -> None:
        """How far a phase without optimizer steps has come.

        Raises:
            Drained: The supervisor asked this process to leave. Phases that report so can be done again.
        """
        if self.should_stop():
            raise Drained
        self._send(Progress(done=done, total=total))

    def working(self) -> None:
        """A batch is done; told where nothing else was for a while. Any thread may call this."""
        if time.monotonic() - self._said_at >= WORKING_SECONDS:
            self._send(Working())

    def resolved(self, config: TrainingConfig) -> None:
        """Every ``auto`` has its value."""
        self._send(Resolved(config=config))

    def step(self, step: int, total_steps: int, trained_tokens: int, metrics: dict[str, float]) -> None:
        """See ``Reporter``."""
        self._send(StepDone(step=step, total_steps=total_steps, trained_tokens=trained_tokens, metrics=metrics))

    def event(self, level: Literal["info", "warn", "error"], message: str, **data: Any) -> None:
        """See ``Reporter``."""
        self._send(Noted(level=level, message=message, data=data))

    def checkpoint(self, step: int, folder: Path, metrics: dict[str, float]) -> None:
        """See ``Reporter``."""
        path = folder.relative_to(self._folder).as_posix()
        self._send(CheckpointWritten(step=step, path=path, metrics=metrics))

    def finished(self, *, trained_tokens: int, scorer: str, max_completion_tokens: int) -> None:
        """The output folder is complete."""
        self._send(Finished(trained_tokens=trained_tokens, scorer=scorer, max_completion_tokens=max_completion_tokens))

    def report_finished(self) -> None:
        """The report of an evaluation lies in the output folder."""
        self._send(ReportFinished())

    def failed(self, code: FailureCode, message: str, param: str | None = None) -> None:
        """The run ends here."""
        self._send(Failed(code=code, message=message, param=param))

    def should_stop(self) -> bool:
        """See ``Reporter``."""
        return self._leave.is_set()

    def _send(self, message: Message) -> None:
        line = message.model_dump_json().encode() + b"\n"
        with self._lock:
            self._pipe.write(line)
            self._pipe.flush()
            self._said_at = time.monotonic()


class PhaseClock:
    """Says which phase begins, and remembers how long each took.

    Args:
        reporter: Whom to tell.

    Attributes:
        seconds: By phase.
    """

    def __init__(self, reporter: PipeReporter) -> None:
        self.seconds: dict[str, float] = {}
        self._reporter = reporter

    @contextmanager
    def __call__(self, name: Phase) -> Iterator[None]:
        """One phase."""
        self._reporter.phase(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


class Supervisor:
    """What the supervisor says to this process: folders to work in, renewals of the lease, and SIGTERM.

    Ends the process when the supervisor is gone and, during an attempt, when the lease may be.

    Args:
        words: File descriptor that it writes to.
        trust_seconds: Silence during an attempt after which the lease may be someone else's.

    Attributes:
        leave: Set by SIGTERM and never cleared: a process that was asked to stop takes no other attempt.
    """

    def __init__(self, words: int, *, trust_seconds: float) -> None:
        self.trust_seconds = trust_seconds
        self.leave = threading.Event()
        self._folders: SimpleQueue[Path | None] = SimpleQueue()
        self._at_work = False
        self._heard_at = time.monotonic()
        signal.signal(signal.SIGTERM, self._stop)
        threading.Thread(target=self._hear, args=(words,), daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()

    def next_attempt(self, timeout_seconds: float) -> Path | None:
        """The folder of the next attempt; None if there was none in that time or this process is to leave."""
        self._at_work = False
        try:
            folder = self._folders.get(timeout=timeout_seconds)
        except Empty:
            return None
        self._at_work = True
        return folder

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.leave.set()
        self._folders.put(None)

    def _hear(self, words: int) -> None:
        # Not through sys.stdin: a thread that waits in there holds a lock which aborts the interpreter's shutdown.
        unfinished = b""
        while chunk := os.read(words, 4096):
            self._heard_at = time.monotonic()
            *lines, unfinished = (unfinished + chunk).split(b"\n")
            for line in lines:
                if line + b"\n" != KEEP_ALIVE:
                    self._folders.put(Path(os.fsdecode(line)))
        os._exit(ORPHANED_EXIT_CODE)  # end of file: the supervisor is gone, nobody may be written to any more

    def _watch(self) -> None:
        # The lease may be someone else's by now; two trainers of one job must not share the device.
        while not self._at_work or time.monotonic() - self._heard_at < self.trust_seconds:
            time.sleep(min(1.0, self.trust_seconds / 10))
        os._exit(ORPHANED_EXIT_CODE)
