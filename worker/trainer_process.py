"""The trainer process: one attempt after the other, on a base that is loaded once.

``python -m worker.trainer_process STAY``, started by ``worker.seat``. Only an attempt that came to its end leaves the
process fit for the next one: after anything else it is gone, and a new one starts from nothing.
"""

import errno
import os
import sys
from typing import Any, BinaryIO

from app.domain.errors import Unprocessable
from app.domain.trainer_protocol import DRAINED_EXIT_CODE, REPORT_FD_VARIABLE, Stay
from worker import memory
from worker.evaluation import Evaluation
from worker.hf.base import Base, NoDevice
from worker.pipeline import Training, open_attempt
from worker.reporting import Drained, PipeReporter, RunFailed, Supervisor
from worker.sdft.monitor import Diverged


class Upkeep:
    """Whether the process is, after a job, fit for the next one.

    Args:
        memory_growth: It may hold so many times the memory that it held after its first job.
    """

    def __init__(self, memory_growth: float) -> None:
        self._memory_growth = memory_growth
        self._first_held: int | None = None

    def is_sound(self, base: Base) -> bool:
        """Whether no bit of the base has changed since it was loaded and no memory has been lost.

        Of memory nothing is known where the system does not tell what a process holds, as on macOS.
        """
        memory.give_back()
        held = memory.held_bytes() or 0
        if self._first_held is None:
            self._first_held = held
        return base.checksum() == base.loaded_checksum and held <= self._memory_growth * self._first_held


def serve(supervisor: Supervisor, pipe: BinaryIO, stay: Stay) -> int:
    """Work on what the supervisor sends until it is time to go; returns the exit status."""
    base: Base | None = None
    upkeep = Upkeep(stay.memory_growth)
    for _ in range(stay.max_jobs):
        folder = supervisor.next_attempt(stay.idle_seconds)
        if folder is None:
            return 0
        attempt = open_attempt(folder, PipeReporter(pipe, folder, supervisor.leave), base)
        exit_status = run(attempt)
        if exit_status is not None:
            return exit_status
        base = attempt.base
        del attempt
        if base is None or not upkeep.is_sound(base):
            return 0
    return 0


def run(attempt: Training | Evaluation) -> int | None:
    """See one attempt to its end and say it on the pipe; an exit status unless it was a good one."""
    reporter = attempt.reporter
    try:
        attempt.run()
    except Drained:
        return DRAINED_EXIT_CODE
    except RunFailed as error:
        reporter.failed(error.code, error.message, error.param)
    except Unprocessable as error:
        reporter.failed("invalid_file", " ".join([error.message, *map(_line, error.errors[:10])]), error.param)
    except Diverged as error:
        reporter.failed("diverged", str(error))
    except NoDevice as error:
        reporter.failed("base_model_unavailable", str(error))
    except Exception as error:
        if memory.ran_out(error):
            less = (
                "fewer suites or a smaller max_tokens of their questions need less"
                if isinstance(attempt, Evaluation)
                else "a smaller batch_size or shorter completions need less"
            )
            reporter.failed("out_of_memory", f"The worker ran out of memory; {less}.")
        elif _is_full(error):
            reporter.failed("worker_lost", "The worker's disk is full.")
        else:
            reporter.failed("internal_error", "An internal error ended the run; the operator's log says more.")
            raise
    else:
        return None
    return 0


def main() -> int:
    """Serve the supervisor at the other end of standard input."""
    stay = Stay.model_validate_json(sys.argv[1])
    supervisor = Supervisor(sys.stdin.fileno(), trust_seconds=stay.trust_seconds)
    with os.fdopen(int(os.environ[REPORT_FD_VARIABLE]), "wb") as pipe:
        return serve(supervisor, pipe, stay)


def _is_full(error: Exception) -> bool:
    """Whether a disk has no room; safetensors says so in words only."""
    return getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT} or os.strerror(errno.ENOSPC) in str(error)


def _line(error: dict[str, Any]) -> str:
    return f"Line {error['line']}: {error['message']}."


if __name__ == "__main__":
    sys.exit(main())
