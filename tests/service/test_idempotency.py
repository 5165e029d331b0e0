"""A POST that is sent again has no second effect."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from app.db.models import File, IdempotencyKey, Job
from app.db.session import transaction
from app.services import idempotency
from app.services.idempotency import Sending
from tests import factories
from tests.service.conftest import OVERHEADS, error_of, make_app, make_tenant, upload

JOBS = "/v1/fine_tuning/jobs"


def count(sessions, table):
    with transaction(sessions) as session:
        return session.query(table).count()


@pytest.fixture
def post(http, base, file_id):
    def post(*, seed=1, **headers):
        body = {"model": "tiny", "training_file": file_id, "seed": seed}
        return http.post(JOBS, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return post


def test_the_same_key_gets_the_first_answer(post, sessions, broker):
    first, second = post(Idempotency_Key="k"), post(Idempotency_Key="k")
    assert (first.status_code, second.status_code) == (200, 200)
    assert second.json() == first.json()
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert count(sessions, Job) == len(broker.rung) == 1


def test_a_key_stands_for_one_body(post, sessions):
    post(Idempotency_Key="k")
    assert error_of(post(Idempotency_Key="k", seed=2), 422)["code"] == "idempotency_key_reused"
    assert count(sessions, Job) == 1


def test_a_key_stands_for_one_project_and_one_route(post, app, sessions, http):
    post(Idempotency_Key="k")
    assert upload(http, **{"Idempotency-Key": "k"}).status_code == 200
    other = make_tenant(app, sessions, "other")
    assert upload(other.http, **{"Idempotency-Key": "k"}).status_code == 200
    assert count(sessions, File) == 3


def test_an_error_is_not_kept(post, http, sessions):
    file_id = http.get("/v1/files").json()["data"][0]["id"]
    http.delete(f"/v1/files/{file_id}")
    assert error_of(post(Idempotency_Key="k"), 400)["code"] == "file_not_found"
    with transaction(sessions) as session:
        session.get_one(File, file_id).deleted_at = None
    assert post(Idempotency_Key="k").status_code == 200


def test_a_key_is_forgotten_after_a_day(post, sessions):
    post(Idempotency_Key="k")
    with transaction(sessions) as session:
        session.query(IdempotencyKey).filter_by(key="k").update({"expires_at": datetime.now(UTC)})
    assert "idempotent-replayed" not in post(Idempotency_Key="k", seed=2).headers
    assert count(sessions, Job) == 2


def test_expired_answers_are_cleared_away(post, sessions):
    post(Idempotency_Key="old")
    with transaction(sessions) as session:
        session.query(IdempotencyKey).update({"expires_at": datetime.now(UTC) - timedelta(seconds=1)})
    post(Idempotency_Key="new")
    with transaction(sessions) as session:
        assert "old" not in {row.key for row in session.query(IdempotencyKey)}


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\xff"])
def test_an_unusable_key_is_refused(post, key):
    assert error_of(post(Idempotency_Key=key.encode("latin-1")), 400)["param"] == "Idempotency-Key"


def test_a_retry_of_the_unmodified_client_gets_the_first_answer(post, sessions):
    first = post(x_stainless_retry_count="0")
    for retry in "12":
        again = post(x_stainless_retry_count=retry)
        assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    assert count(sessions, Job) == 1


def test_a_retry_of_what_was_cancelled_since_acts_and_a_key_still_gets_its_answer(post, http, sessions):
    """Fault caught: a client got a job as queued that was cancelled by then, and waited for it."""
    first, keyed = post(), post(Idempotency_Key="k")
    for job in (first, keyed):
        http.post(f"{JOBS}/{job.json()['id']}/cancel")
    retried = post(x_stainless_retry_count="1")
    assert retried.json()["id"] != first.json()["id"]
    assert "idempotent-replayed" not in retried.headers
    assert post(x_stainless_retry_count="2").json() == retried.json()
    assert post(Idempotency_Key="k").json() == keyed.json()
    assert count(sessions, Job) == 3


def test_a_retry_of_what_was_deleted_since_acts(http):
    """Fault caught: a client got a file that no route knew any more."""
    first = upload(http).json()["id"]
    http.delete(f"/v1/files/{first}")
    again = upload(http, **{"x-stainless-retry-count": "1"}).json()["id"]
    assert again != first
    assert http.get(f"/v1/files/{again}").status_code == 200


def test_a_first_try_is_never_taken_for_another(post, sessions):
    ids = {post(x_stainless_retry_count="0").json()["id"] for _ in range(2)} | {post().json()["id"]}
    assert len(ids) == count(sessions, Job) == 3
    assert post(x_stainless_retry_count="1").json()["id"] in ids


def test_a_retry_whose_first_try_was_never_seen_acts(post, sessions):
    assert "idempotent-replayed" not in post(x_stainless_retry_count="1").headers
    assert count(sessions, Job) == 1


def test_a_retry_is_not_remembered_for_ever(post, sessions):
    post(x_stainless_retry_count="0")
    with transaction(sessions) as session:
        [row] = session.query(IdempotencyKey).filter(IdempotencyKey.route == f"POST {JOBS}")
        assert row.expires_at - row.created_at == timedelta(minutes=10)
        row.expires_at = datetime.now(UTC)
    post(x_stainless_retry_count="1")
    assert count(sessions, Job) == 2


def test_an_upload_is_known_by_its_content_not_by_its_boundary(http, sessions):
    first = upload(http)
    again = upload(http, **{"x-stainless-retry-count": "1"})
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    renamed = upload(http, filename="other.jsonl", **{"x-stainless-retry-count": "1"})
    assert renamed.json()["id"] != first.json()["id"]
    assert count(sessions, File) == 2


def test_while_the_first_is_being_served_the_second_is_told_to_wait(committed_sessions):
    with transaction(committed_sessions) as session:
        project = factories.make_project(session)
    sending = Sending(project.id, "POST /x", "key-1", "k", 0)
    in_act, may_end = threading.Event(), threading.Event()

    def act():
        in_act.set()
        assert may_end.wait(20)
        return {"n": 1}

    def serve_first():
        with transaction(committed_sessions) as session:
            idempotency.answer_once(session, sending, "digest", act, stands=bool)

    first = threading.Thread(target=serve_first)
    first.start()
    assert in_act.wait(20)
    with pytest.raises(idempotency.InProgress), transaction(committed_sessions) as session:
        idempotency.answer_once(session, sending, "digest", act, stands=bool)
    may_end.set()
    first.join()
    with transaction(committed_sessions) as session:
        assert idempotency.answer_once(session, sending, "digest", act, stands=bool).replayed


def test_many_at_once_with_one_key_make_one_job(committed_sessions, store, broker, settings):
    app = make_app(committed_sessions, store, broker, settings)
    tenant = make_tenant(app, committed_sessions, "acme")
    with transaction(committed_sessions) as session:
        factories.make_base_model(session, overheads=OVERHEADS)
    file_id = upload(tenant.http).json()["id"]
    answers = []

    def post():
        for _ in range(100):
            response = tenant.http.post(
                JOBS, json={"model": "tiny", "training_file": file_id}, headers={"Idempotency-Key": "k"}
            )
            if response.status_code != 409:
                answers.append(response.json()["id"])
                return
            assert response.headers["retry-after"] == "1"
            assert "x-should-retry" not in response.headers

    threads = [threading.Thread(target=post) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(answers), len(set(answers)), broker.rung) == (12, 1, answers[:1])
    assert count(committed_sessions, Job) == 1


def test_the_document_shows_the_key_for_all_that_takes_it(app):
    """Fault caught: it was told of in the description of jobs alone."""
    shown = {
        (verb, path)
        for path, verbs in app.openapi()["paths"].items()
        for verb, operation in verbs.items()
        for parameter in operation.get("parameters", [])
        if (parameter["in"], parameter["name"]) == ("header", "idempotency-key")
    }
    assert shown == {("post", "/v1/files"), ("post", "/v1/fine_tuning/jobs"), ("post", "/v1/evaluations")}
