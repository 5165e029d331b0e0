"""Real threads on real transactions, let go together."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from app.db.models import Adapter, AdapterVersion, Job
from app.db.session import make_sessions
from app.domain.errors import Conflict
from app.services import publishing, runs
from tests import factories
from tests.worker.conftest import wait_until
from tests.worker.stages import results

T = TypeVar("T")


def together(*actions: Callable[[], T]) -> list[T]:
    """Results of all actions, started at the same moment."""
    barrier = threading.Barrier(len(actions))

    def run(action: Callable[[], T]) -> T:
        barrier.wait()
        return action()

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(run, actions))


def running_job(sessions: sessionmaker[Session], **values: object) -> runs.Claim:
    with sessions.begin() as session:
        factories.make_job(session, **values)
        claim = runs.claim_next(session, factories.make_worker(session).id, 60)
    assert claim
    return claim


def test_each_job_is_claimed_by_one_of_many_workers(committed_sessions: sessionmaker[Session]) -> None:
    with committed_sessions.begin() as session:
        worker_id = factories.make_worker(session).id
        posted = {factories.make_job(session).id for _ in range(10)}

    def claim() -> str | None:
        with committed_sessions.begin() as session:
            taken = runs.claim_next(session, worker_id, 60)
            return taken and taken.job_id

    claimed = [job_id for job_id in together(*[claim] * 16) if job_id]
    assert len(claimed) == len(set(claimed))
    # A claim that met a locked row may leave empty-handed; its job is there for the next one.
    while job_id := claim():
        claimed.append(job_id)
    assert sorted(claimed) == sorted(posted)


def test_cancel_and_publish_have_one_winner(committed_sessions: sessionmaker[Session]) -> None:
    outcomes = set()
    for _ in range(60):
        claim = running_job(committed_sessions)
        with committed_sessions.begin() as session:
            found = results(session)

        def publish(claim: runs.Claim = claim, found: publishing.Results = found) -> str:
            try:
                with committed_sessions.begin() as session:
                    publishing.publish(session, claim, found)
            except publishing.CancelRequested:
                with committed_sessions.begin() as session:
                    runs.cancel(session, claim)
                return "stopped"
            return "published"

        def cancel(claim: runs.Claim = claim) -> str:
            try:
                with committed_sessions.begin() as session:
                    runs.request_cancel(session, session.get_one(Job, claim.job_id))
            except Conflict:
                return "too late"
            return "asked"

        answers = tuple(together(publish, cancel))
        with committed_sessions.begin() as session:
            versions = session.scalars(select(AdapterVersion).where(AdapterVersion.job_id == claim.job_id)).all()
            outcomes.add((session.get_one(Job, claim.job_id).status, len(versions), answers))
    assert outcomes <= {("succeeded", 1, ("published", "too late")), ("cancelled", 0, ("stopped", "asked"))}


def test_jobs_of_one_line_get_different_versions(committed_sessions: sessionmaker[Session]) -> None:
    with committed_sessions.begin() as session:
        project = factories.make_project(session)
    for round_number in range(3):
        line = f"line-{round_number}"
        claims = [running_job(committed_sessions, project=project, adapter_name=line) for _ in range(8)]
        with committed_sessions.begin() as session:
            found = results(session)

        def publish(claim: runs.Claim, found: publishing.Results = found) -> int:
            with committed_sessions.begin() as session:
                return publishing.publish(session, claim, found).version

        numbers = together(*[lambda claim=claim: publish(claim) for claim in claims])
        assert sorted(numbers) == list(range(1, 9))
        with committed_sessions.begin() as session:
            assert len(session.scalars(select(Adapter).where(Adapter.name == line)).all()) == 1


def test_one_of_many_workers_of_one_claim_publishes(committed_sessions: sessionmaker[Session]) -> None:
    for _ in range(5):
        claim = running_job(committed_sessions)
        with committed_sessions.begin() as session:
            found = results(session)

        def publish(claim: runs.Claim = claim, found: publishing.Results = found) -> bool:
            try:
                with committed_sessions.begin() as session:
                    publishing.publish(session, claim, found)
            except runs.LeaseLost:
                return False
            return True

        assert sorted(together(*[publish] * 8)) == [False] * 7 + [True]


def test_two_reapers_share_the_work(committed_sessions: sessionmaker[Session]) -> None:
    for _ in range(5):
        running_job(committed_sessions)
    with committed_sessions.begin() as session:
        for job in session.scalars(select(Job)):
            job.lease_expires_at = job.created_at

    def reap() -> list[str]:
        with committed_sessions.begin() as session:
            return runs.reap(session)

    reaped = [job_id for page in together(reap, reap, reap) for job_id in page]
    assert len(reaped) == len(set(reaped)) == 5


def test_a_renewal_and_the_reaper_cannot_both_win(committed_sessions: sessionmaker[Session]) -> None:
    for _ in range(20):
        claim = running_job(committed_sessions)
        with committed_sessions.begin() as session:
            job = session.get_one(Job, claim.job_id)
            job.lease_expires_at = job.created_at

        def renew(claim: runs.Claim = claim) -> bool:
            try:
                with committed_sessions.begin() as session:
                    runs.renew(session, claim, 60)
            except runs.LeaseLost:
                return False
            return True

        def reap() -> bool:
            with committed_sessions.begin() as session:
                return bool(runs.reap(session))

        renewed, reaped = together(renew, reap)
        assert renewed != reaped
        with committed_sessions.begin() as session:
            job = session.get_one(Job, claim.job_id)
            assert job.status == ("running" if renewed else "queued")
            if job.status == "running":
                runs.fail_or_retry(session, claim, "diverged", "Over.")
            else:
                runs.request_cancel(session, job)


def test_a_worker_frozen_in_a_transaction_does_not_keep_its_job(
    committed_sessions: sessionmaker[Session], database_url: str
) -> None:
    claim = running_job(committed_sessions, status="queued")
    impatient = make_sessions(database_url, pool_size=1, statement_timeout_seconds=0.5)
    frozen = impatient()
    job = runs.held(frozen, claim)
    with committed_sessions.begin() as session:
        assert runs.reap(session) == []
    job_id, expired = job.id, update(Job).values(lease_expires_at=Job.created_at)

    def reaped() -> bool:
        with committed_sessions.begin() as session:
            session.execute(expired)
            return runs.reap(session) == [job_id]

    wait_until(reaped, seconds=10)
    with pytest.raises(DBAPIError):
        frozen.commit()
    frozen.close()
    impatient.kw["bind"].dispose()


@pytest.fixture(autouse=True)
def _base_model(committed_sessions: sessionmaker[Session]) -> None:
    """Made once: threads would race to make it."""
    with committed_sessions.begin() as session:
        factories.make_base_model(session)
