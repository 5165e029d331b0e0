"""A worker's surroundings for tests: database, broker, store, and times scaled down about 25 times."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.db import models
from app.dispatch import Broker
from app.resources import Resources
from app.services import runs
from app.settings import WorkerSettings
from app.storage.store import Store
from tests import factories
from worker.attempt import Slot, run_attempt
from worker.home import OwnedHome
from worker.seat import Seat

FAKE_TRAINER = str(Path(__file__).with_name("fake_trainer.py"))
REPOSITORY = Path(__file__).parents[2]
TIMES = WorkerSettings(
    heartbeat_seconds=0.2,
    lease_seconds=2.5,
    trust_seconds=2.0,
    sweep_seconds=0.4,
    ring_again_seconds=0.8,
    kill_grace_seconds=1.0,
)


def fake_trainer(work: Path) -> tuple[str, ...]:
    """Command of a trainer that can be told from those of other sites."""
    return (sys.executable, FAKE_TRAINER, str(work))


@dataclass
class Site:
    sessions: sessionmaker[Session]
    database_url: str
    broker_url: str
    folder: Path
    key_prefix: str = ""
    store: Store = field(init=False)
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __post_init__(self) -> None:
        self.store = Store(self.folder / "store")
        (self.folder / "models" / "tiny").mkdir(parents=True)

    @property
    def environment(self) -> dict[str, str]:
        times = {f"SDFT_WORKER__{name.upper()}": str(value) for name, value in TIMES if isinstance(value, float)}
        return {
            **os.environ,
            **times,
            "PYTHONPATH": str(REPOSITORY),
            "SDFT_DATABASE__URL": self.database_url,
            "SDFT_BROKER__URL": self.broker_url,
            "SDFT_BROKER__KEY_PREFIX": self.key_prefix,
            "SDFT_STORAGE__ROOT": str(self.folder / "store"),
            "SDFT_STORAGE__MODELS": str(self.folder / "models"),
            "SDFT_STORAGE__WORK": str(self.folder / "work"),
            "SDFT_LOG_FORMAT": "json",
        }

    def post(self, *, job: dict[str, Any] | None = None, **script: Any) -> str:
        """Queue a job whose trainer will do as ``script`` says."""
        with self.sessions.begin() as session:
            file = factories.make_file(session, content=json.dumps(script).encode(), store=self.store)
            project = session.get_one(models.Project, file.project_id)
            return factories.make_job(session, project=project, training_file=file, **job or {}).id

    def job(self, job_id: str) -> models.Job:
        with self.sessions() as session:
            return session.get_one(models.Job, job_id)

    def attempts(self, job_id: str) -> list[models.JobAttempt]:
        with self.sessions() as session:
            rows = select(models.JobAttempt).where(models.JobAttempt.job_id == job_id)
            return list(session.scalars(rows.order_by(models.JobAttempt.fence)))

    def versions(self, job_id: str) -> list[models.AdapterVersion]:
        with self.sessions() as session:
            return list(session.scalars(select(models.AdapterVersion).where(models.AdapterVersion.job_id == job_id)))

    def weights(self, job_id: str) -> str:
        """Digest of the published weights."""
        (version,) = self.versions(job_id)
        with self.sessions() as session:
            file = session.get_one(models.AdapterFile, (version.id, "adapter_model.safetensors"))
            return file.sha256

    def cancel(self, job_id: str) -> None:
        with self.sessions.begin() as session:
            runs.request_cancel(session, session.get_one(models.Job, job_id))

    def broker(self) -> Broker:
        broker = Broker(self.broker_url, key_prefix=self.key_prefix)
        self.closing.callback(broker.close)
        return broker

    def resources(self) -> Resources:
        return Resources(self.sessions, self.store, self.broker(), self.folder / "models")

    def slot(self, times: WorkerSettings = TIMES, max_seconds: int = 3600) -> Slot:
        """A worker of this process."""
        with self.sessions.begin() as session:
            worker = factories.make_worker(session)
        home = OwnedHome(self.folder / "work", worker.id)
        self.closing.callback(home.close)
        seat = Seat(fake_trainer(self.folder / "work"), home.folder, times)
        self.closing.callback(seat.close)
        return Slot(self.resources(), home, times, max_seconds=max_seconds, num_threads=1, seat=seat)

    def claim(self, slot: Slot) -> runs.Claim | None:
        with self.sessions.begin() as session:
            return runs.claim_next(session, slot.home.worker_id, slot.times.lease_seconds)

    def run_one(self, slot: Slot) -> bool:
        """Claim what is due and see the attempt through, here."""
        claimed_at = time.monotonic()
        if claim := self.claim(slot):
            run_attempt(slot, claim, claimed_at=claimed_at)
        return claim is not None

    @contextlib.contextmanager
    def start(self, *arguments: str, **environment: str) -> Iterator[psutil.Popen]:
        """A Python process on this site, killed with all its children at the end; its output is in ``<pid>.log``."""
        output = self.folder / f"{len(list(self.folder.glob('*.log')))}.log"
        with output.open("wb") as log:
            process = psutil.Popen(
                [sys.executable, *arguments],
                env=self.environment | environment,
                cwd=REPOSITORY,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process
        finally:
            family = [process, *process.children(recursive=True)] if process.is_running() else []
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.send_signal(signal.SIGKILL)
            process.wait()

    def start_worker(self, **environment: str) -> contextlib.AbstractContextManager[psutil.Popen]:
        """A real Celery worker with the fake trainer."""
        app = "tests.worker.celery_with_fake_trainer"
        options = ["--concurrency=1", "--without-mingle", "--without-gossip"]
        return self.start("-m", "celery", "-A", app, "worker", *options, **environment)

    def start_supervisor(self, **environment: str) -> contextlib.AbstractContextManager[psutil.Popen]:
        """A process that claims one job and supervises one attempt, without Celery."""
        return self.start("-m", "tests.worker.supervise_one", **environment)

    def said(self, event: str) -> list[dict[str, Any]]:
        """Lines about an event that all processes of this site have logged."""
        lines = [line for log in sorted(self.folder.glob("*.log")) for line in log.read_text().splitlines()]
        return [entry for line in lines if line.startswith("{") and (entry := json.loads(line))["event"] == event]

    def trainers(self) -> list[psutil.Process]:
        """Trainer processes of this site that are alive."""
        return [
            process
            for process in psutil.process_iter(["cmdline", "status"])
            if process.info["status"] != psutil.STATUS_ZOMBIE
            and fake_trainer(self.folder / "work")[1:] == tuple((process.info["cmdline"] or [])[1:3])
        ]


def wait_until(condition: Callable[[], object], *, seconds: float = 30, every: float = 0.05) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(every)


@pytest.fixture
def site(
    committed_sessions: sessionmaker[Session], database_url: str, valkey_url: str, tmp_path: Path
) -> Iterator[Site]:
    place = Site(committed_sessions, database_url, valkey_url, tmp_path, key_prefix=f"{tmp_path.name}:")
    with place.closing:
        yield place
    wait_until(lambda: not place.trainers(), seconds=5)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry in this process is due at once."""
    monkeypatch.setattr(runs, "RETRY_SECONDS", 0)
