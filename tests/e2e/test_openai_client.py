"""The whole way through live processes, with the official client: demonstrations in, adapter and evidence out."""

import csv
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.conftest import MODEL, Deployment, post, upload, wait_for_end

LOADED_BY_STOCK_PEFT = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sys.argv[1]), sys.argv[2])
print(sum(float(value.abs().sum()) for name, value in model.named_parameters() if "lora_B" in name) > 0)
"""


def test_demonstrations_go_in_and_a_loadable_adapter_comes_out(deployment: Deployment, tmp_path: Path):
    deployment.start_worker()
    deployment.start_api()
    client = deployment.client()

    training_file = upload(client)
    job = post(client, training_file, suffix="home", metadata={"team": "e2e"})
    assert job.status == "queued"
    job = wait_for_end(client, job.id)
    assert job.status == "succeeded", job.error
    assert job.fine_tuned_model == f"ft:{MODEL}:default:home:{job.id.removeprefix('ftjob-')[:8]}"
    assert job.trained_tokens

    events = list(client.fine_tuning.jobs.list_events(job.id, limit=3))  # pages of three, all of them
    assert len({event.id for event in events}) == len(events) > 3
    steps = sorted(event.data["step"] for event in events if event.type == "metrics")  # type: ignore[index,call-overload]
    assert steps == list(range(1, 9))
    checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert all(checkpoint.fine_tuning_job_id == job.id for checkpoint in checkpoints)
    assert {model.id for model in client.models.list()} == {MODEL, job.fine_tuned_model}
    assert client.models.retrieve(job.fine_tuned_model).id == job.fine_tuned_model
    assert [found.id for found in client.fine_tuning.jobs.list(metadata={"team": "e2e"})] == [job.id]
    assert client.fine_tuning.jobs.list(metadata={"team": "another"}).data == []

    metrics, report, archive = (client.files.content(file_id).read() for file_id in job.result_files)
    rows = list(csv.DictReader(io.StringIO(metrics.decode())))
    assert [int(row["step"]) for row in rows] == list(range(1, 9))
    assert all(float(row["train_loss"]) > 0 for row in rows)
    suites = {suite["role"]: suite for suite in json.loads(report)["suites"]}
    assert {"general"} <= suites.keys()

    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(tmp_path / "adapter", filter="data")
    base = deployment.models / MODEL
    command = [sys.executable, "-c", LOADED_BY_STOCK_PEFT, str(base), str(tmp_path / "adapter")]
    assert subprocess.check_output(command, text=True).splitlines()[-1] == "True"


def test_a_second_skill_starts_from_the_first_and_is_asked_for_it(deployment: Deployment):
    deployment.start_worker()
    deployment.start_api()
    client = deployment.client()

    first = post(client, upload(client, num=24), suffix="house")
    assert wait_for_end(client, first.id).status == "succeeded"
    second = post(client, upload(client, num=24, word="fan"), extra_body={"parent_adapter": "house:1"})
    second = wait_for_end(client, second.id)
    assert second.status == "succeeded", second.error

    adapter: Any = client.get("/adapters/house", cast_to=object)
    assert [version["version"] for version in adapter["versions"]] == [1, 2]
    assert adapter["versions"][1]["parent_model"] == adapter["versions"][0]["model"]
    evaluation: Any = client.get(f"/evaluations/{adapter['versions'][1]['evaluation_id']}", cast_to=object)
    suites = {suite["role"]: suite for suite in evaluation["report"]["suites"]}
    assert suites["earlier"]["n"] > 0
    assert "parent" in {score["arm"] for score in suites["skill"]["arms"]}


def test_a_supervised_job_passes_strict_response_validation(deployment: Deployment):
    deployment.start_worker()
    deployment.start_api()
    client = deployment.client(_strict_response_validation=True)

    method: Any = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}}
    job = post(client, upload(client), method=method)
    job = wait_for_end(client, job.id)
    assert job.status == "succeeded", job.error
    assert client.fine_tuning.jobs.list().data[0].id == job.id
    assert client.fine_tuning.jobs.list_events(job.id).data
    assert client.files.list().data


def test_errors_arrive_as_the_clients_own_exceptions(deployment: Deployment):
    deployment.start_api()
    client = deployment.client()
    training_file = upload(client)

    with pytest.raises(openai.AuthenticationError, match="API key"):
        client.with_options(api_key="sk-wrong").files.list()
    with pytest.raises(openai.NotFoundError) as missing:
        client.fine_tuning.jobs.retrieve("ftjob-none")
    assert missing.value.code == "job_not_found"
    method: Any = {"type": "sdft", "sdft": {"hyperparameters": {"n_epoch": 1}}}
    with pytest.raises(openai.BadRequestError, match="n_epochs"):
        post(client, training_file, method=method)
    with pytest.raises(openai.UnprocessableEntityError) as invalid:
        client.files.create(file=("bad.jsonl", b'{"messages": []}\n' * 10), purpose="fine-tune")
    assert invalid.value.code == "invalid_file"
    job = post(client, training_file)
    with pytest.raises(openai.ConflictError):
        client.files.delete(training_file)
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
