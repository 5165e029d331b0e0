"""What a running attempt tells of itself, written down under its fence.

Every function raises ``LeaseLost`` where the job is no longer the attempt's, and then has written nothing.
"""

import csv
import io
from collections.abc import Sequence
from typing import Final

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db.clock import NOW
from app.db.models import Checkpoint, File, Job, JobMetric
from app.domain.ids import new_id
from app.domain.lifecycle import Phase
from app.domain.trainer_protocol import Noted, StepDone
from app.domain.training import TrainingConfig
from app.services.runs import Claim, forget_states, held, note
from app.storage.store import StoredBlob

KEPT_CHECKPOINTS: Final = 3
"""Adapters on the way to a version that a client may fetch: the newest of each job. One a minute would fill a disk."""
OPENAI_COLUMNS: Final = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")


def record_phase(session: Session, claim: Claim, phase: Phase) -> None:
    """What the attempt does now; a job that is being cancelled keeps saying that."""
    job = held(session, claim)
    if job.cancel_requested_at is None:
        job.phase = phase
    job.phase_done = job.phase_total = None
    session.flush()


def record_progress(session: Session, claim: Claim, done: int, total: int) -> None:
    """How far a phase without optimizer steps has come."""
    job = held(session, claim)
    job.phase_done, job.phase_total = done, total
    session.flush()


def record_event(session: Session, claim: Claim, noted: Noted) -> None:
    """Something that the client should read."""
    note(session, held(session, claim), noted.message, level=noted.level, payload=noted.data)


def record_resolved(session: Session, claim: Claim, config: TrainingConfig) -> None:
    """The configuration of this attempt and of every later one."""
    job = held(session, claim)
    job.resolved, job.total_steps = config.model_dump(mode="json"), config.total_steps
    session.flush()


def record_steps(session: Session, claim: Claim, steps: Sequence[StepDone]) -> None:
    """Finished steps, oldest first. A resumed attempt overwrites the metrics of the steps that it runs again."""
    job, last = held(session, claim), steps[-1]
    job.progress_step, job.total_steps, job.trained_tokens = last.step, last.total_steps, last.trained_tokens
    rows = insert(JobMetric).values(
        [{"job_id": job.id, "step": step.step, "fence": job.fence, "values": step.metrics} for step in steps]
    )
    # Its time too: the pace is told by the steps of this attempt.
    newest = {"fence": rows.excluded.fence, "values": rows.excluded["values"], "created_at": NOW}
    session.execute(rows.on_conflict_do_update(index_elements=["job_id", "step"], set_=newest))
    for step in steps:
        payload = {"step": step.step, "total_steps": step.total_steps, **step.metrics}
        note(session, job, f"Step {step.step}/{step.total_steps}", kind="metrics", payload=payload)


def record_checkpoint(
    session: Session, claim: Claim, step: int, *, archive: StoredBlob, state: StoredBlob, metrics: dict[str, float]
) -> list[str]:
    """The state to go on from, once its bytes are in the store.

    Returns:
        Digests of the states that it replaces.
    """
    job = held(session, claim)
    known = (Checkpoint.job_id == job.id, Checkpoint.fence == job.fence, Checkpoint.step == step)
    if session.scalar(select(Checkpoint.id).where(*known)):
        return []
    replaced = forget_states(session, job)
    _forget_oldest(session, job)
    file = result_file(session, job, f"{job.adapter_name}-step-{step}.tar", archive)
    session.add(
        Checkpoint(
            id=new_id("ftckpt"),
            job_id=job.id,
            fence=job.fence,
            step=step,
            adapter_file_id=file.id,
            state_sha256=state.sha256,
            metrics=metrics,
        )
    )
    session.flush()
    return [sha256 for sha256 in replaced if sha256 != state.sha256]


def _forget_oldest(session: Session, job: Job) -> None:
    """Make room for one more checkpoint; the bytes of those that go are collected as garbage."""
    newest_first = select(Checkpoint).where(Checkpoint.job_id == job.id).order_by(Checkpoint.created_at.desc())
    for checkpoint in session.scalars(newest_first.offset(KEPT_CHECKPOINTS - 1)).all():
        session.get_one(File, checkpoint.adapter_file_id).deleted_at = NOW
        session.delete(checkpoint)
    session.flush()


def metrics_csv(session: Session, job_id: str) -> str:
    """A line for each step: OpenAI's columns first, then whatever else was measured."""
    metrics = select(JobMetric).where(JobMetric.job_id == job_id).order_by(JobMetric.step)
    rows = [{"step": row.step, **row.values} for row in session.scalars(metrics)]
    ours = sorted({name for row in rows for name in row} - set(OPENAI_COLUMNS))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*OPENAI_COLUMNS, *ours], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def result_file(session: Session, job: Job, filename: str, blob: StoredBlob) -> File:
    """A file of the client's that its job made."""
    file = File(
        id=new_id("file"),
        project_id=job.project_id,
        filename=filename,
        purpose="fine-tune-results",
        sha256=blob.sha256,
        num_bytes=blob.num_bytes,
        status="processed",
    )
    session.add(file)
    session.flush()
    return file
