"""Files that take long to read and count: nobody holds the database meanwhile, nor misses what happens."""

import hashlib
import json
import threading
import time
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from app.db.models import Job
from app.db.session import transaction
from app.services.base_models import TokenCounter
from app.storage.store import Store, StoredBlob
from tests import factories
from tests.service.conftest import OVERHEADS, error_of, make_app, make_tenant, upload

JOBS = "/v1/fine_tuning/jobs"
FEW_LONG_WORDS = b"".join(
    json.dumps({"prompt": f"{'p' * 120}{number}", "completion": "c" * 120}).encode() + b"\n" for number in range(12)
)


@pytest.fixture
def tenant(committed_sessions, store, broker, settings):
    with transaction(committed_sessions) as session:
        words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = factories.make_blob(session, words.to_str().encode(), store=store)
        factories.make_base_model(session, tokenizer_sha256=tokenizer.sha256, overheads=OVERHEADS, context_tokens=350)
    return make_tenant(make_app(committed_sessions, store, broker, settings), committed_sessions, "acme")


@pytest.fixture
def counted(monkeypatch):
    """What is counted, and something to do before."""
    texts, before = [], [lambda: None]
    count = TokenCounter.text

    def text(self, text):
        before[0]()
        texts.append(text)
        return count(self, text)

    monkeypatch.setattr(TokenCounter, "text", text)
    return texts, before


def num_jobs(sessions):
    with transaction(sessions) as session:
        return session.query(Job).count()


@pytest.mark.parametrize("path", [JOBS, f"{JOBS}/estimate", "/v1/files/{}/validation"])
def test_no_connection_is_held_while_a_file_is_read_and_counted(tenant, committed_sessions, counted, monkeypatch, path):
    file_id = upload(tenant.http, FEW_LONG_WORDS).json()["id"]
    pool = committed_sessions.kw["bind"].pool
    held = []
    read = Store.read

    def noted_read(self, *arguments):
        held.append(pool.checkedout())
        return read(self, *arguments)

    monkeypatch.setattr(Store, "read", noted_read)
    texts, before = counted
    before[0] = lambda: held.append(pool.checkedout())
    if path.startswith(JOBS):
        response = tenant.http.post(path, json={"model": "tiny", "training_file": file_id})
    else:
        response = tenant.http.get(path.format(file_id))
    assert response.status_code == 200
    assert len(held) > len(texts) > 12
    assert set(held) == {0}


def test_past_files_of_an_estimate_are_read_without_a_connection_too(tenant, committed_sessions, counted):
    file_id = upload(tenant.http, FEW_LONG_WORDS).json()["id"]
    body = {"model": "tiny", "training_file": file_id}
    config = tenant.http.post(f"{JOBS}/estimate", json=body).json()["hyperparameters"]
    with transaction(committed_sessions) as session:
        job = factories.make_job(
            session, "succeeded", project=tenant.project, fence=1, started_at=datetime.now(UTC),
            training_file=session.get_one(factories.models.File, file_id),
            resolved=config | {"method": "sdft", "seed": 1},
        )  # fmt: skip
        report = {
            "suites": [],
            "method": {},
            "cost": {
                "seconds": {"training": 1, "evaluation_answers": 1}, "trained_tokens": 1, "peak_memory_bytes": None,
            },
            "provenance": {"hardware": {}},
        }  # fmt: skip
        factories.make_version(session, project=tenant.project, job=job, report=report)
    texts, before = counted
    texts.clear()
    held, pool = [], committed_sessions.kw["bind"].pool
    before[0] = lambda: held.append(pool.checkedout())
    assert tenant.http.post(f"{JOBS}/estimate", json=body).json()["calibrated_on"] == 1
    assert set(held) == {0}


def test_a_file_deleted_while_it_is_counted_is_no_longer_there(tenant, committed_sessions, counted, broker):
    file_id = upload(tenant.http, FEW_LONG_WORDS).json()["id"]
    _, before = counted

    def delete():
        before[0] = lambda: None
        assert tenant.http.delete(f"/v1/files/{file_id}").status_code == 200

    before[0] = delete
    error = error_of(tenant.http.post(JOBS, json={"model": "tiny", "training_file": file_id}), 400)
    assert (error["code"], error["param"]) == ("file_not_found", "training_file")
    assert (num_jobs(committed_sessions), broker.rung) == (0, [])


