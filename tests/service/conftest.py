"""The API over a real Postgres and a real store, without a socket; what would leave the machine is written down."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient
from tokenizers import Tokenizer, models, pre_tokenizers

from app.db.models import Project
from app.db.session import transaction
from app.main import create_app
from app.resources import Resources
from app.services import access, lengths
from app.settings import Settings
from app.storage.store import Store
from tests import factories

OVERHEADS = {"conversation": 4, "system": 3, "message": {"user": 4, "assistant": 4, "tool": None}}


@dataclass
class QuietBroker:
    """A doorbell that is written down instead of rung."""

    rung: list[str] = field(default_factory=list)

    def ring(self, job_id: str) -> None:
        self.rung.append(job_id)

    def ping(self) -> None:
        """Always well."""


@dataclass(frozen=True)
class Tenant:
    """A project and a client that holds its key."""

    project: Project
    secret: str
    http: TestClient


@pytest.fixture(autouse=True)
def _nothing_is_counted_yet() -> None:
    lengths._kept.clear()  # else a test would find what another one's file of the same bytes came to


@pytest.fixture
def broker() -> QuietBroker:
    return QuietBroker()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return unused_settings(tmp_path)


@pytest.fixture
def app(sessions: sessionmaker[Session], store: Store, broker: QuietBroker, settings: Settings) -> FastAPI:
    return make_app(sessions, store, broker, settings)


@pytest.fixture
def tenant(app: FastAPI, sessions: sessionmaker[Session]) -> Tenant:
    return make_tenant(app, sessions, "acme")


@pytest.fixture
def http(tenant: Tenant) -> TestClient:
    return tenant.http


@pytest.fixture
def project(tenant: Tenant) -> Project:
    return tenant.project


@pytest.fixture
def anonymous(app: FastAPI) -> TestClient:
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def base(session: Session, store: Store) -> Any:
    return make_counting_base(session, store)


@pytest.fixture
def file_id(http: TestClient) -> str:
    return upload(http).json()["id"]


@pytest.fixture
def live(committed_sessions, store, broker, settings) -> Iterator[tuple[str, str]]:
    """A served application: its address, and a key."""
    app = make_app(committed_sessions, store, broker, settings)
    tenant = make_tenant(app, committed_sessions, "acme")
    with transaction(committed_sessions) as session:
        factories.make_base_model(session, "org/tiny", overheads=OVERHEADS)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/v1", tenant.secret
    server.should_exit = True
    thread.join()


def make_counting_base(session: Session, store: Store, **values: Any) -> Any:
    """A base whose tokens are words."""
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = factories.make_blob(session, words.to_str().encode(), store=store)
    row = factories.make_base_model(session, tokenizer_sha256=tokenizer.sha256, overheads=OVERHEADS, **values)
    session.commit()
    return row


def make_app(sessions: sessionmaker[Session], store: Any, broker: Any, settings: Settings) -> FastAPI:
    """The one application of this process, holding other things than before."""
    app = _application()
    app.state.settings = settings
    app.state.resources = Resources(sessions=sessions, store=store, broker=broker, models=settings.storage.models)
    return app


@cache
def _application() -> FastAPI:
    """Made once: FastAPI prepares its routes and its document at the first request, which takes longer than a test."""
    unused: Any = None
    return create_app(unused_settings(Path("/nonexistent")), resources=Resources(unused, unused, unused, Path()))


def unused_settings(folder: Path) -> Settings:
    """Settings whose servers nobody asks."""
    return Settings(
        database={"url": "postgresql+psycopg://unused"},
        broker={"url": "redis://unused"},
        storage={"root": folder / "store", "models": folder / "models", "work": folder / "work"},
        limits={"upload_bytes": 4 * 1024 * 1024},
    )


def make_tenant(app: FastAPI, sessions: sessionmaker[Session], name: str) -> Tenant:
    with transaction(sessions) as session:
        secret = access.create_key(session, project=name, name="test").secret
        project = session.scalars(select(Project).where(Project.name == name)).one()
    headers = {"Authorization": f"Bearer {secret}"}
    return Tenant(project, secret, TestClient(app, raise_server_exceptions=False, headers=headers))


def upload(
    http: TestClient, content: bytes = factories.TRAINING_LINES, *, filename: str = "train.jsonl", **options: Any
) -> Any:
    """Post a file the way clients do."""
    return http.post(
        "/v1/files", files={"file": (filename, content)}, data={"purpose": "fine-tune"}, headers=options or None
    )


def error_of(response: Any, status: int) -> dict[str, Any]:
    """The error member, after a look at what every error must have."""
    body = response.json()
    assert (response.status_code, body["status"]) == (status, status), body
    assert response.headers["content-type"] == "application/problem+json"
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["detail"] == body["error"]["message"]
    assert body["error"]["code"]
    return body["error"]
