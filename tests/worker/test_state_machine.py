"""Any order of clients, workers, reaper and clock: only the table's moves, a fence that never falls, ends that stay.

The model knows only who has claimed what last; all else is read from the rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from app.db.models import AdapterVersion, Job, JobAttempt
from app.domain.errors import Conflict
from app.domain.lifecycle import MAX_FAILED_ATTEMPTS, RETRYABLE, TERMINAL, TRANSITIONS
from app.domain.trainer_protocol import StepDone
from app.services import publishing, records, runs
from tests import factories
from tests.worker.stages import results

PAST = datetime(2020, 1, 1, tzinfo=UTC)


class Machine(RuleBasedStateMachine):
    session: Session
    jobs = Bundle("jobs")
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.owner: dict[str, runs.Claim] = {}
        self.seen: dict[str, tuple[str, int]] = {}
        self.worker = factories.make_worker(self.session)
        self.project = factories.make_project(self.session)

    @contextmanager
    def acting(self, claim: runs.Claim) -> Iterator[None]:
        """A worker acts: it must succeed if the job is its own and running, and be refused if not."""
        job = self.session.get_one(Job, claim.job_id)
        allowed = job.status == "running" and self.owner[job.id] == claim
        if allowed:
            yield
            return
        with pytest.raises(runs.LeaseLost):
            yield

    @rule(target=jobs)
    def post(self) -> str:
        job = factories.make_job(self.session, project=self.project, adapter_name="line")
        self.seen[job.id] = ("queued", 0)
        return job.id

    @rule(target=claims)
    def claim(self) -> runs.Claim | None:
        claim = runs.claim_next(self.session, self.worker.id, 60)
        if claim:
            self.owner[claim.job_id] = claim
        return claim

    @rule(claim=claims.filter(bool))
    def renew(self, claim: runs.Claim) -> None:
        with self.acting(claim):
            runs.renew(self.session, claim, 60)

    @rule(claim=claims.filter(bool), number=st.integers(1, 9))
    def step(self, claim: runs.Claim, number: int) -> None:
        with self.acting(claim):
            records.record_steps(
                self.session, claim, [StepDone(step=number, total_steps=9, trained_tokens=1, metrics={})]
            )

    @rule(claim=claims.filter(bool))
    def release(self, claim: runs.Claim) -> None:
        with self.acting(claim):
            runs.release_preempted(self.session, claim)

    @rule(claim=claims.filter(bool), code=st.sampled_from(["worker_lost", "out_of_memory", "diverged"]))
    def fail(self, claim: runs.Claim, code: str) -> None:
        job = self.session.get_one(Job, claim.job_id)
        last = code not in RETRYABLE or job.failed_attempts + 1 >= MAX_FAILED_ATTEMPTS
        with self.acting(claim):
            cancelled = job.cancel_requested_at is not None
            runs.fail_or_retry(self.session, claim, code, "It failed.")
            assert job.status == ("cancelled" if cancelled else "failed" if last else "queued")

    @rule(claim=claims.filter(bool))
    def publish(self, claim: runs.Claim) -> None:
        with self.acting(claim):
            try:
                publishing.publish(self.session, claim, results(self.session))
            except publishing.CancelRequested:
                runs.cancel(self.session, claim)

    @rule(job_id=jobs)
    def request_cancel(self, job_id: str) -> None:
        job = self.session.get_one(Job, job_id)
        if job.status in {"succeeded", "failed"}:
            with pytest.raises(Conflict):
                runs.request_cancel(self.session, job)
        else:
            runs.request_cancel(self.session, job)
            assert job.cancel_requested_at is not None

    @rule(job_id=jobs)
    def time_passes(self, job_id: str) -> None:
        """A lease runs out, or a wait is over."""
        job = self.session.get_one(Job, job_id)
        job.available_at = PAST
        if job.status == "running":
            job.lease_expires_at = PAST
        self.session.flush()

    @rule()
    def reap(self) -> None:
        runs.reap(self.session)

    @invariant()
    def only_the_tables_moves(self) -> None:
        for job in self.session.scalars(select(Job).execution_options(populate_existing=True)):
            status, fence = self.seen[job.id]
            assert job.fence >= fence
            assert job.status == status or (status, job.status) in TRANSITIONS
            assert status not in TERMINAL or job.status == status
            assert not (job.status == "queued" and job.cancel_requested_at)
            self.seen[job.id] = (job.status, job.fence)

    @invariant()
    def attempts_and_versions_agree_with_the_jobs(self) -> None:
        def count(query: object) -> int:
            return self.session.scalar(query) or 0

        running = count(select(func.count()).select_from(Job).where(Job.status == "running"))
        open_attempts = select(func.count()).select_from(JobAttempt).where(JobAttempt.ended_at.is_(None))
        assert count(open_attempts) == running
        succeeded = count(select(func.count()).select_from(Job).where(Job.status == "succeeded"))
        numbers = self.session.scalars(select(AdapterVersion.version).order_by(AdapterVersion.version)).all()
        assert numbers == list(range(1, succeeded + 1))
        assert count(select(func.sum(Job.fence))) == count(select(func.count()).select_from(JobAttempt))


def test_any_order_of_events(sessions: sessionmaker[Session]) -> None:
    class Rolled(Machine):
        """Each example works in a transaction that is rolled back."""

        def __init__(self) -> None:
            self.session = sessions()
            super().__init__()

        def teardown(self) -> None:
            self.session.close()

    run_state_machine_as_test(
        Rolled,
        settings=settings(
            max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
