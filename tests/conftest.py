"""A real Postgres and a real Valkey for every test process, in a short folder of its own, and ways to use them.

``sessions`` never really commits: all that a test did is rolled back. ``committed_sessions`` is for tests whose
threads or processes have to see each other's work; its tables are emptied afterwards. Under xdist each worker
process starts its own servers.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from app.db.migrate import upgrade
from app.db.models import Base
from app.db.session import make_sessions
from app.embedded import start_postgres, start_valkey
from app.logs import CONSOLE
from app.storage.store import Store

# An app that no test has configured the logs of prints as the service does on a terminal.
structlog.configure(processors=[structlog.contextvars.merge_contextvars, structlog.stdlib.add_log_level, CONSOLE])


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """Short, because the path of a unix socket may have 107 characters at most."""
    folder = Path(tempfile.mkdtemp(prefix="sdft-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_url(server_folder: Path) -> Iterator[str]:
    """An empty server; tests of the schema itself make databases of their own on it."""
    with start_postgres(server_folder / "pg") as server:
        yield server.url


@pytest.fixture(scope="session")
def database_url(postgres_url: str) -> str:
    """The database under test, at the current schema."""
    upgrade(postgres_url)
    return postgres_url


@pytest.fixture(scope="session")
def valkey_url(server_folder: Path) -> Iterator[str]:
    with start_valkey(server_folder / "valkey") as server:
        yield server.url


@pytest.fixture(scope="session")
def _pool(database_url: str) -> Iterator[sessionmaker[Session]]:
    pool = make_sessions(database_url, pool_size=40)
    yield pool
    pool.kw["bind"].dispose()


@pytest.fixture
def sessions(_pool: sessionmaker[Session]) -> Iterator[sessionmaker[Session]]:
    """Sessions on one connection whose commits are savepoints; one thread at a time."""
    with _pool.kw["bind"].connect() as connection, connection.begin() as outer:
        yield sessionmaker(connection, expire_on_commit=False, join_transaction_mode="create_savepoint")
        outer.rollback()


@pytest.fixture
def session(sessions: sessionmaker[Session]) -> Iterator[Session]:
    with sessions() as session:
        yield session


@pytest.fixture
def committed_sessions(_pool: sessionmaker[Session]) -> Iterator[sessionmaker[Session]]:
    """Sessions that commit for everyone to see."""
    yield _pool
    tables = ", ".join(Base.metadata.tables)
    with _pool.begin() as session:
        session.execute(text(f"TRUNCATE {tables} CASCADE"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def four_threads() -> Iterator[None]:
    """Torch computes on four threads, whatever the machine has and whatever tiny models are best off with."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)
