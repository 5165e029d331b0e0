"""The official client, unmodified, over real HTTP: every call that we say works."""

import io
import json
from collections.abc import Iterator

import httpx2 as httpx
import openai
import pytest
from openai import OpenAI

from app.db.models import Job
from app.db.session import transaction
from tests import factories


@pytest.fixture
def client(live) -> Iterator[OpenAI]:
    address, secret = live
    with OpenAI(base_url=address, api_key=secret, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def strict(live) -> Iterator[OpenAI]:
    address, secret = live
    with OpenAI(
        base_url=address, api_key=secret, max_retries=0, timeout=60, _strict_response_validation=True
    ) as client:
        yield client


@pytest.fixture
def training_file(client) -> str:
    return client.files.create(file=("train.jsonl", factories.TRAINING_LINES), purpose="fine-tune").id


def test_files(strict):
    created = strict.files.create(file=("train.jsonl", factories.TRAINING_LINES), purpose="fine-tune")
    assert strict.files.wait_for_processing(created.id).status == "processed"
    assert strict.files.retrieve(created.id) == created
    assert strict.files.content(created.id).content == factories.TRAINING_LINES
    assert [file.id for file in strict.files.list(purpose="fine-tune")] == [created.id]
    part = strict.files.content(created.id, extra_headers={"Range": "bytes=0-9"})
    assert part.content == factories.TRAINING_LINES[:10]
    assert strict.files.delete(created.id).deleted
    with pytest.raises(openai.NotFoundError):
        strict.files.retrieve(created.id)


def test_a_file_from_a_disk_and_from_a_stream(client, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(factories.TRAINING_LINES)
    assert client.files.create(file=path, purpose="fine-tune").filename == "train.jsonl"
    assert client.files.create(file=io.BytesIO(factories.TRAINING_LINES), purpose="fine-tune").bytes


def test_a_supervised_job_passes_strict_validation(strict, training_file, committed_sessions):
    hyperparameters = {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": 0.5}
    others = factories.TRAINING_LINES.replace(b"Say", b"Tell me")
    validation_file = strict.files.create(file=("validation.jsonl", others), purpose="fine-tune").id
    job = strict.fine_tuning.jobs.create(
        model="org/tiny",
        training_file=training_file,
        validation_file=validation_file,
        suffix="skill",
        seed=3,
        metadata={"team": "a"},
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
    )
    assert (job.status, job.seed, job.metadata) == ("queued", 3, {"team": "a"})
    assert (job.hyperparameters.n_epochs, job.method.supervised.hyperparameters.n_epochs) == (2, 2)
    with transaction(committed_sessions) as session:
        row = session.get_one(Job, job.id)
        factories.make_checkpoint(session, row, 4)
        factories.make_event(session, row, type="metrics", payload={"train_loss": 0.5})
    assert strict.fine_tuning.jobs.retrieve(job.id).id == job.id
    assert [found.id for found in strict.fine_tuning.jobs.list(metadata={"team": "a"})] == [job.id]
    assert list(strict.fine_tuning.jobs.list(metadata={"team": "b"})) == []
    newest, oldest = strict.fine_tuning.jobs.list_events(job.id)
    assert (newest.type, newest.data, oldest.type) == ("metrics", {"train_loss": 0.5}, "message")
    [checkpoint] = strict.fine_tuning.jobs.checkpoints.list(job.id)
    assert (checkpoint.step_number, checkpoint.metrics.train_loss) == (4, 1.0)
    for _ in range(2):
        assert strict.fine_tuning.jobs.cancel(job.id).status == "cancelled"


def test_a_failed_job_passes_strict_validation(strict, committed_sessions, training_file):
    job = strict.fine_tuning.jobs.create(model="org/tiny", training_file=training_file, method={"type": "supervised"})
    with transaction(committed_sessions) as session:
        row = session.get_one(Job, job.id)
        failed = factories._standing(session, "failed", {})
        for column, value in (failed | {"status": "failed"}).items():
            setattr(row, column, value)
    error = strict.fine_tuning.jobs.retrieve(job.id).error
    assert (error.code, error.message, error.param) == ("internal_error", "It broke.", None)


def test_an_sdft_job_with_our_own_fields(client, training_file):
    job = client.fine_tuning.jobs.create(
        model="org/tiny",
        training_file=training_file,
        method={"type": "sdft", "sdft": {"hyperparameters": {"template": "multi_turn"}}},
        extra_body={"limits": {"max_seconds": 60}},
    )
    assert job.method.type == "sdft"
    assert job.method.sdft["hyperparameters"]["template"] == "multi_turn"
    assert (job.phase, job.progress["queue_position"]) == ("waiting", 1)


@pytest.mark.parametrize("method", ["sdft", "supervised"])
def test_the_method_of_a_job_can_be_posted_again(client, training_file, method):
    """Fault caught: the client's models say dpo and reinforcement too, as null."""
    asked = {"type": method, method: {"hyperparameters": {"n_epochs": 3}}}
    first = client.fine_tuning.jobs.create(model="org/tiny", training_file=training_file, method=asked)
    dumped = first.method.model_dump()
    assert dumped.keys() >= {"dpo", "reinforcement"}
    again = client.fine_tuning.jobs.create(model="org/tiny", training_file=training_file, method=dumped)
    assert again.method == first.method


def test_models(strict):
    [base] = strict.models.list()
    assert base.id == "org/tiny"
    assert strict.models.retrieve("org/tiny") == base
    assert (base.to_dict()["source"], base.to_dict()["revision"]) == ("folder:org/tiny", "0" * 40)
    with pytest.raises(openai.PermissionDeniedError):
        strict.models.delete("org/tiny")


def test_a_model_that_a_job_made(strict, committed_sessions, store):
    with transaction(committed_sessions) as session:
        project = session.query(factories.models.Project).filter_by(name="acme").one()
        job = factories.make_job(
            session, "succeeded", project=project, base_model="org/tiny", adapter_name="skill", method="supervised"
        )
        version = factories.make_version(session, project=project, job=job, store=store)
        job.result_file_ids = [{"kind": "adapter", "file_id": version.archive_file_id}]
    done = strict.fine_tuning.jobs.retrieve(job.id)
    assert done.fine_tuned_model.startswith("ft:org/tiny:acme:skill:")
    assert strict.files.content(done.result_files[0]).content == b"a tar"
    assert strict.models.retrieve(done.fine_tuned_model).id == done.fine_tuned_model
    assert strict.models.delete(done.fine_tuned_model).deleted


def test_lists_page_by_themselves(client, training_file, committed_sessions):
    ids = [client.fine_tuning.jobs.create(model="org/tiny", training_file=training_file).id for _ in range(5)]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=2)] == ids[::-1]
    with transaction(committed_sessions) as session:
        row = session.get_one(Job, ids[0])
        for number in range(4):
            factories.make_event(session, row, f"{number}")
            factories.make_checkpoint(session, row, number)
    events = [event.message for event in client.fine_tuning.jobs.list_events(ids[0], limit=2)]
    assert events[:4] == ["3", "2", "1", "0"]
    assert [row.step_number for row in client.fine_tuning.jobs.checkpoints.list(ids[0], limit=3)] == [3, 2, 1, 0]


def test_errors_carry_all_that_the_client_reads(client, training_file):
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.create(
            model="org/tiny",
            training_file=training_file,
            method={"type": "sdft", "sdft": {"hyperparameters": {"n_epoch": 1}}},
        )
    error = caught.value
    assert (error.code, error.param) == ("unknown_parameter", "method.sdft.hyperparameters.n_epoch")
    assert error.type == "invalid_request_error"
    assert "did you mean n_epochs?" in error.message
    assert error.request_id.startswith("req_")

    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.files.create(file=("x.jsonl", b"{\n"), purpose="fine-tune")
    assert caught.value.body["errors"][0]["line"] == 1

    with pytest.raises(openai.NotFoundError) as caught:
        client.fine_tuning.jobs.retrieve("ftjob-" + "0" * 32)
    assert caught.value.code == "job_not_found"


class Requests(httpx.BaseTransport):
    """Counts, and loses some answers on their way back."""

    def __init__(self, lost: int) -> None:
        self.inner, self.lost, self.retry_counts = httpx.HTTPTransport(), lost, []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.retry_counts.append(request.headers["x-stainless-retry-count"])
        response = self.inner.handle_request(request)
        if len(self.retry_counts) <= self.lost:
            response.read()
            response.close()
            raise httpx.ReadError("the answer was lost", request=request)
        return response

    def close(self) -> None:
        self.inner.close()


def impatient(live, transport) -> OpenAI:
    address, secret = live
    return OpenAI(base_url=address, api_key=secret, http_client=httpx.Client(transport=transport), max_retries=2)


def test_answers_that_are_lost_make_one_job(live, training_file, committed_sessions):
    transport = Requests(lost=2)
    with impatient(live, transport) as client:
        job = client.fine_tuning.jobs.create(model="org/tiny", training_file=training_file)
    assert transport.retry_counts == ["0", "1", "2"]
    with transaction(committed_sessions) as session:
        assert [row.id for row in session.query(Job)] == [job.id]


def test_answers_that_are_lost_make_one_file(live):
    transport = Requests(lost=1)
    with impatient(live, transport) as client:
        file = client.files.create(file=("train.jsonl", factories.TRAINING_LINES), purpose="fine-tune")
        assert [row.id for row in client.files.list()] == [file.id]


def test_a_conflict_is_not_tried_again(live, training_file):
    transport = Requests(lost=0)
    with impatient(live, transport) as client:
        client.fine_tuning.jobs.create(model="org/tiny", training_file=training_file)
        before = len(transport.retry_counts)
        with pytest.raises(openai.ConflictError) as caught:
            client.files.delete(training_file)
    assert caught.value.code == "file_in_use"
    assert len(transport.retry_counts) == before + 1


def test_a_big_upload_without_a_right_key_is_told_why(live, store):
    address, _ = live
    with (
        OpenAI(base_url=address, api_key="sk-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.files.create(file=("big.jsonl", b"x" * 50_000_000), purpose="fine-tune")
    assert caught.value.code == "invalid_api_key"
    assert not list(store.staging.iterdir())


def test_an_upload_over_the_limit_is_told_why(client, store):
    with pytest.raises(openai.APIStatusError) as caught:
        client.files.create(file=("big.jsonl", b"x" * 50_000_000), purpose="fine-tune")
    assert (caught.value.status_code, caught.value.code) == (413, "file_too_large")
    assert not list(store.staging.iterdir())


def test_the_document_is_one_that_a_client_can_be_made_from(live):
    address, _ = live
    document = httpx.get(address.replace("/v1", "/openapi.json")).json()
    text = json.dumps(document)
    assert document["openapi"].startswith("3.")
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}:
        assert reference in document["components"]["schemas"]
    form = document["paths"]["/v1/files"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["file", "purpose"]
    assert document["paths"]["/v1/files"]["get"]["security"]
