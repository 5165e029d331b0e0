"""The commands of docker-compose.yml, by hand: external servers by URL, an API and two workers of their own."""

import time

from tests.e2e.conftest import Deployment, post, upload, wait_for_end, wait_until


def test_two_workers_share_four_jobs_and_do_each_once(deployment: Deployment):
    deployment.start_worker("one")
    deployment.start_worker("two")
    deployment.start_api()
    client = deployment.client()
    training_file = upload(client)

    jobs = [post(client, training_file, suffix=f"line-{number}") for number in range(4)]
    for job in jobs:
        assert wait_for_end(client, job.id).status == "succeeded"
        assert deployment.num_attempts(job.id) == 1
        assert len(deployment.versions(job.id)) == 1
    assert len(deployment.workers_used()) == 2


def test_a_cancelled_job_ends_soon_and_leaves_nothing(deployment: Deployment):
    deployment.start_worker()
    deployment.start_api()
    client = deployment.client()
    job = post(client, upload(client), steps=200)
    wait_until(lambda: getattr(client.fine_tuning.jobs.retrieve(job.id), "phase", None) == "training")

    asked_at = time.monotonic()
    client.fine_tuning.jobs.cancel(job.id)
    job = wait_for_end(client, job.id)
    assert (job.status, job.fine_tuned_model, job.result_files) == ("cancelled", None, [])
    assert time.monotonic() - asked_at < 45
    wait_until(lambda: not deployment.trainers(), seconds=5)


def test_a_worker_that_is_told_to_stop_hands_its_job_on(deployment: Deployment):
    worker = deployment.start_worker()
    deployment.start_api()
    client = deployment.client()
    job = post(client, upload(client), steps=80)
    wait_until(lambda: client.fine_tuning.jobs.checkpoints.list(job.id).data)

    stopped_at = time.monotonic()
    worker.stop()
    assert time.monotonic() - stopped_at < 30
    assert client.fine_tuning.jobs.retrieve(job.id).status == "queued"
    deployment.start_worker("another")
    assert wait_for_end(client, job.id).status == "succeeded"
    assert deployment.num_attempts(job.id) == 2
