"""One trainer process for many attempts: when it goes on, when it is replaced, and that it goes with its worker."""

import signal
import time
from typing import Any

import psutil
import pytest

from tests import factories
from tests.worker.conftest import TIMES, Site, wait_until
from worker import seat
from worker.attempt import Slot
from worker.launcher import Trainer
from worker.reporting import ORPHANED_EXIT_CODE


def waiting(site: Site) -> int:
    """Process id of the trainer that waits."""
    (trainer,) = site.trainers()
    return trainer.pid


def ran_in(site: Site, slot: Slot, **script: Any) -> int:
    """Process id of the trainer that is left after one more job, which must have succeeded."""
    job_id = site.post(**script)
    assert site.run_one(slot)
    assert site.job(job_id).status == "succeeded"
    return waiting(site)


def test_a_trainer_that_has_finished_takes_the_next_job(site: Site) -> None:
    slot = site.slot()
    alone = site.post(steps=5)
    site.run_one(slot)
    first = waiting(site)
    others = [site.post(steps=3), site.post(steps=5)]
    for _ in others:
        site.run_one(slot)
    assert waiting(site) == first
    assert {site.job(job_id).status for job_id in others} == {"succeeded"}
    assert site.weights(others[1]) == site.weights(alone) != site.weights(others[0])
    assert all(len(site.attempts(job_id)) == 1 for job_id in others)


@pytest.mark.parametrize(("asked", "given"), [({}, "0"), ({"GOMP_SPINCOUNT": "10000"}, "10000")])
def test_its_environment_has_no_credentials_and_the_operators_way_to_wait(
    site: Site, monkeypatch: pytest.MonkeyPatch, asked: dict[str, str], given: str
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    for name, value in (asked | {"SDFT_DATABASE__URL": "secret", "HF_TOKEN": "secret", "HF_HUB_OFFLINE": "0"}).items():
        monkeypatch.setenv(name, value)
    environment = psutil.Process(ran_in(site, site.slot())).environ()
    assert environment["GOMP_SPINCOUNT"] == given
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert "secret" not in environment.values()


def test_what_it_prints_during_a_job_is_kept_with_that_job_only(site: Site) -> None:
    slot = site.slot()
    site.post(prints="a line that is longer than what the next job prints\n" * 9)
    site.run_one(slot)
    failing = site.post(fail="diverged")
    seen: list[str] = []
    close = Trainer.close
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "close", lambda trainer: (seen.append(trainer.log_tail()), close(trainer)))
        site.run_one(slot)
    assert seen == [f"at work on {failing}\n"]


@pytest.mark.parametrize(
    "script",
    [{"fail": "diverged"}, {"crash_at": 2}, {"crash_at": 2, "crash_signal": signal.SIGKILL}],
    ids=["told failure", "crash", "kill -9"],
)
def test_after_any_failure_a_new_one_starts(site: Site, script: dict[str, Any]) -> None:
    slot = site.slot()
    first = ran_in(site, slot)
    failed = site.post(**script)
    site.run_one(slot)
    assert [attempt.outcome for attempt in site.attempts(failed)] in (["failed"], ["retry"])
    assert not site.trainers()
    assert ran_in(site, slot) != first


def test_after_a_job_that_was_told_to_stop_a_new_one_starts(site: Site) -> None:
    slot = site.slot(TIMES.model_copy(update={"kill_grace_seconds": 20.0}))
    ran_in(site, slot)
    # It ignores SIGTERM and comes to its end: the wish to leave must not reach the next job.
    stubborn = site.post(steps=40, step_seconds=0.05, ignore_term=True, job={"max_seconds": 1})
    site.run_one(slot)
    assert site.job(stubborn).status == "succeeded"
    assert not site.trainers()


def test_another_base_needs_another_trainer(site: Site) -> None:
    slot = site.slot()
    first = ran_in(site, slot)
    with site.sessions.begin() as session:
        factories.make_base_model(session, "tiny-2", path="tiny", weights_sha256="2" * 64)
    second = ran_in(site, slot, job={"base_model": "tiny-2"})
    assert second != first
    assert not psutil.pid_exists(first)
    assert ran_in(site, slot, job={"base_model": "tiny-2"}) == second


def test_it_leaves_after_so_many_jobs(site: Site) -> None:
    slot = site.slot(TIMES.model_copy(update={"warm_jobs": 2}))
    ran_in(site, slot)
    site.post()
    site.run_one(slot)
    wait_until(lambda: not site.trainers(), seconds=5)
    ran_in(site, slot)


def test_it_leaves_when_nothing_comes_for_so_long(site: Site) -> None:
    slot = site.slot(TIMES.model_copy(update={"warm_idle_seconds": 0.5}))
    site.post()
    site.run_one(slot)
    wait_until(lambda: not site.trainers(), seconds=5)


@pytest.mark.parametrize(
    "script",
    [
        {"leave": True, "tidy_seconds": 4},
        {"say_after_the_end": '{"kind": "phase", "phase": "training"}\n'},
        {"tidy_seconds": 60},
    ],
    ids=["leaves while it is given a job", "says something unasked", "does not answer"],
)
def test_one_that_is_not_what_it_should_be_is_replaced_without_harm(
    site: Site, script: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seat, "ANSWER_SECONDS", 6.0)
    slot = site.slot()
    first = ran_in(site, slot, **script)
    time.sleep(1.0 if "say_after_the_end" in script else 0.0)
    job_id = site.post()
    site.run_one(slot)
    assert [attempt.outcome for attempt in site.attempts(job_id)] == ["succeeded"]
    assert waiting(site) != first


def test_one_that_still_tidies_up_is_waited_for(site: Site) -> None:
    slot = site.slot()
    assert ran_in(site, slot, tidy_seconds=0.5) == ran_in(site, slot)


def test_one_that_was_killed_while_it_waited_costs_no_attempt(site: Site) -> None:
    slot = site.slot()
    psutil.Process(ran_in(site, slot)).kill()
    job_id = site.post()
    site.run_one(slot)
    assert [attempt.outcome for attempt in site.attempts(job_id)] == ["succeeded"]


def test_while_it_waits_it_needs_no_lease_and_at_work_it_does(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "keep_alive", lambda _: None)
    slot = site.slot()
    first = ran_in(site, slot, trust_seconds=1.0)
    time.sleep(2.5)
    assert waiting(site) == first
    job_id = site.post(steps=600, step_seconds=0.1, trust_seconds=1.0)
    site.run_one(slot)
    assert f"status {ORPHANED_EXIT_CODE}" in str(site.attempts(job_id)[0].error_message)
    assert site.job(job_id).progress_step < 30


def test_a_worker_takes_its_trainer_along(site: Site) -> None:
    for ending in (signal.SIGTERM, signal.SIGKILL):
        jobs = [site.post(), site.post()]
        with site.start_worker() as worker:
            site.broker().ring(jobs[0])
            wait_until(lambda jobs=jobs: site.job(jobs[0]).status == "succeeded", seconds=60)
            first = waiting(site)
            site.broker().ring(jobs[1])
            wait_until(lambda jobs=jobs: site.job(jobs[1]).status == "succeeded", seconds=60)
            assert waiting(site) == first
            worker.send_signal(ending)
            worker.wait(timeout=45)  # a ring at this very moment can leave a result that Celery awaits for 30 s
            wait_until(lambda: not site.trainers(), seconds=2)
