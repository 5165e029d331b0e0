"""A broker that is down or frozen costs a ring, not a request."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from kombu.exceptions import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from app.db.models import Job
from app.db.session import after_commit, transaction
from app.dispatch import Broker
from app.embedded import Server, start_valkey
from tests import factories


@pytest.fixture
def valkey(server_folder: Path) -> Iterator[Server]:
    """A server that the test may mistreat."""
    with start_valkey(server_folder / "victim") as server:
        yield server


@pytest.fixture
def broker(valkey: Server) -> Iterator[Broker]:
    broker = Broker(valkey.url, key_prefix="sdft:")
    yield broker
    broker.close()


def test_a_dead_broker_is_an_error_within_seconds(valkey: Server, broker: Broker) -> None:
    psutil.Process(valkey.pid).send_signal(signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(OperationalError):
        broker.ring("ftjob-1")
    assert time.monotonic() - started < 5


def test_a_frozen_broker_does_not_hang_forever(valkey: Server, broker: Broker) -> None:
    broker.ring("ftjob-1")
    process = psutil.Process(valkey.pid)
    process.suspend()
    try:
        started = time.monotonic()
        with pytest.raises(OperationalError):
            broker.ring("ftjob-2")
        assert time.monotonic() - started < 4
    finally:
        process.resume()
    broker.ring("ftjob-3")


def test_a_commit_stands_when_its_ring_fails(
    committed_sessions: sessionmaker[Session], valkey: Server, broker: Broker
) -> None:
    psutil.Process(valkey.pid).send_signal(signal.SIGKILL)
    with transaction(committed_sessions) as session:
        job_id = factories.make_job(session).id
        after_commit(session, lambda: broker.ring(job_id))
    with committed_sessions() as session:
        assert session.get_one(Job, job_id).status == "queued"
