"""A real Celery worker on a real broker, with every kind of message and every kind of death."""

import os
import random
import signal
from pathlib import Path

import psutil
import redis
from sqlalchemy import select

from app.db.models import Worker
from app.dispatch import TRAIN_QUEUE
from app.embedded import start_valkey
from tests.worker.conftest import Site, wait_until


def ring(site: Site, *job_ids: str) -> None:
    broker = site.broker()
    for job_id in job_ids:
        broker.ring(job_id)


def all_are(site: Site, status: str, *job_ids: str) -> bool:
    return {site.job(job_id).status for job_id in job_ids} == {status}


def forge(site: Site) -> None:
    """Messages that nobody should have sent."""
    celery = site.broker()._celery
    for arguments in ([], ["ftjob-unknown"], [None], [{"$ne": 1}], ["a", "b"], ["\x00" * 10]):
        celery.send_task("sdft.train", args=arguments, queue=TRAIN_QUEUE)
    celery.send_task("os.system", args=["true"], queue=TRAIN_QUEUE)
    raw = redis.Redis(unix_socket_path=site.broker_url.removeprefix("redis+socket://"))
    raw.lpush(f"{site.key_prefix}{TRAIN_QUEUE}", b"\x80\x04 not json")
    raw.close()


def test_doubled_and_lost_and_forged_messages_run_each_job_once(site: Site) -> None:
    rung, lost = [site.post() for _ in range(2)], site.post()
    with site.start_worker() as worker:
        messages = rung * 2
        random.Random(1).shuffle(messages)
        ring(site, *messages)
        forge(site)
        wait_until(lambda: all_are(site, "succeeded", *rung, lost), seconds=90)
        assert worker.poll() is None
    assert [len(site.attempts(job_id)) for job_id in (*rung, lost)] == [1, 1, 1]


def test_sigterm_gives_the_job_back_and_another_worker_ends_it_the_same(site: Site) -> None:
    plain, job_id = site.post(steps=40), site.post(steps=40, step_seconds=0.1, checkpoint_every=1000)
    site.run_one(site.slot())
    with site.start_worker() as worker:
        ring(site, job_id)
        wait_until(lambda: site.job(job_id).progress_step >= 3, seconds=60)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=15) == 0
    job = site.job(job_id)
    assert (job.status, job.preemptions, job.failed_attempts) == ("queued", 1, 0)
    stopped_at = job.progress_step
    with site.start_worker():
        wait_until(lambda: all_are(site, "succeeded", job_id), seconds=60)
    assert site.attempts(job_id)[1].first_step == stopped_at >= 3
    assert site.weights(job_id) == site.weights(plain)


def test_kill_9_of_the_worker_takes_all_its_processes_and_the_next_one_goes_on(site: Site) -> None:
    plain, job_id = site.post(steps=40), site.post(steps=40, step_seconds=0.1)
    slot = site.slot()
    site.run_one(slot)
    slot.seat.close()
    with site.start_worker() as worker:
        ring(site, job_id)
        wait_until(lambda: site.job(job_id).progress_step >= 3, seconds=60)
        family = worker.children(recursive=True)
        worker.kill()
        wait_until(lambda: not site.trainers(), seconds=2)
        _gone, alive = psutil.wait_procs(family, timeout=3)
        assert not alive
    with site.start_worker():
        wait_until(lambda: all_are(site, "succeeded", job_id), seconds=60)
    assert [attempt.outcome for attempt in site.attempts(job_id)] == ["lease_lost", "succeeded"]
    assert site.weights(job_id) == site.weights(plain)
    assert len(site.versions(job_id)) == 1


def test_poison_fails_after_three_while_good_jobs_finish(site: Site) -> None:
    poison = site.post(crash_at=2, crash_signal=signal.SIGSEGV)
    good = [site.post() for _ in range(2)]
    with site.start_worker(), site.start_worker():
        ring(site, poison, *good)
        wait_until(lambda: all_are(site, "succeeded", *good) and all_are(site, "failed", poison), seconds=90)
    assert len(site.attempts(poison)) == 3


def test_a_killed_pool_process_does_not_stop_the_worker(site: Site) -> None:
    job_id = site.post(steps=40, step_seconds=0.1)
    with site.start_worker() as worker:
        ring(site, job_id)
        wait_until(lambda: site.job(job_id).progress_step >= 3, seconds=60)
        supervisor = psutil.Process(site.trainers()[0].ppid())
        assert supervisor.ppid() == worker.pid
        supervisor.kill()
        wait_until(lambda: not site.trainers(), seconds=2)
        wait_until(lambda: all_are(site, "succeeded", job_id), seconds=60)
    assert [attempt.outcome for attempt in site.attempts(job_id)] == ["lease_lost", "succeeded"]


def test_the_broker_may_die_and_come_back_without_its_queue(site: Site, server_folder: Path) -> None:
    folder = server_folder / "mortal"
    with start_valkey(folder) as first:
        site.broker_url = first.url
        running, queued = site.post(steps=60, step_seconds=0.1), site.post()
        with site.start_worker() as worker:
            ring(site, running)
            wait_until(lambda: site.job(running).progress_step >= 3, seconds=60)
            ring(site, queued)
            os.kill(first.pid, signal.SIGKILL)
            first.child.wait()
            for log in folder.glob("appendonlydir/*"):
                log.unlink()
            with start_valkey(folder):
                later = site.post()
                wait_until(lambda: all_are(site, "succeeded", running, queued, later), seconds=90)
                assert worker.poll() is None
    assert [len(site.attempts(job_id)) for job_id in (running, queued, later)] == [1, 1, 1]


def test_a_worker_reports_itself(site: Site) -> None:
    def reported() -> list[Worker]:
        with site.sessions() as session:
            return list(session.scalars(select(Worker)))

    with site.start_worker() as worker:
        wait_until(reported, seconds=60)
        (row,) = reported()
        assert (row.pid, row.draining) == (worker.pid, False)
        wait_until(lambda: reported()[0].heartbeat_at > row.heartbeat_at)
