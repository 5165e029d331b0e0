"""Live processes as in production: Postgres and Valkey by URL, an API and workers of their own, one tiny model.

Times of leases and checkpoints are scaled down, so that a lost worker is noticed within seconds.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from openai.types.fine_tuning import FineTuningJob
from sqlalchemy import select

from app.db.migrate import upgrade
from app.db.models import AdapterVersion, JobAttempt
from app.db.session import make_sessions
from app.embedded import Server, start_postgres, start_valkey
from app.embedded.processes import OwnedProcess, start
from app.services.access import create_key
from app.services.base_models import register
from app.storage.store import Store
from tests.tiny_models import save_tiny

MODEL = "tiny"
TIMES = {
    "HEARTBEAT_SECONDS": 1,
    "LEASE_SECONDS": 10,
    "TRUST_SECONDS": 8,
    "SWEEP_SECONDS": 1,
    "RING_AGAIN_SECONDS": 2,
    "CHECKPOINT_SECONDS": 1,
    "KILL_GRACE_SECONDS": 10,
    "THREADS": 1,
}
TERMINAL = {"succeeded", "failed", "cancelled"}


def wait_until(condition: Callable[[], object], *, seconds: float = 240, every: float = 0.2) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(every)


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; what waits for an init to reap it does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A model store with the tiny model in it, and what the import found out about it."""
    folder, store = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("models")
    save_tiny("llama", folder)
    command = [sys.executable, "-m", "worker.hf.import_model", f"--name={MODEL}", f"--folder={folder}"]
    facts = subprocess.check_output([*command, f"--models-dir={store}"])
    return store, json.loads(facts)


@dataclass
class Deployment:
    """One service in a folder of its own."""

    folder: Path
    models: Path
    postgres: Server
    valkey: Server
    processes: list[OwnedProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sessions = make_sessions(self.postgres.url, pool_size=2)
        self.store = Store(self.folder / "store")
        self.port = _free_port()
        self.scratch = self.folder / "tmp"
        self.scratch.mkdir()

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **{f"SDFT_WORKER__{name}": str(value) for name, value in TIMES.items()},
            "SDFT_DATABASE__URL": self.postgres.url,
            "SDFT_BROKER__URL": self.valkey.url,
            "SDFT_STORAGE__ROOT": str(self.folder / "store"),
            "SDFT_STORAGE__MODELS": str(self.models),
            "SDFT_STORAGE__WORK": str(self.folder / "work"),
            "TMPDIR": str(self.scratch),
            "OMP_WAIT_POLICY": "passive",
            "GOMP_SPINCOUNT": "0",
        }

    def run(self, name: str, *command: str) -> OwnedProcess:
        process = start(
            name,
            [sys.executable, "-m", *command],
            folder=self.folder,
            log=self.folder / f"{name}.log",
            env=self.environment,
        )
        self.processes.append(process)
        return process

    def start_api(self) -> OwnedProcess:
        arguments = ("--factory", "app.main:create_app", "--host=127.0.0.1", f"--port={self.port}")
        process = self.run("api", "uvicorn", *arguments)
        process.wait_until(self._answers, timeout_seconds=60)
        return process

    def start_worker(self, name: str = "worker") -> OwnedProcess:
        return self.run(
            name, "celery", "-A", "worker.celery_app", "worker", "--concurrency=1", f"--hostname={name}@e2e"
        )

    def client(self, **options: Any) -> openai.OpenAI:
        with self.sessions.begin() as session:
            key = create_key(session, project="default", name="e2e").secret
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, **options)

    def num_attempts(self, job_id: str) -> int:
        with self.sessions() as session:
            return len(session.scalars(select(JobAttempt).where(JobAttempt.job_id == job_id)).all())

    def versions(self, job_id: str) -> list[AdapterVersion]:
        with self.sessions() as session:
            return list(session.scalars(select(AdapterVersion).where(AdapterVersion.job_id == job_id)))

    def workers_used(self) -> set[str]:
        with self.sessions() as session:
            return set(session.scalars(select(JobAttempt.worker_id)))

    def trainers(self) -> list[psutil.Process]:
        """Trainer processes of this service that are alive."""
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if "worker.trainer_process" in (process.info["cmdline"] or [])
            and is_alive(process)
            and self._is_ours(process)
        ]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("TMPDIR") == str(self.scratch)
        except psutil.Error:  # gone meanwhile
            return False

    def _answers(self) -> bool:
        try:
            return (
                openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}", api_key="none", max_retries=0).get(
                    "/readyz", cast_to=object
                )
                is not None
            )
        except openai.OpenAIError:
            return False


@pytest.fixture
def deployment(server_folder: Path, models: tuple[Path, dict[str, Any]]) -> Iterator[Deployment]:
    """Database and broker with the tiny model on the list; tests start the processes that they need."""
    with deploy(server_folder, *models) as place:
        yield place


@contextlib.contextmanager
def deploy(server_folder: Path, store: Path, facts: dict[str, Any]) -> Iterator[Deployment]:
    """One more service below the folder, gone without a trace of a process at the end."""
    folder = server_folder / f"e2e-{time.monotonic_ns():x}"
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(start_postgres(folder / "pg"))
        place = Deployment(folder, store, postgres, start_valkey(folder / "vk"))
        upgrade(postgres.url)
        stack.callback(place.sessions.kw["bind"].dispose)
        with place.sessions.begin() as session:
            register(session, place.store, store, facts)
        try:
            yield place
        finally:
            for process in reversed(place.processes):
                process.stop()
            place.valkey.stop()
            wait_until(lambda: not place.trainers(), seconds=10)


def demonstrations(num: int, word: str) -> bytes:
    """Lines of a training file."""
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"{word} {index}?"},
                {"role": "assistant", "content": f"{word}={index}"},
            ]
        }
        for index in range(num)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def upload(client: openai.OpenAI, *, num: int = 16, word: str = "lamp") -> str:
    return client.files.create(file=(f"{word}.jsonl", demonstrations(num, word)), purpose="fine-tune").id


def post(client: openai.OpenAI, training_file: str, *, steps: int = 8, **request: Any) -> FineTuningJob:
    """A job of so many steps over sixteen demonstrations."""
    hyperparameters = {"n_epochs": steps // 4, "batch_size": 4, "max_completion_tokens": 8, "learning_rate": 1e-4}
    method: Any = {"type": "sdft", "sdft": {"hyperparameters": hyperparameters}}
    return client.fine_tuning.jobs.create(
        **{"model": MODEL, "training_file": training_file, "seed": 7, "method": method} | request
    )


def wait_for_end(client: openai.OpenAI, job_id: str) -> FineTuningJob:
    wait_until(lambda: client.fine_tuning.jobs.retrieve(job_id).status in TERMINAL)
    return client.fine_tuning.jobs.retrieve(job_id)


def weights_sha256(client: openai.OpenAI, job: FineTuningJob) -> str:
    """Digest of the published weights."""
    adapter: Any = getattr(job, "adapter")  # noqa: B009 - an extra field of ours
    version: Any = client.get(f"/adapters/{adapter['name']}/versions/{adapter['version']}", cast_to=object)
    return next(file["sha256"] for file in version["files"] if file["path"] == "adapter_model.safetensors")


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
