"""The life of a job once it is posted: claimed, kept, given back, ended.

A worker's word counts only with its fence, the number that each claim raises: a worker that slept through the end of
its lease finds no row and gets ``LeaseLost``. All times are the database's clock. Knows no processes and no broker;
what an attempt tells of itself is in ``app.services.records``, its good end in ``app.services.publishing``.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from app.db.clock import NOW
from app.db.models import Checkpoint, Job, JobAttempt, JobEvent
from app.domain.errors import Conflict
from app.domain.ids import new_id
from app.domain.lifecycle import (
    MAX_FAILED_ATTEMPTS,
    MAX_PREEMPTIONS,
    RETRYABLE,
    TERMINAL,
    TRANSITIONS,
    FailureCode,
    Status,
)

RETRY_SECONDS: Final = 5
"""Wait before the second attempt; four times as long before the third."""
REAP_PAGE: Final = 100

Level = Literal["info", "warn", "error"]
Outcome = Literal["succeeded", "failed", "retry", "preempted", "lease_lost", "cancelled"]


class LeaseLost(Exception):
    """The job is no longer this attempt's: stop the trainer and write nothing more."""


@dataclass(frozen=True)
class Claim:
    """The right to write about one job, for as long as the lease is renewed."""

    job_id: str
    fence: int


@dataclass(frozen=True)
class Lease:
    """What a renewal answers.

    Args:
        cancel_requested: The client wants the job to end.
        seconds_running: Since the start of the first attempt.
        max_seconds: Wall limit that the client gave, if it gave one.
    """

    cancel_requested: bool
    seconds_running: float
    max_seconds: int | None


def transition(
    session: Session, job: Job, status: Status, message: str, *, level: Level = "info", **columns: Any
) -> None:
    """Move a job and say so in one event. The only function that changes ``jobs.status``.

    Raises:
        LeaseLost: By now the row has another status or fence than ``job`` was read with.
        ValueError: There is no such move.
    """
    if (job.status, status) not in TRANSITIONS:
        raise ValueError(f"a job cannot go from {job.status} to {status}")
    if job.status == "running":
        columns |= {"lease_owner": None, "lease_expires_at": None}
    if status in TERMINAL:
        columns |= {"phase": "done", "finished_at": NOW}
        forget_states(session, job)
    else:
        columns |= {"phase_done": None, "phase_total": None}
    unmoved = (Job.id == job.id, Job.status == job.status, Job.fence == job.fence)
    if not session.scalar(update(Job).where(*unmoved).values(status=status, **columns).returning(Job.id)):
        raise LeaseLost(job.id)
    session.refresh(job)
    note(session, job, message, level=level)


def claim_next(session: Session, worker_id: str, lease_seconds: float) -> Claim | None:
    """Take the job that has been due for longest, if there is one."""
    job = session.scalar(_skip_locked(_due()))
    if job is None:
        return None
    checkpoint = latest_checkpoint(session, job.id)
    step = checkpoint.step if checkpoint else 0
    transition(
        session,
        job,
        "running",
        f"Attempt {job.fence + 1} started" + (f" from the checkpoint of step {step}." if checkpoint else "."),
        fence=job.fence + 1,
        phase="claimed",
        progress_step=step,
        lease_owner=worker_id,
        lease_expires_at=NOW + timedelta(seconds=lease_seconds),
        started_at=func.coalesce(Job.started_at, NOW),
    )
    session.add(JobAttempt(job_id=job.id, fence=job.fence, worker_id=worker_id, first_step=step))
    session.flush()
    return Claim(job.id, job.fence)


def renew(session: Session, claim: Claim, lease_seconds: float) -> Lease:
    """Keep the job for another lease.

    Raises:
        LeaseLost: Someone else has it, or it has ended.
    """
    worked = func.sum(func.extract("epoch", func.coalesce(JobAttempt.ended_at, NOW) - JobAttempt.started_at))
    seconds_running = select(worked).where(JobAttempt.job_id == Job.id).scalar_subquery()
    row = session.execute(
        update(Job)
        .where(Job.id == claim.job_id, Job.fence == claim.fence, Job.status == "running")
        .values(lease_expires_at=NOW + timedelta(seconds=lease_seconds))
        .returning(Job.cancel_requested_at.is_not(None), seconds_running, Job.max_seconds)
    ).one_or_none()
    if row is None:
        raise LeaseLost(claim.job_id)
    return Lease(cancel_requested=row[0], seconds_running=float(row[1]), max_seconds=row[2])


