"""Supervisors as processes of their own: paused and killed; with a control that shows what the guards are for."""

import signal
import time

import psutil
import pytest
from sqlalchemy import text, update

from app.db.models import Job
from app.services import runs
from tests.worker.conftest import TIMES, Site, wait_until

BACKENDS = text("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'")


def reap(site: Site) -> bool:
    with site.sessions.begin() as session:
        return bool(runs.reap(session))


def run_until_paused(site: Site, job_id: str, supervisor: psutil.Popen) -> None:
    """Let it train a few steps, stop it in its tracks, and wait until its lease has run out."""
    wait_until(lambda: site.job(job_id).progress_step >= 3)
    supervisor.suspend()
    wait_until(lambda: reap(site))


def test_a_supervisor_that_slept_through_its_lease_stops_and_writes_nothing(site: Site) -> None:
    job_id = site.post(steps=60, step_seconds=0.1)
    with site.start_supervisor() as sleeper:
        run_until_paused(site, job_id, sleeper)
        with site.start_supervisor() as successor:
            wait_until(lambda: site.job(job_id).fence == 2 and site.job(job_id).progress_step > 4)
            sleeper.resume()
            assert sleeper.wait(timeout=10) == 0
            assert successor.wait(timeout=30) == 0
    first, second = site.attempts(job_id)
    assert (first.outcome, second.outcome) == ("lease_lost", "succeeded")
    assert [entry["attempt"] for entry in site.said("lease_lost")] == [1]
    assert [entry["attempt"] for entry in site.said("published")] == [2]
    assert len(site.versions(job_id)) == 1


def test_control_without_fence_and_trust_the_sleeper_publishes_for_its_successor(site: Site) -> None:
    job_id = site.post(steps=60, step_seconds=0.1, checkpoint_every=1000)  # the successor starts all over
    with site.start_supervisor(TEST_NO_FENCE="1") as sleeper:
        run_until_paused(site, job_id, sleeper)
        with site.start_supervisor() as successor:
            wait_until(lambda: site.job(job_id).fence == 2)
            # The trainer of the sleeper has worked on meanwhile: woken up, it is the first to finish.
            sleeper.resume()
            assert sleeper.wait(timeout=30) == 0
            assert successor.wait(timeout=30) == 0
    assert [entry["attempt"] for entry in site.said("published")] == [1]
    assert [entry["attempt"] for entry in site.said("lease_lost")] == [2]


@pytest.mark.parametrize("busy", [False, True], ids=["obedient", "ignoring TERM"])
def test_no_trainer_survives_its_supervisor(site: Site, busy: bool) -> None:
    job_id = site.post(steps=600, step_seconds=0.1, ignore_term=busy)
    with site.start_supervisor() as supervisor:
        wait_until(lambda: site.job(job_id).progress_step > 0)
        assert site.trainers()
        supervisor.kill()
        wait_until(lambda: not site.trainers(), seconds=2)


def test_a_killed_supervisors_job_is_found_within_a_lease_and_goes_on(site: Site) -> None:
    plain, job_id = site.post(steps=30), site.post(steps=30, step_seconds=0.1)
    site.run_one(site.slot())
    with site.start_supervisor() as supervisor:
        wait_until(lambda: site.job(job_id).progress_step >= 5)
        supervisor.kill()
        killed_at = time.monotonic()
        wait_until(lambda: reap(site))
        assert time.monotonic() - killed_at < TIMES.lease_seconds + 1
    site.run_one(site.slot())
    first, second = site.attempts(job_id)
    assert (first.outcome, second.outcome) == ("lease_lost", "succeeded")
    assert second.first_step >= 4
    assert site.weights(job_id) == site.weights(plain)


def test_what_a_killed_worker_left_on_disk_is_removed_by_the_next(site: Site) -> None:
    job_id = site.post(steps=600, step_seconds=0.1)
    with site.start_supervisor() as supervisor:
        wait_until(lambda: site.job(job_id).progress_step > 0)
        (left,) = (site.folder / "work").glob("worker-*/ftjob-*")
        supervisor.kill()
        supervisor.wait()
    assert left.exists()
    site.slot()
    assert not left.parent.exists()


def test_a_live_worker_is_not_robbed_while_its_machine_is_busy(site: Site) -> None:
    """Everything but the lease keeper's few milliseconds is taken by others, for several leases."""
    job_id = site.post(steps=50, step_seconds=0.1)
    burn = ["-c", "while True: pass"]
    with site.start(*burn), site.start(*burn), site.start_supervisor() as supervisor:
        wait_until(lambda: site.job(job_id).status == "running")
        while supervisor.poll() is None:
            assert not reap(site)
            time.sleep(0.1)
    assert [attempt.outcome for attempt in site.attempts(job_id)] == ["succeeded"]


def test_a_killed_trainer_is_a_failed_attempt(site: Site) -> None:
    job_id = site.post(steps=600, step_seconds=0.1)
    with site.start_supervisor() as supervisor:
        wait_until(lambda: site.job(job_id).progress_step > 0)
        site.trainers()[0].send_signal(signal.SIGKILL)
        assert supervisor.wait(timeout=10) == 0
    job = site.job(job_id)
    assert (job.status, job.failed_attempts) == ("queued", 1)
    assert "SIGKILL" in str(site.attempts(job_id)[0].error_message)


@pytest.mark.parametrize(
    "moment",
    [
        "after the claim",
        "with a stored checkpoint that no row names",
        "with stored results that no row names",
        "in the publishing transaction",
        "after the publishing commit",
    ],
)
def test_death_at_any_moment_leaves_one_version(site: Site, moment: str) -> None:
    every = 2 if "checkpoint" in moment else 1000
    job_id = site.post(steps=4, checkpoint_every=every)
    with site.start_supervisor(TEST_DIE=moment) as supervisor:
        assert supervisor.wait(timeout=30) == -signal.SIGKILL
    with site.sessions.begin() as session:
        session.execute(update(Job).where(Job.status == "running").values(lease_expires_at=Job.created_at))
    reap(site)
    site.run_one(site.slot())
    assert site.job(job_id).status == "succeeded"
    assert len(site.versions(job_id)) == 1
    assert len(site.attempts(job_id)) == (1 if moment == "after the publishing commit" else 2)


def test_a_trainer_whose_supervisor_is_cut_off_from_the_database_ends_itself(site: Site) -> None:
    """The supervisor's connections freeze, as when the network drops every packet; it hangs, and says nothing more."""
    job_id = site.post(steps=600, step_seconds=0.1, trust_seconds=TIMES.trust_seconds)
    with site.sessions() as session:
        ours = set(session.scalars(BACKENDS))
    with site.start_supervisor() as supervisor:
        wait_until(lambda: site.job(job_id).progress_step > 0)
        with site.sessions() as session:
            cut_off = [psutil.Process(pid) for pid in set(session.scalars(BACKENDS)) - ours]
        cut_off.append(cut_off[0].parent())  # the server itself: nor is there any new connection
        try:
            for backend in cut_off:
                backend.suspend()
            wait_until(lambda: not site.trainers(), seconds=TIMES.trust_seconds + 2)
        finally:
            for backend in cut_off:
                backend.resume()
        assert supervisor.wait(timeout=10) == 0
    # If the answer to a renewal got through at the end, the lease still held, and the attempt has merely failed.
    assert site.said("lease_lost") or site.attempts(job_id)[0].outcome == "retry"
    assert not site.said("published")
