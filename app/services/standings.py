"""Where jobs stand: what other rows say about a job than its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, joinedload

from app.db.models import AdapterVersion, Evaluation, Job, JobMetric


@dataclass(frozen=True)
class Standing:
    """Where a job stands: its row, and what other rows say about it."""

    job: Job
    parent: str | None
    fine_tuned_model: str | None
    version: int | None
    evaluation_id: str | None
    gate: dict[str, Any] | None
    queue_position: int | None
    seconds_remaining: float | None


def standings(session: Session, jobs: Sequence[Job]) -> list[Standing]:
    """Where jobs stand, in as many queries for a page as for one job."""
    ids = [job.id for job in jobs]
    versions = {
        row.job_id: row
        for row in session.execute(
            select(
                AdapterVersion.job_id, AdapterVersion.model_id, AdapterVersion.version, Evaluation.id, Evaluation.gate
            )
            .outerjoin(Evaluation, Evaluation.job_id == AdapterVersion.job_id)
            .where(AdapterVersion.job_id.in_(ids))
        )
    }
    parents = _parents(session, jobs)
    positions = _queue_positions(session, jobs)
    remaining = _seconds_remaining(session, jobs)
    found = []
    for job in jobs:
        published = versions.get(job.id)
        found.append(
            Standing(
                job=job,
                parent=parents.get(job.id),
                fine_tuned_model=published.model_id if published else None,
                version=published.version if published else None,
                evaluation_id=published.id if published else None,
                gate=published.gate if published else None,
                queue_position=positions.get(job.id),
                seconds_remaining=remaining.get(job.id),
            )
        )
    return found


def _parents(session: Session, jobs: Sequence[Job]) -> dict[str, str]:
    """What people call the version that a job starts from, deleted or not."""
    named = {job.parent_version_id for job in jobs if job.parent_version_id}
    query = select(AdapterVersion).where(AdapterVersion.id.in_(named)).options(joinedload(AdapterVersion.adapter))
    called = {version.id: version.label for version in session.scalars(query)}
    return {job.id: called[job.parent_version_id] for job in jobs if job.parent_version_id}


def _queue_positions(session: Session, jobs: Sequence[Job]) -> dict[str, int]:
    """Place in the order in which workers claim, from 1."""
    waiting = [job.id for job in jobs if job.status == "queued"]
    if not waiting:
        return {}
    place = func.row_number().over(order_by=(Job.available_at, Job.created_at)).label("place")
    queue = select(Job.id, place).where(Job.status == "queued").subquery()
    query = select(queue.c.id, queue.c.place).where(queue.c.id.in_(waiting))
    return {job_id: place for job_id, place in session.execute(query)}  # noqa: C416 - rows are no pairs for mypy


def _seconds_remaining(session: Session, jobs: Sequence[Job]) -> dict[str, float]:
    """Time for the steps that are left, at the pace of this attempt's steps so far."""
    training = {job.id: job for job in jobs if job.status == "running" and job.phase == "training" and job.total_steps}
    if not training:
        return {}
    pace = (
        select(
            JobMetric.job_id,
            func.extract("epoch", func.max(JobMetric.created_at) - func.min(JobMetric.created_at)),
            func.count() - 1,
        )
        .join(Job, (Job.id == JobMetric.job_id) & (Job.fence == JobMetric.fence))
        .where(JobMetric.job_id.in_(training))
        .group_by(JobMetric.job_id)
    )
    return {
        job_id: float(seconds) / steps * ((training[job_id].total_steps or 0) - training[job_id].progress_step)
        for job_id, seconds, steps in session.execute(pace)
        if steps
    }
