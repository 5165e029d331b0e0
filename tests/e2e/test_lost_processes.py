"""Whatever is killed in the middle of a job, the job ends once, as if nothing had happened."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.embedded import start_valkey
from app.embedded.processes import OwnedProcess
from tests.e2e.conftest import Deployment, deploy, post, upload, wait_for_end, wait_until, weights_sha256

STEPS = 80


def run_with(deployment: Deployment, loss: Callable[[Deployment], None]) -> tuple[str, int]:
    """Run one job, lose something once it has a checkpoint; gives the digest of its weights and its attempts."""
    deployment.start_worker()
    deployment.start_api()
    client = deployment.client()
    job = post(client, upload(client), steps=STEPS)
    wait_until(lambda: client.fine_tuning.jobs.checkpoints.list(job.id).data)
    assert client.fine_tuning.jobs.retrieve(job.id).status == "running"
    loss(deployment)
    job = wait_for_end(client, job.id)
    assert job.status == "succeeded", job.error
    assert len(deployment.versions(job.id)) == 1
    return weights_sha256(client, job), deployment.num_attempts(job.id)


def kill(process: OwnedProcess) -> None:
    process.child.send_signal(signal.SIGKILL)
    process.child.wait()


def lose_worker(deployment: Deployment) -> None:
    kill(deployment.processes[0])
    deployment.start_worker("another-worker")


def lose_trainer(deployment: Deployment) -> None:
    [trainer] = deployment.trainers()
    trainer.kill()


def lose_broker(deployment: Deployment) -> None:
    kill(deployment.valkey)
    deployment.valkey = start_valkey(deployment.folder / "vk")


def lose_api(deployment: Deployment) -> None:
    kill(deployment.processes[1])
    deployment.start_api()


@pytest.fixture(scope="module")
def undisturbed(server_folder: Path, models: tuple[Path, dict[str, Any]]) -> str:
    """Digest of the weights that a run without any loss ends with."""
    with deploy(server_folder, *models) as deployment:
        digest, num_attempts = run_with(deployment, lambda _: None)
    assert num_attempts == 1
    return digest


@pytest.mark.parametrize(
    ("loss", "num_attempts"),
    [(lose_worker, 2), (lose_trainer, 2), (lose_broker, 1), (lose_api, 1)],
)
def test_a_job_survives_a_kill_9_and_ends_bit_equal(
    deployment: Deployment, undisturbed: str, loss: Callable[[Deployment], None], num_attempts: int
):
    assert run_with(deployment, loss) == (undisturbed, num_attempts)
