"""What the doorbell starts: a look at the queue. The message names a job, but the queue decides which one is due."""

import os
import time

import structlog

from app.db.session import transaction
from app.dispatch import TRAIN_TASK
from app.services import runs, workers
from worker.attempt import run_attempt
from worker.celery_app import app, slot, worker_process

log = structlog.get_logger()


@app.task(name=TRAIN_TASK)  # type: ignore[untyped-decorator]
def train(job_id: str) -> None:
    """Take the job that has waited longest and see one attempt at it through; nothing if there is none."""
    here = slot()
    if here.home.draining:
        return
    claimed_at = time.monotonic()
    with transaction(here.resources.sessions) as session:
        workers.report(session, worker_process(here.home.worker_id, os.getppid()), draining=False)
        claim = runs.claim_next(session, here.home.worker_id, here.times.lease_seconds)
    if claim is None:
        log.info("nobody_waits", rung_for=job_id)
        return
    with structlog.contextvars.bound_contextvars(job_id=claim.job_id, attempt=claim.fence):
        run_attempt(here, claim, claimed_at=claimed_at)
