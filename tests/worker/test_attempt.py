"""One attempt in this process, with a real trainer process: how each kind of end is written down."""

import fcntl
import json
import shutil
import signal
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from app.db import models
from app.db.clock import NOW
from app.domain.errors import Unavailable
from app.domain.trainer_protocol import Order, Stay
from app.services import records, runs
from app.storage.store import Store, StoredBlob
from tests import factories
from tests.worker.conftest import TIMES, Site, wait_until
from worker import attempt as attempt_module
from worker.attempt import Slot, run_attempt
from worker.home import OwnedHome, WorkerHome
from worker.launcher import Trainer
from worker.seat import Seat
from worker.workspace import prepare

STAY = Stay(max_jobs=1, idle_seconds=1, memory_growth=2, trust_seconds=45)


def test_a_finished_attempt_leaves_a_version_its_files_and_its_metrics(site: Site) -> None:
    job_id = site.post(steps=4)
    assert site.run_one(site.slot())

    job = site.job(job_id)
    assert (job.status, job.phase, job.progress_step, job.trained_tokens) == ("succeeded", "done", 4, 40)
    assert [(attempt.outcome, attempt.last_step) for attempt in site.attempts(job_id)] == [("succeeded", 4)]
    assert [entry["kind"] for entry in job.result_file_ids] == ["metrics", "report", "adapter"]
    with site.sessions() as session:
        file = session.get_one(models.File, job.result_file_ids[0]["file_id"])
        blob = session.get_one(models.Blob, file.sha256)
        table = site.store.read_bytes(blob).decode().splitlines()
        assert table[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
        assert table[2] == "2,0.5,,,"
        states = select(func.count()).where(models.Checkpoint.state_sha256.is_not(None))
        assert session.scalar(states) == 0
        assert session.scalar(select(func.count()).select_from(models.Evaluation)) == 1


def test_the_attempts_folder_is_gone_afterwards(site: Site) -> None:
    site.post()
    slot = site.slot()
    site.run_one(slot)
    assert [path.name for path in slot.home.folder.iterdir()] == ["lock"]


def test_replaced_states_leave_the_store_at_once(site: Site) -> None:
    site.post(steps=5)
    site.run_one(site.slot())
    with site.sessions() as session:
        kept = set(session.scalars(select(models.Blob.sha256)))
    stored = {path.name for path in (site.folder / "store" / "blobs").rglob("*") if path.is_file()}
    assert stored <= kept
    states = [sha for sha in stored if b'"step"' in (site.folder / "store" / "blobs" / sha[:2] / sha).read_bytes()]
    assert len(states) == 1  # the last one, which garbage collection takes


def test_a_crash_is_retried_from_the_checkpoint_and_ends_like_an_uninterrupted_run(
    site: Site, no_waiting: None
) -> None:
    plain, crashed = site.post(steps=6), site.post(steps=6, crash_at=4, crash_attempts=1)
    slot = site.slot()
    while site.run_one(slot):
        pass
    first, second = site.attempts(crashed)
    assert (first.outcome, first.error_code, first.last_step) == ("retry", "worker_lost", 4)
    assert (second.outcome, second.first_step) == ("succeeded", 3)
    assert site.weights(crashed) == site.weights(plain)


def test_poison_fails_after_three_attempts(site: Site, no_waiting: None) -> None:
    job_id = site.post(crash_at=2, crash_signal=signal.SIGSEGV)
    slot = site.slot()
    while site.run_one(slot):
        pass
    job = site.job(job_id)
    assert (job.status, job.error_code, job.failed_attempts) == ("failed", "worker_lost", 3)
    assert "SIGSEGV" in str(job.error_message)
    assert [attempt.outcome for attempt in site.attempts(job_id)] == ["retry", "retry", "failed"]


def test_a_failure_that_cannot_be_cured_is_not_retried(site: Site) -> None:
    job_id = site.post(fail="diverged")
    site.run_one(site.slot())
    job = site.job(job_id)
    assert (job.status, job.error_code, job.error_message) == ("failed", "diverged", "As scripted.")


def test_what_the_kernel_killed_for_memory_is_called_out_of_memory(
    site: Site, monkeypatch: pytest.MonkeyPatch, no_waiting: None
) -> None:
    counts = iter([5, 6, 6, 6])
    monkeypatch.setattr("worker.launcher._count_oom_kills", lambda: next(counts))
    job_id = site.post(crash_at=1, crash_signal=signal.SIGKILL)
    site.run_one(site.slot())
    site.run_one(site.slot())
    assert [attempt.error_code for attempt in site.attempts(job_id)] == ["out_of_memory", "worker_lost"]


def test_nonsense_on_the_pipe_is_an_internal_error_and_raised(site: Site) -> None:
    job_id = site.post(say='{"kind": "coup"}')
    with pytest.raises(ValueError, match="coup"):
        site.run_one(site.slot())
    job = site.job(job_id)
    assert (job.status, job.error_code) == ("failed", "internal_error")
    assert "coup" not in str(job.error_message)


def test_a_damaged_file_is_never_trained_on(site: Site) -> None:
    job_id = site.post()
    with site.sessions() as session:
        sha256 = session.get_one(models.File, site.job(job_id).training_file_id).sha256
    path = site.folder / "store" / "blobs" / sha256[:2] / sha256
    path.write_bytes(path.read_bytes()[::-1])
    site.run_one(site.slot())
    job = site.job(job_id)
    assert (job.status, job.error_code, job.progress_step) == ("failed", "internal_error", 0)


@pytest.mark.parametrize("kind", ["missing", "unanswering", "full"])
def test_a_store_or_disk_that_is_away_is_tried_again(site: Site, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault caught: a disk that was not mounted ends every job in the queue for good."""
    job_id = site.post()
    if kind == "missing":
        shutil.rmtree(site.folder / "store" / "blobs")
    elif kind == "unanswering":
        blobs = site.folder / "store" / "blobs"
        shutil.rmtree(blobs)
        blobs.symlink_to(blobs)  # a loop: an error that is not "there is none"
    else:
        monkeypatch.setattr(WorkerHome, "attempt", lambda *_: Path("/dev/full/attempt"))
    site.run_one(site.slot())
    job = site.job(job_id)
    assert (job.status, job.phase, site.attempts(job_id)[0].error_code) == ("queued", "retry_wait", "worker_lost")


def test_a_checkpoint_that_is_gone_costs_time_and_not_the_job(site: Site, no_waiting: None) -> None:
    """As after a restore: a newer checkpoint had replaced it between the copy of the database and that of the store."""
    site.post(steps=6, crash_at=4, crash_attempts=1)
    site.run_one(site.slot())
    with site.sessions.begin() as session:
        kept = session.scalars(select(models.Checkpoint).where(models.Checkpoint.state_sha256.is_not(None))).one()
        sha256 = str(kept.state_sha256)
    (site.folder / "store" / "blobs" / sha256[:2] / sha256).unlink()
    claim = site.claim(site.slot())
    assert claim is not None
    folder = site.folder / "again"
    folder.mkdir()
    order = prepare(
        site.resources(), claim, folder,
        answers=folder, tasks_folder=None, checkpoint_seconds=60.0, device="cpu", num_threads=1,
    )  # fmt: skip
    assert isinstance(order, Order)
    assert order.resume_step is None
    assert Order.model_validate_json((folder / "order.json").read_bytes()) == order
    # The history does not go on saying that it went on from there.
    job = site.job(claim.job_id)
    assert (job.progress_step, site.attempts(job.id)[-1].first_step) == (0, 0)
    with site.sessions() as session:
        last = select(models.JobEvent.message).order_by(models.JobEvent.seq.desc()).limit(1)
        assert session.scalar(last) == "The last checkpoint is not in the store; this attempt begins anew."


def test_a_worker_that_starts_is_not_taken_for_one_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault caught: another one that starts at the same moment finds its lock free, and removes its folder."""
    flock, others = fcntl.flock, []

    def meanwhile(handle: Any, how: int) -> None:
        if not others:
            others.append(1)
            others.append(OwnedHome(tmp_path, "worker-2"))
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", meanwhile)
    home = OwnedHome(tmp_path, "worker-1")
    home.drain()
    assert home.draining
    again = OwnedHome(tmp_path, "worker-3")
    assert home.folder.exists()
    for one in (again, others[1], home):
        one.close()


def test_a_checkpoint_that_cannot_be_stored_costs_time_and_not_the_job(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_file = Store.put_file

    def full(store: Store, path: Path) -> StoredBlob:
        if path.name == "state.safetensors":
            raise Unavailable("storage_unavailable", "Full.")
        return put_file(store, path)

    monkeypatch.setattr(Store, "put_file", full)
    job_id = site.post()
    site.run_one(site.slot())
    assert site.job(job_id).status == "succeeded"
    with site.sessions() as session:
        warnings = select(models.JobEvent.message).where(models.JobEvent.level == "warn")
        assert set(session.scalars(warnings)) == {"A checkpoint could not be stored; the job goes on without it."}


def test_results_that_cannot_be_stored_are_made_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(store: Store, path: Path) -> StoredBlob:
        raise Unavailable("storage_unavailable", "Full.")

    job_id = site.post(checkpoint_every=1000)
    monkeypatch.setattr(Store, "put_file", full)
    site.run_one(site.slot())
    assert (site.job(job_id).status, site.job(job_id).phase, site.versions(job_id)) == ("queued", "retry_wait", [])


def test_a_missing_base_model_is_retried_elsewhere(site: Site) -> None:
    job_id = site.post()
    (site.folder / "models" / "tiny").rmdir()
    site.run_one(site.slot())
    job = site.job(job_id)
    assert (job.status, job.phase, job.failed_attempts) == ("queued", "retry_wait", 1)
    assert site.attempts(job_id)[0].error_code == "base_model_unavailable"


@pytest.mark.parametrize("script", [{"step_seconds": 0.1}, {"step_seconds": 0.1, "ignore_term": True}, {"hang_at": 2}])
def test_cancel_stops_a_running_trainer_and_publishes_nothing(site: Site, script: dict[str, object]) -> None:
    job_id = site.post(steps=1000, **script)
    runner = threading.Thread(target=site.run_one, args=[site.slot()])
    runner.start()
    wait_until(lambda: site.job(job_id).progress_step > 0)
    site.cancel(job_id)
    assert site.job(job_id).phase == "cancelling"
    runner.join(timeout=TIMES.heartbeat_seconds + TIMES.kill_grace_seconds + 5)
    assert not runner.is_alive()
    assert site.job(job_id).status == "cancelled"
    assert not site.versions(job_id)
    assert not site.trainers()


def test_cancel_during_the_evaluation_is_heeded(site: Site) -> None:
    job_id = site.post(evaluate_seconds=30)
    runner = threading.Thread(target=site.run_one, args=[site.slot()])
    runner.start()
    wait_until(lambda: site.job(job_id).phase == "evaluating")
    site.cancel(job_id)
    runner.join(timeout=10)
    assert (site.job(job_id).status, site.versions(job_id)) == ("cancelled", [])


ASIDE = pytest.mark.parametrize(
    ("phase", "asked"),
    [
        ("comparing", {"compare": {"method": "supervised", "learning_rate": 5e-4}}),
        ("replicating", {"evaluation": {"seeds": 2}}),
    ],
)
"""What is trained beside a version."""


@ASIDE
def test_cancel_while_another_than_the_version_is_trained_is_heeded(
    site: Site, phase: str, asked: dict[str, Any]
) -> None:
    job_id = site.post(job=asked, aside_seconds=60)
    runner = threading.Thread(target=site.run_one, args=[site.slot()])
    runner.start()
    wait_until(lambda: (site.job(job_id).phase_done or 0) > 1)
    assert (site.job(job_id).phase, site.job(job_id).phase_total) == (phase, 100)
    site.cancel(job_id)
    runner.join(timeout=TIMES.heartbeat_seconds + TIMES.kill_grace_seconds + 5)
    assert (site.job(job_id).status, site.versions(job_id)) == ("cancelled", [])
    assert not site.trainers()


@ASIDE
def test_a_worker_that_leaves_while_another_than_the_version_is_trained_loses_no_step_of_the_job(
    site: Site, phase: str, asked: dict[str, Any]
) -> None:
    plain, compared = site.post(), site.post(job=asked, aside_seconds=3)
    slot = site.slot()
    site.run_one(slot)
    runner = threading.Thread(target=site.run_one, args=[slot])
    runner.start()
    wait_until(lambda: site.job(compared).phase == phase)
    slot.home.drain()
    runner.join(timeout=10)
    job, (attempt,) = site.job(compared), site.attempts(compared)
    assert (job.status, job.failed_attempts, attempt.outcome) == ("queued", 0, "preempted")
    site.run_one(site.slot())
    assert [(one.outcome, one.first_step) for one in site.attempts(compared)][-1] == ("succeeded", 3)
    assert site.weights(compared) == site.weights(plain)


def test_a_stuck_trainer_is_killed_and_the_job_tried_again(site: Site, no_waiting: None) -> None:
    job_id = site.post(hang_at=2, ignore_term=True)
    site.run_one(site.slot(TIMES.model_copy(update={"stall_seconds": 1.0})))
    job, (attempt,) = site.job(job_id), site.attempts(job_id)
    assert (job.status, job.phase) == ("queued", "retry_wait")
    assert (attempt.outcome, attempt.error_code) == ("retry", "worker_lost")


def test_a_trainer_that_works_through_batches_is_not_taken_for_a_stuck_one(site: Site) -> None:
    """Rehearsal answered before the first step, or a long file read by one arm, tells nothing else for minutes."""
    job_id = site.post(batch_seconds=0.3)
    site.run_one(site.slot(TIMES.model_copy(update={"stall_seconds": 1.0})))
    assert site.job(job_id).status == "succeeded"


@pytest.mark.parametrize(("asked", "limit"), [(1, 3600), (None, 1)])
def test_the_wall_limit_ends_a_job(site: Site, asked: int | None, limit: int) -> None:
    job_id = site.post(steps=1000, step_seconds=0.05, job={"max_seconds": asked})
    site.run_one(site.slot(max_seconds=limit))
    job = site.job(job_id)
    assert (job.status, job.error_code) == ("failed", "time_limit")


def test_a_draining_worker_gives_the_job_back_with_a_fresh_checkpoint(site: Site) -> None:
    job_id = site.post(steps=1000, step_seconds=0.05, checkpoint_every=1000)
    slot = site.slot()
    runner = threading.Thread(target=site.run_one, args=[slot])
    runner.start()
    wait_until(lambda: site.job(job_id).progress_step > 3)
    slot.home.drain()
    runner.join(timeout=10)
    job = site.job(job_id)
    assert (job.status, job.phase, job.preemptions, job.failed_attempts) == ("queued", "waiting", 1, 0)
    with site.sessions() as session:
        checkpoint = runs.latest_checkpoint(session, job_id)
    assert checkpoint is not None
    assert checkpoint.step == job.progress_step


def test_the_trainer_gets_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SDFT_DATABASE__URL", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "HF_TOKEN"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("HF_HOME", "/data/of/tasks")
    show = ("/bin/sh", "-c", "env; true")
    with closing(Trainer(show, tmp_path, device="cuda:1", stay=STAY)) as trainer:
        wait_until(lambda: trainer.ended)
        seen = trainer.log_tail()
    assert "canary" not in seen
    assert "CUDA_VISIBLE_DEVICES=1" in seen
    assert "HF_HUB_OFFLINE=1" in seen
    assert "HF_HOME=/data/of/tasks" in seen


def test_what_a_trainer_had_started_goes_with_it(tmp_path: Path) -> None:
    with closing(Trainer(("/bin/sh", "-c", "sleep 600 & echo $!"), tmp_path, device="cpu", stay=STAY)) as trainer:
        wait_until(lambda: trainer.ended)
        pid = int(trainer.log_tail())
        wait_until(lambda: not _alive(pid), seconds=2)


def test_the_database_may_be_away_for_moments(site: Site) -> None:
    job_id = site.post(steps=60, step_seconds=0.05)
    runner = threading.Thread(target=site.run_one, args=[site.slot()])
    runner.start()
    wait_until(lambda: site.job(job_id).progress_step > 0)
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
    with site.sessions() as session:
        for _ in range(5):
            assert runner.is_alive()
            session.connection().exec_driver_sql(cut)
            runner.join(timeout=0.4)
    runner.join(timeout=20)
    assert site.job(job_id).status == "succeeded"
    assert len(site.attempts(job_id)) == 1


def test_a_statement_that_fails_on_and_on_ends_the_attempt_though_its_lease_is_renewed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault caught: a job that runs for ever, deaf to its client and its time limit."""

    def refuse(*_: object) -> None:
        raise OperationalError("INSERT", {}, Exception("canceling statement due to statement timeout"))

    monkeypatch.setattr(attempt_module, "INSIST_SECONDS", 0.2)
    monkeypatch.setattr(records, "record_steps", refuse)
    job_id = site.post()
    site.run_one(site.slot())
    job, (attempt,) = site.job(job_id), site.attempts(job_id)
    assert (job.phase, attempt.outcome, attempt.error_code) == ("retry_wait", "retry", "worker_lost")


def test_order_names_parent_and_earlier_skills(site: Site) -> None:
    """The attempt's folder holds what the job starts from and what it must not forget, along the whole chain."""
    with site.sessions.begin() as session:
        project = factories.make_project(session)
        jobs = [
            factories.make_job(
                session,
                "succeeded",
                project=project,
                training_file=factories.make_file(session, project, content=content, store=site.store),
            )
            for content in (b"trained one", b"trained two")
        ]
        score = {"arm": "candidate", "score": {"value": 0.5, "low": 0.25, "high": 0.75}}
        skill = {"name": "x", "role": "skill", "measure": "share_right", "n": 8, "arms": [score]}
        first = factories.make_version(
            session, project=project, job=jobs[0], store=site.store, heldout=b"one\n", report={"suites": [skill]}
        )
        line = session.get_one(models.Adapter, first.adapter_id)
        second = factories.make_version(
            session,
            project=project,
            adapter=line,
            job=jobs[1],
            version=2,
            parent_version_id=first.id,
            store=site.store,
            files={"adapter_config.json": b"{2}"},
            heldout=b"two\n",
        )
        file = factories.make_file(session, project, content=b"{}", store=site.store)
        suites = [
            factories.make_file(session, project, content=content, store=site.store, filename="mine.jsonl")
            for content in (b"question 1", b"question 2")
        ]
        asked = {
            "scorer": "numeric",
            "tolerance": 0.5,
            "suites": [*(suite.id for suite in suites), "lm_eval:arc_easy"],
            "seeds": 3,
        }
        rule = {"min_gain": 0.1, "max_forgetting": 0.2, "confidence": 0.9, "on_pass": "production"}
        factories.make_job(
            session, project=project, training_file=file, parent_version_id=second.id, evaluation=asked, gate=rule
        )
        jobs[0].resolved = {
            "method": "sdft", "seed": 1, "num_epochs": 2, "batch_size": 8, "total_steps": 10, "learning_rate": 1e-3,
            "warmup_steps": 2, "lora_rank": 4, "lora_alpha": 8, "max_completion_tokens": 16, "rehearsal_share": 0.33,
        }  # fmt: skip
        session.get_one(models.Job, second.job_id).evaluation = {"scorer": "numeric", "tolerance": 0.25, "suites": []}
        second_suite_id = suites[1].id
    slot = site.slot()
    slot = replace(slot, times=slot.times.model_copy(update={"lm_eval_tasks": site.folder / "tasks"}))
    claim = site.claim(slot)
    assert claim is not None
    seen = site.folder / "seen"
    run_attempt(looking(slot, seen), claim, claimed_at=time.monotonic())
    order = json.loads((seen / "order.json").read_text())
    assert (order["tasks"], order["tasks_folder"]) == (["arc_easy"], str(site.folder / "tasks"))
    assert (order["parent"]["adapter"], order["parent"]["version"]) == (line.name, 2)
    assert order["answers"] == str(site.folder / "work" / "answers")  # outlives the worker's own folder
    assert (seen / "parent" / "adapter_config.json").read_bytes() == b"{2}"
    assert [(skill["version"], (seen / skill["path"]).read_text()) for skill in order["earlier"]] == [
        (2, "two\n"),
        (1, "one\n"),
    ]
    named = {"version": f"{line.name}:1", "skill": f"{line.name}:1"}
    assert order["past"] == [named | {"value": 0.5, "low": 0.25, "high": 0.75}]
    assert [(seen / path).read_text() for path in order["rehearsal"]] == ["trained two", "trained one"]
    assert (order["deleted"], order["rehearsed"]) == ([], True)
    assert [skill["tolerance"] for skill in order["earlier"]] == [0.25, None]
    assert (order["scorer"], order["tolerance"], order["seeds"]) == ("numeric", 0.5, 3)
    assert order["gate"] == rule  # for the page; the verdict that counts is the one at publication
    assert [(suite["name"], (seen / suite["path"]).read_text()) for suite in order["suites"]] == [
        ("file mine.jsonl", "question 1"),
        (f"file mine.jsonl ({second_suite_id})", "question 2"),
    ]


def test_the_clients_own_prompts_travel_with_the_order(site: Site) -> None:
    with site.sessions.begin() as session:
        project = factories.make_project(session)
        own = factories.make_file(session, project, content=b"my prompts", store=site.store)
        file = factories.make_file(session, project, content=b"{}", store=site.store)
        asked = {"rehearsal": {"share": 0.5, "prompts": "file", "file": own.id}}
        factories.make_job(session, project=project, training_file=file, hyperparameters=asked)
    slot = site.slot()
    claim = site.claim(slot)
    assert claim is not None
    seen = site.folder / "seen"
    run_attempt(looking(slot, seen), claim, claimed_at=time.monotonic())
    order = json.loads((seen / "order.json").read_text())
    assert (seen / order["rehearsal_file"]).read_text() == "my prompts"


def test_a_training_file_that_its_owner_deleted_is_not_rehearsed(site: Site) -> None:
    with site.sessions.begin() as session:
        project = factories.make_project(session)
        first = factories.make_version(session, project=project, store=site.store)
        trained_on = session.get_one(models.File, session.get_one(models.Job, first.job_id).training_file_id)
        trained_on.deleted_at = NOW
        line = session.get_one(models.Adapter, first.adapter_id)
        file = factories.make_file(session, project, content=b"{}", store=site.store)
        factories.make_job(session, project=project, training_file=file, parent_version_id=first.id)
    slot = site.slot()
    claim = site.claim(slot)
    assert claim is not None
    seen = site.folder / "seen"
    run_attempt(looking(slot, seen), claim, claimed_at=time.monotonic())
    order = json.loads((seen / "order.json").read_text())
    assert (order["rehearsal"], order["deleted"]) == ([], [f"{line.name}:1"])


def looking(slot: Slot, seen: Path) -> Slot:
    """A slot whose trainer copies the attempt's folder and leaves."""
    look = ("/bin/sh", "-c", f'read -r folder; cp -r "$folder" {seen}')
    return replace(slot, seat=Seat(look, slot.home.folder, TIMES))


def _alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
