"""One attempt at a job, from the claimed row to its end: the supervisor's side, torch nowhere near.

The trainer does the work, the lease keeper keeps the job, and this loop stands between them: it writes down what the
trainer says, a short transaction each, and tells it to leave when the client, the worker or the clock wants that.
"""

import shutil
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, Literal, ParamSpec, TypeVar

import structlog
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from app.db.session import after_commit, transaction
from app.domain.errors import ServiceError, Unavailable
from app.domain.trainer_protocol import (
    AnyOrder,
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
from app.resources import Resources
from app.services import blobs, publishing, records, runs
from app.services.runs import Claim, LeaseLost
from app.settings import WorkerSettings
from worker.home import WorkerHome
from worker.launcher import Trainer
from worker.lease import LeaseKeeper
from worker.results import store_checkpoint, store_report, store_results
from worker.seat import Seat
from worker.workspace import Unprepared, prepare

log = structlog.get_logger()

LOOK_SECONDS = 0.25
WRITE_SECONDS = 1.0
"""Steps of a small model take milliseconds: they are written down together, this often."""
DATABASE_ERRORS = (OperationalError, InterfaceError, InternalError, PoolTimeout)
INSIST_SECONDS = 600.0
STALL_STEPS = 20
"""A trainer is stuck after so many times its usual time between two messages, but not before ``stall_seconds``."""
OUT_OF_TIME = "The time limit was reached. Ask for less, or raise it: limits.max_seconds of a job, or the server's own."

P = ParamSpec("P")
T = TypeVar("T")
Stop = Literal["cancel", "time_limit", "stalled", "drain"]


@dataclass(frozen=True)
class Slot:
    """Where an attempt runs.

    Args:
        resources: Of this process.
        home: The worker's folder.
        times: Of lease and trainer.
        max_seconds: Wall limit of a job that names none.
        num_threads: For the trainer; None leaves it to the libraries.
        seat: Of its trainer process.
    """

    resources: Resources
    home: WorkerHome
    times: WorkerSettings
    max_seconds: int
    num_threads: int | None
    seat: Seat


def run_attempt(slot: Slot, claim: Claim, *, claimed_at: float) -> None:
    """See one claimed job to the end of this attempt. Returns normally however that ends.

    Args:
        slot: Where to run.
        claim: The job.
        claimed_at: When the claim was sent, by the monotonic clock.
    """
    folder = slot.home.attempt(claim.job_id, claim.fence)
    with LeaseKeeper(slot.resources.sessions, claim, slot.times, claimed_at=claimed_at) as keeper:
        attempt = Attempt(slot, claim, keeper, folder)
        try:
            folder.mkdir()
            attempt.run()
        except LeaseLost:
            log.warning("lease_lost")
        except OSError:
            log.exception("disk_unusable")
            attempt.write(runs.fail_or_retry, "worker_lost", "The worker cannot use its disk now.")
        except DATABASE_ERRORS:
            log.exception("database_refuses")
            attempt.write(runs.fail_or_retry, "worker_lost", "The worker could not write down what it did.")
        except Exception:
            attempt.write(runs.fail_or_retry, "internal_error", "An internal error ended this attempt.")
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class Attempt:
    """The loop around one trainer. Every method may raise ``LeaseLost``."""

    def __init__(self, slot: Slot, claim: Claim, keeper: LeaseKeeper, folder: Path) -> None:
        self._slot, self._claim, self._keeper, self._folder = slot, claim, keeper, folder
        self._stop: Stop | None = None
        self._kill_at = 0.0
        self._steps: list[StepDone] = []
        self._written_at = self._heard_at = self._told_at = time.monotonic()
        self._silences: deque[float] = deque(maxlen=100)
        self._end: Finished | ReportFinished | Failed | None = None

    def run(self) -> None:
        """Prepare, train, conclude."""
        try:
            order = self._insist(self._prepare)
        except Unprepared as error:
            self.write(runs.fail_or_retry, error.code, error.message)
            return
        with self._slot.seat.trainer(order.base, self._folder) as trainer:
            self._keeper.on_renewal = trainer.keep_alive
            self._heard_at = self._told_at = time.monotonic()
            while not (isinstance(self._end, Finished | ReportFinished) or (trainer.ended and trainer.silent)):
                if messages := trainer.receive(LOOK_SECONDS):
                    self._measure_silence(messages)
                    for message in messages:
                        self._handle(message)
                    self._heard_at = time.monotonic()
                if time.monotonic() - self._written_at > WRITE_SECONDS:
                    self._write_steps()
                self._look(trainer)
            self._write_steps()
            self._conclude(trainer)

    def write(self, change: Callable[Concatenate[Session, Claim, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """One change of the job's rows, under its fence."""

        def commit() -> T:
            with transaction(self._slot.resources.sessions) as session:
                return change(session, self._claim, *args, **kwargs)

        return self._insist(commit)

    def _insist(self, action: Callable[[], T]) -> T:
        """Do what needs the database, again and again while that is away and the lease is trusted.

        Without a database no lease is trusted for long: what fails for longer, fails while renewals do not.
        """
        gives_up_at = time.monotonic() + INSIST_SECONDS
        while self._keeper.trusted:
            try:
                return action()
            except DATABASE_ERRORS:
                if time.monotonic() > gives_up_at:
                    raise
                log.warning("database_away", exc_info=True)
                time.sleep(WRITE_SECONDS)
        raise LeaseLost(self._claim.job_id)

    def _prepare(self) -> AnyOrder:
        slot = self._slot
        return prepare(
            slot.resources,
            self._claim,
            self._folder,
            answers=slot.home.answers,
            tasks_folder=slot.times.lm_eval_tasks,
            checkpoint_seconds=slot.times.checkpoint_seconds,
            # Which of several, the trainer's environment says: it sees no other.
            device=slot.times.device.partition(":")[0],
            num_threads=slot.num_threads,
        )

    def _look(self, trainer: Trainer) -> None:
        """Heed the lease, the client, the worker and the clock."""
        if not self._keeper.trusted:
            raise LeaseLost(self._claim.job_id)
        if self._stop is None and (stop := self._reason_to_stop()):
            log.info("trainer_told_to_stop", reason=stop)
            self._stop, self._kill_at = stop, time.monotonic() + self._slot.times.kill_grace_seconds
            trainer.terminate()
        elif self._stop and time.monotonic() > self._kill_at:
            trainer.kill()

    def _reason_to_stop(self) -> Stop | None:
        lease = self._keeper.lease
        if lease and lease.cancel_requested:
            return "cancel"
        if lease and lease.seconds_running > (lease.max_seconds or self._slot.max_seconds):
            return "time_limit"
        if time.monotonic() - self._heard_at > self._longest_silence():
            return "stalled"
        return "drain" if self._slot.home.draining else None

    def _measure_silence(self, messages: Sequence[Message]) -> None:
        """How long steps and the like take; signs of life between them come at a time of their own."""
        if not all(isinstance(message, Working) for message in messages):
            self._silences.append(time.monotonic() - self._told_at)
            self._told_at = time.monotonic()

    def _longest_silence(self) -> float:
        usual = statistics.median(self._silences) if self._silences else 0.0
        return max(self._slot.times.stall_seconds, STALL_STEPS * usual)

    def _handle(self, message: Message) -> None:
        if self._stop == "cancel":
            return
        if isinstance(message, StepDone):
            self._steps.append(message)
        if isinstance(message, StepDone | Working):
            return
        self._write_steps()
        match message:
            case PhaseStarted():
                self.write(records.record_phase, message.phase)
            case Progress():
                self.write(records.record_progress, message.done, message.total)
            case Noted():
                self.write(records.record_event, message)
            case Resolved():
                self.write(records.record_resolved, message.config)
            case CheckpointWritten():
                self._keep_checkpoint(message)
            case Finished() | ReportFinished() | Failed():
                self._end = message

    def _write_steps(self) -> None:
        if not self._steps:
            return
        self._written_at = time.monotonic()
        if self._stop != "cancel":
            self.write(records.record_steps, self._steps)
        self._steps = []

    def _keep_checkpoint(self, written: CheckpointWritten) -> None:
        """Make a checkpoint the one to go on from; one that cannot be stored costs time, not the job."""
        resources = self._slot.resources
        try:
            archive, state = self._insist(lambda: store_checkpoint(resources, self._folder, written))
        except Unavailable:
            log.warning("checkpoint_not_stored", exc_info=True)
            message = "A checkpoint could not be stored; the job goes on without it."
            self.write(records.record_event, Noted(level="warn", message=message))
            return
        finally:
            shutil.rmtree(self._folder / written.path, ignore_errors=True)
        replaced = self.write(
            records.record_checkpoint, written.step, archive=archive, state=state, metrics=written.metrics
        )
        self.write(lambda session, _: blobs.drop(session, resources.store, replaced))

    def _conclude(self, trainer: Trainer) -> None:
        """Write down how it ended. A request to cancel is heeded by each of these, however late it came."""
        match self._end:
            case _ if self._stop == "cancel":
                self.write(runs.cancel)
            case Finished() | ReportFinished():
                self._publish(self._end)
            case Failed(code=code, message=message, param=param):
                log.warning("trainer_failed", code=code, log_tail=trainer.log_tail())
                self.write(runs.fail_or_retry, code, message, param=param)
            case _ if self._stop == "time_limit":
                self.write(runs.fail_or_retry, "time_limit", OUT_OF_TIME)
            case _ if self._stop == "stalled":
                self.write(runs.fail_or_retry, "worker_lost", "The trainer made no progress for too long.")
            case _ if self._stop == "drain" or trainer.drained:
                self._release()
            case _:
                log.error("trainer_crashed", log_tail=trainer.log_tail())
                self.write(runs.fail_or_retry, *trainer.explain_end())

    def _publish(self, finished: Finished | ReportFinished) -> None:
        resources = self._slot.resources
        try:
            if isinstance(finished, ReportFinished):
                report = self._insist(lambda: store_report(resources, self._folder))
                self.write(publishing.publish_evaluation, report)
                return
            results = self._insist(lambda: store_results(resources, self._claim.job_id, self._folder, finished))
            version = self.write(publishing.publish, results)
            log.info("published", model_id=version.model_id)
        except publishing.CancelRequested:
            self.write(runs.cancel)
        except Unavailable:
            self.write(runs.fail_or_retry, "worker_lost", "The results could not be stored.")
        except ServiceError as error:
            self.write(runs.fail_or_retry, "internal_error", error.message)

    def _release(self) -> None:
        ring = self._slot.resources.broker.ring

        def release(session: Session, claim: Claim) -> None:
            runs.release_preempted(session, claim)
            after_commit(session, lambda: ring(claim.job_id))

        self.write(release)
