"""Postgres and Valkey out of wheels: found again after a kill -9 of their owner, whatever the length of the path."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from sqlalchemy import create_engine, text

from app.dispatch import Broker
from app.embedded import ProcessFailed, start_postgres, start_valkey
from app.embedded.processes import end, start
from tests.e2e.conftest import is_alive

OWNER = """
import os, sys
from pathlib import Path
from app.embedded import start_postgres, start_valkey
folder = Path(sys.argv[1])
print(start_postgres(folder / "pg").pid, start_valkey(folder / "vk").pid, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture(params=["short", "l" * 90])
def folder(server_folder: Path, request: pytest.FixtureRequest) -> Path:
    return server_folder / f"{request.param} path"


def leave_behind(folder: Path) -> list[psutil.Process]:
    """Servers whose owner was killed."""
    owner = subprocess.run([sys.executable, "-c", OWNER, folder], check=False, capture_output=True, text=True)
    assert owner.returncode == -signal.SIGKILL
    return [psutil.Process(int(pid)) for pid in owner.stdout.split()]


def test_what_a_killed_owner_left_is_replaced_and_its_data_kept(folder: Path):
    left = leave_behind(folder)
    assert all(is_alive(process) for process in left)
    with start_postgres(folder / "pg") as postgres, start_valkey(folder / "vk") as valkey:
        assert not any(is_alive(process) for process in left)
        engine = create_engine(postgres.url)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE kept AS SELECT 1 AS one"))
        engine.dispose()
        broker = Broker(valkey.url, key_prefix="")
        broker.ping()
        broker.close()
    with start_postgres(folder / "pg") as postgres:
        engine = create_engine(postgres.url)
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT one FROM kept")) == 1
        engine.dispose()
    assert not list(folder.glob("*/sockets"))


def test_servers_listen_on_no_port(folder: Path):
    with start_postgres(folder / "pg") as postgres, start_valkey(folder / "vk") as valkey:
        for server in (postgres, valkey):
            assert psutil.Process(server.pid).net_connections("inet") == []


def test_no_permission_outside_the_folder_changes(server_folder: Path):
    private = server_folder / "private"
    private.mkdir(mode=0o700)
    with start_postgres(private / "pg"):
        assert private.stat().st_mode & 0o777 == 0o700
        assert private.stat().st_uid == os.geteuid()


def test_a_server_that_cannot_start_says_why(server_folder: Path):
    folder = server_folder / "damaged"
    start_postgres(folder).stop()
    (folder / "data" / "postgresql.conf").write_text("nonsense = yes\n")
    with pytest.raises(ProcessFailed, match="nonsense"):
        start_postgres(folder)


def test_whatever_a_process_forked_is_ended_with_it(tmp_path: Path):
    forking = "import os, time\nos.fork()\ntime.sleep(600)"
    process = start("parent", [sys.executable, "-c", forking], folder=tmp_path, log=tmp_path / "log")
    parent = psutil.Process(process.pid)
    while not (children := parent.children()):
        assert is_alive(parent)
    parent.kill()
    process.child.wait()
    assert is_alive(children[0])
    end(process.record, stop_signal=signal.SIGTERM, grace_seconds=1)
    assert not is_alive(children[0])
