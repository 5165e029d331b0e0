"""``sdft up``: one folder, one command, and what is left of it after a kill -9."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.e2e.conftest import MODEL, TIMES, is_alive, post, upload, wait_for_end, wait_until

SDFT = [sys.executable, "-m", "app.cli"]


@contextlib.contextmanager
def up(home: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A service below a home, once it answers; killed with all its parts at the end if a test left it running."""
    times = {f"SDFT_WORKER__{name}": str(value) for name, value in TIMES.items()}
    with (home.parent / "up.log").open("ab") as log:
        process = subprocess.Popen(
            [*SDFT, "up", f"--home={home}", "--port=0", "--json"],
            env=os.environ | times,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(90)
        process.stdout.close()


def sdft(home: Path, *arguments: str) -> Any:
    """What a command prints as JSON."""
    return json.loads(subprocess.check_output([*SDFT, *arguments, f"--home={home}", "--json"]))


def parts(home: Path) -> list[psutil.Process]:
    """Processes of a home that are alive."""
    found = []
    for record in home.glob("*/*.pid"):
        with contextlib.suppress(psutil.NoSuchProcess, ValueError):
            found.append(psutil.Process(int(record.read_text())))
    return [process for process in found if is_alive(process)]


@pytest.fixture
def home(server_folder: Path) -> Path:
    return server_folder / "home"


def test_a_job_goes_on_after_everything_was_killed(home: Path, models: tuple[Path, dict[str, Any]]):
    with up(home) as (process, told):
        secret = told["api_key"]
        assert (home / "key").read_text() == secret
        assert (home / "key").stat().st_mode & 0o777 == 0o600
        sdft(home, "models", "add", MODEL, f"--folder={models[0] / MODEL}")
        client = openai.OpenAI(base_url=f"{told['url']}/v1", api_key=secret)
        job = post(client, upload(client), steps=80)
        wait_until(lambda: client.fine_tuning.jobs.checkpoints.list(job.id).data)
        first_parts = parts(home)
        assert len(first_parts) == 4
        process.kill()
        process.wait()
    assert all(is_alive(part) for part in first_parts)  # a kill -9 takes nothing else with it

    with up(home) as (process, told):
        assert told["api_key"] is None  # the first one still holds
        assert not any(is_alive(part) for part in first_parts)
        client = openai.OpenAI(base_url=f"{told['url']}/v1", api_key=secret)
        job = wait_for_end(client, job.id)
        assert job.status == "succeeded", job.error
        assert [adapter["latest_version"] for adapter in sdft(home, "adapters", "list")] == [1]
        last_parts = parts(home)
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0
    assert not any(is_alive(part) for part in last_parts)
    assert [found["name"] for found in sdft(home, "models", "list")] == [MODEL]  # without a service, too


def test_a_saved_key_that_opens_nothing_any_more_is_replaced(home: Path):
    """Fault caught: a service that tells how to use it with a key that it refuses."""
    with up(home) as (process, told):
        first = told["api_key"]
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0
    [key] = sdft(home, "keys", "list")
    sdft(home, "keys", "revoke", key["id"])
    sdft(home, "keys", "create", "colleague", "--days=30")
    expiries = {key["name"]: key["expires_at"] for key in sdft(home, "keys", "list")}
    assert expiries["sdft up"] is None
    left = datetime.fromisoformat(expiries["colleague"]) - datetime.now(UTC)
    assert timedelta(days=29) < left < timedelta(days=30)
    with up(home) as (process, told):
        assert told["api_key"] not in {None, first}
        assert (home / "key").read_text() == told["api_key"]
        assert _answers(openai.OpenAI(base_url=f"{told['url']}/v1", api_key=told["api_key"], max_retries=0))


def test_a_part_that_crashes_is_started_again(home: Path):
    with up(home) as (process, told):
        client = openai.OpenAI(base_url=f"{told['url']}/v1", api_key=(home / "key").read_text(), max_retries=0)
        for part in parts(home):
            part.kill()
        wait_until(lambda: len(parts(home)) == 4 and _answers(client), seconds=60)
        assert process.poll() is None


def test_a_second_service_in_one_folder_is_refused(home: Path):
    with up(home) as (_, told):
        second = subprocess.run([*SDFT, "up", f"--home={home}"], check=False, capture_output=True, text=True)
        assert second.returncode == 1
        assert told["url"] in second.stderr


def _answers(client: openai.OpenAI) -> bool:
    try:
        return client.models.list() is not None
    except openai.OpenAIError:
        return False