def held(session: Session, claim: Claim) -> Job:
    """The job's row, locked until the end of the transaction: nobody takes it between this check and a write.

    Raises:
        LeaseLost: Someone else has it, or it has ended.
    """
    job = session.scalar(
        select(Job)
        .where(Job.id == claim.job_id, Job.fence == claim.fence, Job.status == "running")
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    if job is None:
        raise LeaseLost(claim.job_id)
    return job


def begin_anew(session: Session, claim: Claim, message: str) -> None:
    """Say that this attempt starts at the first step after all: its checkpoint is not to be had."""
    job = held(session, claim)
    job.progress_step = session.get_one(JobAttempt, (job.id, job.fence)).first_step = 0
    note(session, job, message, level="warn")


def release_preempted(session: Session, claim: Claim) -> None:
    """Give the job back because this worker has to leave. Not the job's fault, so not a failed attempt."""
    job = held(session, claim)
    if job.cancel_requested_at is not None:
        _cancel(session, job)
    elif job.preemptions >= MAX_PREEMPTIONS:
        _fail(session, job, "worker_lost", f"The job was interrupted more than {MAX_PREEMPTIONS} times.")
    else:
        _close_attempt(session, job, "preempted")
        message = "The worker had to stop; another one goes on from the last checkpoint."
        transition(session, job, "queued", message, phase="waiting", preemptions=job.preemptions + 1, available_at=NOW)


def fail_or_retry(session: Session, claim: Claim, code: FailureCode, message: str, *, param: str | None = None) -> None:
    """End a failed attempt: another one follows after a while if that can help, else the job has failed."""
    _fail_or_retry(session, held(session, claim), code, message, param=param)


def cancel(session: Session, claim: Claim) -> None:
    """End the job as its client asked; the trainer is gone."""
    _cancel(session, held(session, claim))


def succeed(session: Session, job: Job, message: str, **columns: Any) -> None:
    """End a ``held`` job well, in the transaction that publishes its version."""
    _close_attempt(session, job, "succeeded")
    transition(session, job, "succeeded", message, **columns)


def request_cancel(session: Session, job: Job, *, what: Literal["job", "evaluation"] = "job") -> None:
    """Cancel a waiting job at once; tell the worker of a running one to stop. Asking twice is asking once.

    Raises:
        Conflict: The job has ended otherwise.
    """
    session.refresh(job, with_for_update={"key_share": True})
    if job.status in {"succeeded", "failed"}:
        raise Conflict("job_already_ended", f"The {what} has already {job.status}; there is nothing left to cancel.")
    if job.status in {"validating_files", "queued"}:
        transition(session, job, "cancelled", "The job was cancelled.", cancel_requested_at=NOW)
    elif job.status == "running" and job.cancel_requested_at is None:
        job.cancel_requested_at, job.phase = NOW, "cancelling"
        note(session, job, "Cancellation requested; the worker is told to stop.")
        session.refresh(job)


def reap(session: Session) -> list[str]:
    """End one page of attempts whose worker let the lease run out.

    Returns:
        The jobs, wherever they went. Call again, in a new transaction, until there are none.
    """
    expired = select(Job).where(Job.status == "running", Job.lease_expires_at < NOW).order_by(Job.lease_expires_at)
    jobs = session.scalars(_skip_locked(expired.limit(REAP_PAGE))).all()
    for job in jobs:
        _fail_or_retry(session, job, "worker_lost", "The worker stopped answering.", outcome="lease_lost")
    return [job.id for job in jobs]


def unclaimed(session: Session, worker_id: str, ring_again_seconds: float) -> str | None:
    """The job to ring for again because nobody came, if this worker is idle; else rings would pile up in the broker."""
    if session.scalar(select(Job.id).where(Job.status == "running", Job.lease_owner == worker_id).limit(1)):
        return None
    last_rung = func.greatest(Job.created_at, Job.rung_at)  # greatest() skips nulls
    job = session.scalar(_skip_locked(_due().where(last_rung < NOW - timedelta(seconds=ring_again_seconds))))
    if job is None:
        return None
    job.rung_at = NOW
    session.flush()
    return job.id


def latest_checkpoint(session: Session, job_id: str) -> Checkpoint | None:
    """The one checkpoint whose state is kept, for the next attempt to go on from."""
    kept = select(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.state_sha256.is_not(None))
    return session.scalars(kept).one_or_none()


def forget_states(session: Session, job: Job) -> list[str]:
    """Let go of every stored state of a job: it has a newer one, or needs none any more. Returns their digests."""
    states = select(Checkpoint).where(Checkpoint.job_id == job.id, Checkpoint.state_sha256.is_not(None))
    digests = []
    for checkpoint in session.scalars(states):
        digests.append(str(checkpoint.state_sha256))
        checkpoint.state_sha256 = None
    session.flush()
    return digests


def note(
    session: Session,
    job: Job,
    message: str,
    *,
    level: Level = "info",
    kind: Literal["message", "metrics"] = "message",
    payload: dict[str, Any] | None = None,
) -> None:
    """Add to the job's history."""
    event = JobEvent(id=new_id("ftevent"), job_id=job.id, fence=job.fence, level=level, type=kind, message=message)
    event.payload = payload or {}
    session.add(event)
    session.flush()


def _due() -> Select[Job]:
    due = select(Job).where(Job.status == "queued", Job.available_at <= NOW)
    return due.order_by(Job.available_at, Job.created_at).limit(1)


def _skip_locked(query: Select[Job]) -> Select[Job]:
    """Lock what is found and pass over what others work on; keys stay free for rows that refer to these."""
    return query.with_for_update(skip_locked=True, key_share=True).execution_options(populate_existing=True)


def _fail_or_retry(
    session: Session,
    job: Job,
    code: FailureCode,
    message: str,
    *,
    param: str | None = None,
    outcome: Outcome = "retry",
) -> None:
    num_failed = job.failed_attempts + 1
    # Who lost its lease has already kept the job waiting for longer than that.
    wait_seconds = 0 if outcome == "lease_lost" else RETRY_SECONDS * 4 ** (num_failed - 1)
    if job.cancel_requested_at is not None:
        _cancel(session, job)
    elif code not in RETRYABLE or num_failed >= MAX_FAILED_ATTEMPTS:
        _fail(session, job, code, message, param=param)
    else:
        _close_attempt(session, job, outcome, code, message)
        transition(
            session,
            job,
            "queued",
            f"{message} Attempt {num_failed} of {MAX_FAILED_ATTEMPTS} failed; another one follows.",
            level="warn",
            phase="retry_wait",
            failed_attempts=num_failed,
            available_at=NOW + timedelta(seconds=wait_seconds),
        )


def _fail(session: Session, job: Job, code: FailureCode, message: str, *, param: str | None = None) -> None:
    _close_attempt(session, job, "failed", code, message)
    error = {"error_code": code, "error_message": message, "error_param": param}
    transition(session, job, "failed", message, level="error", failed_attempts=job.failed_attempts + 1, **error)


def _cancel(session: Session, job: Job) -> None:
    _close_attempt(session, job, "cancelled")
    transition(session, job, "cancelled", "The job was cancelled.")


def _close_attempt(
    session: Session, job: Job, outcome: Outcome, code: FailureCode | None = None, message: str | None = None
) -> None:
    attempt = session.get_one(JobAttempt, (job.id, job.fence))
    attempt.ended_at, attempt.outcome, attempt.last_step = NOW, outcome, job.progress_step
    attempt.error_code, attempt.error_message = code, message
    session.flush()
