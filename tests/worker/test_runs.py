"""The state machine on rows: who may move a job, and that a worker without its fence can write nothing."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.db.models import AdapterVersion, Checkpoint, File, Job, JobAttempt, JobEvent, JobMetric
from app.domain.errors import Conflict
from app.domain.lifecycle import MAX_PREEMPTIONS
from app.domain.trainer_protocol import Noted, StepDone
from app.services import publishing, records, runs
from app.services.standings import standings
from app.storage.store import StoredBlob
from tests import factories
from tests.worker.stages import results

PAST = datetime(2020, 1, 1, tzinfo=UTC)


def claim(session: Session) -> runs.Claim:
    taken = runs.claim_next(session, factories.make_worker(session).id, 60)
    assert taken
    return taken


def expire(session: Session, job: Job) -> None:
    job.lease_expires_at = PAST
    session.flush()


def step(number: int, **metrics: float) -> StepDone:
    return StepDone(step=number, total_steps=9, trained_tokens=number, metrics=metrics)


def checkpoint(session: Session, taken: runs.Claim, number: int) -> list[str]:
    archive = factories.make_blob(session, f"tar {taken.fence} {number}".encode())
    state = factories.make_blob(session, f"state {taken.fence} {number}".encode())
    return records.record_checkpoint(
        session,
        taken,
        number,
        archive=StoredBlob(archive.sha256, archive.num_bytes),
        state=StoredBlob(state.sha256, state.num_bytes),
        metrics={},
    )


def test_the_job_that_is_due_for_longest_is_claimed_first(session: Session) -> None:
    now = datetime.now(UTC)
    factories.make_job(session, available_at=now + timedelta(hours=1))
    second = factories.make_job(session, available_at=now - timedelta(hours=1))
    first = factories.make_job(session, available_at=now - timedelta(hours=2))
    worker = factories.make_worker(session)
    claims = [runs.claim_next(session, worker.id, 60) for _ in range(3)]
    assert [taken and taken.job_id for taken in claims] == [first.id, second.id, None]


def test_a_claim_raises_the_fence_and_opens_an_attempt(session: Session) -> None:
    job = factories.make_job(session)
    taken = claim(session)
    assert taken == runs.Claim(job.id, 1)
    assert (job.status, job.phase) == ("running", "claimed")
    assert session.get_one(JobAttempt, (job.id, 1)).ended_at is None
    assert job.started_at


def test_there_is_no_way_out_of_an_end(session: Session) -> None:
    for ended in ("succeeded", "failed", "cancelled"):
        job = factories.make_job(session, ended)
        for status in ("queued", "running", "succeeded", "failed", "cancelled"):
            with pytest.raises(ValueError, match="cannot go"):
                runs.transition(session, job, status, "no")


def test_a_transition_from_a_row_read_too_long_ago_is_refused(session: Session) -> None:
    job = factories.make_job(session)
    stale = Job(id=job.id, status="queued", fence=7)
    with pytest.raises(runs.LeaseLost):
        runs.transition(session, stale, "running", "no")


def test_each_transition_is_one_event(session: Session) -> None:
    job = factories.make_job(session)
    taken = claim(session)
    runs.release_preempted(session, taken)
    runs.fail_or_retry(session, claim(session), "diverged", "The loss is not a number.")
    events = session.scalars(select(JobEvent).where(JobEvent.job_id == job.id).order_by(JobEvent.seq)).all()
    assert [(event.level, event.message) for event in events] == [
        ("info", "Attempt 1 started."),
        ("info", "The worker had to stop; another one goes on from the last checkpoint."),
        ("info", "Attempt 2 started."),
        ("error", "The loss is not a number."),
    ]


def test_who_lost_the_lease_can_write_nothing(session: Session) -> None:
    job = factories.make_job(session)
    stale = claim(session)
    expire(session, job)
    assert runs.reap(session) == [job.id]
    fresh = claim(session)
    assert fresh.fence == 2

    writes = [
        lambda: runs.renew(session, stale, 60),
        lambda: records.record_phase(session, stale, "training"),
        lambda: records.record_progress(session, stale, 1, 2),
        lambda: records.record_event(session, stale, Noted(message="I am still here.")),
        lambda: records.record_steps(session, stale, [step(5)]),
        lambda: checkpoint(session, stale, 5),
        lambda: runs.release_preempted(session, stale),
        lambda: runs.fail_or_retry(session, stale, "diverged", "no"),
        lambda: runs.cancel(session, stale),
        lambda: publishing.publish(session, stale, results(session)),
    ]
    for write in writes:
        with pytest.raises(runs.LeaseLost):
            write()
    session.refresh(job)
    assert (job.status, job.fence, job.phase, job.progress_step) == ("running", 2, "claimed", 0)
    assert session.scalar(select(func.count()).select_from(Checkpoint)) == 0
    assert session.scalar(select(func.count()).select_from(JobMetric)) == 0
    assert session.scalar(select(func.count()).select_from(AdapterVersion)) == 0


def test_control_without_the_fence_a_stale_worker_publishes(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    job = factories.make_job(session)
    stale = claim(session)
    expire(session, job)
    runs.reap(session)
    fresh = claim(session)
    unfenced = select(Job).where(Job.id == job.id)
    monkeypatch.setattr(publishing, "held", lambda session, _claim: session.scalars(unfenced).one())
    publishing.publish(session, stale, results(session))
    with pytest.raises(runs.LeaseLost):
        runs.renew(session, fresh, 60)


def test_an_attempt_goes_on_from_the_newest_checkpoint(session: Session) -> None:
    job = factories.make_job(session)
    first = claim(session)
    assert checkpoint(session, first, 4) == []
    (replaced,) = checkpoint(session, first, 8)
    records.record_steps(session, first, [step(9)])
    runs.fail_or_retry(session, first, "worker_lost", "Gone.")
    job.available_at = PAST
    session.flush()

    second = claim(session)
    assert session.get_one(JobAttempt, (job.id, second.fence)).first_step == 8
    assert job.progress_step == 8
    assert session.scalars(select(Checkpoint.state_sha256).order_by(Checkpoint.step)).all()[0] is None
    assert replaced


def test_a_long_job_keeps_its_newest_checkpoints_only(session: Session) -> None:
    factories.make_job(session)
    taken = claim(session)
    for number in range(1, records.KEPT_CHECKPOINTS + 3):
        checkpoint(session, taken, number)
    kept = session.scalars(select(Checkpoint.step).order_by(Checkpoint.step)).all()
    assert kept == [3, 4, 5]
    living = select(func.count()).select_from(File).where(File.filename.contains("-step-"), File.deleted_at.is_(None))
    assert session.scalar(living) == records.KEPT_CHECKPOINTS


def test_a_repeated_checkpoint_message_changes_nothing(session: Session) -> None:
    factories.make_job(session)
    taken = claim(session)
    checkpoint(session, taken, 4)
    assert checkpoint(session, taken, 4) == []
    assert session.scalar(select(func.count()).select_from(Checkpoint)) == 1


def test_steps_run_again_overwrite_their_metrics(session: Session) -> None:
    job = factories.make_job(session)
    taken = claim(session)
    records.record_steps(session, taken, [step(1, train_loss=3.0), step(2, train_loss=2.0, grad_norm=float("nan"))])
    records.record_steps(session, taken, [step(2, train_loss=1.5)])
    stored = session.scalars(select(JobMetric).order_by(JobMetric.step)).all()
    assert [row.values for row in stored] == [{"train_loss": 3.0}, {"train_loss": 1.5}]
    assert (job.progress_step, job.total_steps) == (2, 9)


def test_the_pace_after_a_lost_worker_is_that_of_the_steps_run_again(session: Session) -> None:
    """Fault caught: overwritten steps that kept the time of the attempt before, hours ago."""
    job = factories.make_job(session)
    first = claim(session)
    for number in (1, 2, 3):
        records.record_steps(session, first, [step(number)])
    session.execute(update(JobMetric).values(created_at=JobMetric.created_at - timedelta(hours=5)))
    runs.fail_or_retry(session, first, "worker_lost", "Gone.")
    job.available_at = PAST
    session.flush()
    second = claim(session)
    records.record_phase(session, second, "training")
    for number in (1, 2, 3, 4):
        records.record_steps(session, second, [step(number)])
    [standing] = standings(session, [job])
    assert standing.seconds_remaining is not None
    assert standing.seconds_remaining < 60


def test_a_job_that_waits_again_shows_no_progress_of_the_attempt_before(session: Session) -> None:
    job = factories.make_job(session)
    for give_back in (
        runs.release_preempted,
        lambda session, taken: runs.fail_or_retry(session, taken, "worker_lost", "Gone."),
    ):
        job.available_at = PAST
        session.flush()
        taken = claim(session)
        records.record_progress(session, taken, 300, 900)
        give_back(session, taken)
        assert (job.status, job.phase_done, job.phase_total) == ("queued", None, None)


def test_retries_wait_and_are_counted(session: Session) -> None:
    job = factories.make_job(session)
    for failed in (1, 2):
        runs.fail_or_retry(session, claim(session), "worker_lost", "Gone.")
        assert (job.status, job.phase, job.failed_attempts) == ("queued", "retry_wait", failed)
        wait = job.available_at - datetime.now(UTC)
        assert wait > timedelta(seconds=runs.RETRY_SECONDS * 4 ** (failed - 1) - 1)
        assert runs.claim_next(session, factories.make_worker(session).id, 60) is None
        job.available_at = PAST
        session.flush()
    runs.fail_or_retry(session, claim(session), "worker_lost", "Gone.")
    assert (job.status, job.error_code, job.finished_at is not None) == ("failed", "worker_lost", True)


def test_preemptions_do_not_count_as_failures_but_have_a_limit(session: Session) -> None:
    job = factories.make_job(session)
    for _ in range(MAX_PREEMPTIONS):
        runs.release_preempted(session, claim(session))
    assert (job.status, job.failed_attempts) == ("queued", 0)
    runs.release_preempted(session, claim(session))
    assert (job.status, job.error_code) == ("failed", "worker_lost")


def test_only_time_at_work_counts_towards_the_limit(session: Session) -> None:
    """Fault caught: a service that was stopped over a weekend ends the job that was to go on, as out of time."""
    job = factories.make_job(session)
    for hours in (1, 2):
        taken = claim(session)
        attempt = session.get_one(JobAttempt, (job.id, taken.fence))
        attempt.started_at = datetime.now(UTC) - timedelta(hours=hours)
        session.flush()
        runs.release_preempted(session, taken)
        session.refresh(attempt)
        attempt.started_at, attempt.ended_at = PAST, PAST + timedelta(hours=hours)
    job.started_at = PAST
    session.flush()
    assert 3 * 3600 <= runs.renew(session, claim(session), 60).seconds_running < 3 * 3600 + 60


def test_cancelling_a_waiting_job_ends_it_at_once_and_twice_is_once(session: Session) -> None:
    job = factories.make_job(session)
    runs.request_cancel(session, job)
    first = job.finished_at
    runs.request_cancel(session, job)
    assert (job.status, job.phase, job.finished_at) == ("cancelled", "done", first)
    assert session.scalar(select(func.count()).select_from(JobEvent)) == 1


def test_cancelling_a_running_job_asks_its_worker_once(session: Session) -> None:
    job = factories.make_job(session)
    taken = claim(session)
    assert not runs.renew(session, taken, 60).cancel_requested
    runs.request_cancel(session, job)
    asked_at = job.cancel_requested_at
    runs.request_cancel(session, job)
    assert (job.status, job.phase, job.cancel_requested_at) == ("running", "cancelling", asked_at)
    assert runs.renew(session, taken, 60).cancel_requested
    records.record_phase(session, taken, "evaluating")
    assert job.phase == "cancelling"
    with pytest.raises(publishing.CancelRequested):
        publishing.publish(session, taken, results(session))
    runs.cancel(session, taken)
    assert job.status == "cancelled"


@pytest.mark.parametrize("status", ["succeeded", "failed"])
def test_what_has_ended_cannot_be_cancelled(session: Session, status: str) -> None:
    with pytest.raises(Conflict, match=status):
        runs.request_cancel(session, factories.make_job(session, status))


@pytest.mark.parametrize(
    "end",
    [
        runs.release_preempted,
        lambda session, taken: runs.fail_or_retry(session, taken, "worker_lost", "Gone."),
        lambda session, taken: expire(session, session.get_one(Job, taken.job_id)) or runs.reap(session),
    ],
    ids=["preempted", "failed", "expired"],
)
def test_a_requested_cancel_is_heeded_however_the_attempt_ends(session: Session, end: object) -> None:
    job = factories.make_job(session)
    taken = claim(session)
    runs.request_cancel(session, job)
    end(session, taken)
    assert (job.status, session.get_one(JobAttempt, (job.id, 1)).outcome) == ("cancelled", "cancelled")


def test_the_reaper_takes_pages_and_leaves_live_leases_alone(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "REAP_PAGE", 2)
    dead = [factories.make_job(session, "running", lease_expires_at=PAST) for _ in range(3)]
    alive = factories.make_job(session, "running")
    pages = [runs.reap(session) for _ in range(3)]
    assert [len(page) for page in pages] == [2, 1, 0]
    assert {job.status for job in dead} == {"queued"}
    session.refresh(alive)
    assert alive.status == "running"


def test_a_lost_lease_is_due_again_at_once_and_fails_the_third_time(session: Session) -> None:
    job = factories.make_job(session)
    for _ in range(3):
        claim(session)
        expire(session, job)
        runs.reap(session)
    assert (job.status, job.error_code, job.failed_attempts) == ("failed", "worker_lost", 3)


def test_only_an_idle_worker_rings_again_and_not_for_new_jobs(session: Session) -> None:
    idle, busy = factories.make_worker(session), factories.make_worker(session)
    factories.make_job(session, "running", lease_owner=busy.id)
    factories.make_job(session)
    old = factories.make_job(session, created_at=PAST)
    assert runs.unclaimed(session, busy.id, 30) is None
    assert runs.unclaimed(session, idle.id, 30) == old.id
    assert runs.unclaimed(session, idle.id, 30) is None  # it has just rung


def test_versions_of_a_line_count_up_and_name_their_parent(session: Session) -> None:
    project = factories.make_project(session)
    parent = None
    for number in (1, 2):
        job = factories.make_job(session, project=project, adapter_name="support", parent_version_id=parent)
        version = publishing.publish(session, claim(session), results(session))
        assert (version.version, version.parent_version_id) == (number, parent)
        assert (job.status, len(job.result_file_ids)) == ("succeeded", 3)
        parent = version.id


def test_a_line_that_another_base_took_meanwhile_is_a_conflict(session: Session) -> None:
    project = factories.make_project(session)
    other = factories.make_base_model(session, "other")
    for base in ("tiny", other.name):
        factories.make_job(session, project=project, adapter_name="support", base_model=base)
    publishing.publish(session, claim(session), results(session))
    with pytest.raises(Conflict):
        publishing.publish(session, claim(session), results(session))