def test_a_repeated_request_is_answered_without_counting_again(tenant, counted):
    file_id = upload(tenant.http, FEW_LONG_WORDS).json()["id"]
    texts, _ = counted

    def post(seed=None):
        body = {"model": "tiny", "training_file": file_id, "seed": seed}
        return tenant.http.post(JOBS, json=body, headers={"Idempotency-Key": "k"})

    first = post()
    tenant.http.post(f"{JOBS}/{first.json()['id']}/cancel")
    assert tenant.http.delete(f"/v1/files/{file_id}").status_code == 200
    assert texts
    texts.clear()
    again = post()
    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    assert error_of(post(seed=1), 422)["code"] == "idempotency_key_reused"
    assert not texts


def test_a_request_that_is_repeated_while_its_file_is_counted_makes_one_job(
    tenant, committed_sessions, counted, broker
):
    file_id = upload(tenant.http, FEW_LONG_WORDS).json()["id"]
    responses, (_, before) = [], counted

    def post():
        body = {"model": "tiny", "training_file": file_id}
        responses.append(tenant.http.post(JOBS, json=body, headers={"Idempotency-Key": "k"}))

    def repeat():
        before[0] = lambda: None
        post()

    before[0] = repeat
    post()
    second, first = responses
    assert (first.status_code, first.json()) == (200, second.json())
    assert [response.headers.get("idempotent-replayed") for response in responses] == [None, "true"]
    assert (num_jobs(committed_sessions), broker.rung) == (1, [first.json()["id"]])


def test_a_file_is_counted_once_for_each_base(tenant, committed_sessions, counted):
    """Fault caught: each look at a large file's figures took minutes."""
    file_id = upload(tenant.http, FEW_LONG_WORDS).json()["id"]
    texts, _ = counted

    def look():
        texts.clear()
        return tenant.http.get(f"/v1/files/{file_id}/validation").json()["stats"]["tokens"], len(texts)

    first, num_counted = look()
    assert num_counted == 24
    assert look() == (first, 0)
    with transaction(committed_sessions) as session:
        session.get_one(factories.models.BaseModel, "tiny").overheads = OVERHEADS | {"conversation": 9}
    changed, again = look()
    assert (again, changed["tiny"]["prompt"]["max"]) == (24, first["tiny"]["prompt"]["max"] + 5)


def test_while_a_long_text_is_counted_other_threads_run(store):
    """Fault caught: for two seconds a megabyte nobody else was answered."""
    letters = {chr(number): number for number in range(97, 123)}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    raw = tokenizer.to_str().encode()
    factories.store_bytes(store, raw)
    counter = TokenCounter(store, StoredBlob(hashlib.sha256(raw).hexdigest(), len(raw)), {})
    counter.text("a")
    text, lived, stopping = "abcdefgh" * 60_000, [time.monotonic()], threading.Event()

    def live():
        while not stopping.wait(0.002):
            lived.append(time.monotonic())

    other = threading.Thread(target=live)
    other.start()
    started = time.monotonic()
    assert counter.text(text) == len(text)
    ended = time.monotonic()
    stopping.set()
    other.join()
    longest = max(after - before for before, after in pairwise([*lived, time.monotonic()]))
    assert longest < (ended - started) / 2


def test_only_examples_that_may_be_too_long_are_counted(tenant, counted):
    long = json.dumps({"prompt": "long " + "p" * 115, "completion": "c" * 120}).encode()
    file_id = upload(tenant.http, factories.TRAINING_LINES + b"\n" + long + b"\n").json()["id"]
    assert tenant.http.post(JOBS, json={"model": "tiny", "training_file": file_id}).status_code == 200
    texts, _ = counted
    assert set(texts) == {"long " + "p" * 115, "c" * 120}
