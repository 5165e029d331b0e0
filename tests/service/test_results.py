"""What jobs leave: models, adapters, evaluations."""

import socket
import time

import pytest
from starlette.testclient import TestClient

from app.api import health
from app.db.session import make_sessions, transaction
from app.domain.errors import NotFound
from app.services import adapters, base_models, workers
from tests import factories
from tests.service.conftest import error_of, make_app


@pytest.fixture
def version(session, project, store, base):
    row = factories.make_version(session, project=project, store=store)
    session.commit()
    return row


@pytest.fixture
def name(session, version):
    return session.get_one(factories.models.Adapter, version.adapter_id).name


def test_models_are_bases_and_versions(http, version, project, name):
    base, made = http.get("/v1/models").json()["data"]
    assert (base["id"], base["object"], base["owned_by"], base["context_tokens"]) == ("tiny", "model", "operator", 512)
    assert (made["id"], made["owned_by"], made["adapter"]) == (version.model_id, "acme", f"{name}:1")
    for model in (base, made):
        assert http.get(f"/v1/models/{model['id']}").json() == model


def test_a_model_id_may_have_slashes(http, session):
    factories.make_base_model(session, "org/model-1")
    session.commit()
    assert http.get("/v1/models/org%2Fmodel-1").json()["id"] == "org/model-1"


def test_a_removed_base_is_no_model(http, session, base):
    base_models.remove(session, "tiny")
    session.commit()
    assert http.get("/v1/models").json()["data"] == []
    assert error_of(http.get("/v1/models/tiny"), 404)["code"] == "model_not_found"


def test_a_base_model_is_not_the_clients_to_delete(http, base):
    assert error_of(http.delete("/v1/models/tiny"), 403)["type"] == "permission_error"


def test_deleting_a_model_takes_its_version_out_of_sight_and_keeps_its_number(http, version, name, session):
    adapter = session.get_one(factories.models.Adapter, version.adapter_id)
    project = session.get_one(factories.models.Project, adapter.project_id)
    second_job = factories.make_job(session, "succeeded", project=project)
    second = factories.make_version(session, project=project, adapter=adapter, job=second_job, version=2)
    session.commit()
    deleted = http.delete(f"/v1/models/{second.model_id}")
    assert deleted.json() == {"id": second.model_id, "object": "model", "deleted": True}
    assert error_of(http.get(f"/v1/models/{second.model_id}"), 404)
    assert error_of(http.get(f"/v1/adapters/{name}/versions/2"), 404)
    assert error_of(http.delete(f"/v1/models/{second.model_id}"), 404)
    shown = http.get(f"/v1/adapters/{name}").json()
    assert [row["version"] for row in shown["versions"]] == [1]
    assert http.get(f"/v1/fine_tuning/jobs/{second_job.id}").json()["fine_tuned_model"] == second.model_id


def test_of_two_who_delete_a_model_at_once_one_did(committed_sessions, monkeypatch):
    """Fault caught: whoever had found it before the other was done deleted it a second time."""
    with transaction(committed_sessions) as session:
        project = factories.make_project(session)
        model_id = factories.make_version(session, project=project).model_id
    with transaction(committed_sessions) as late:
        found = adapters.resolve(late, project.id, model_id)
        with transaction(committed_sessions) as early:
            adapters.delete_model(early, project.id, model_id)
        monkeypatch.setattr(adapters, "resolve", lambda *_: found)
        with pytest.raises(NotFound):
            adapters.delete_model(late, project.id, model_id)


def test_an_adapter_is_a_line_of_versions(http, version, name, session):
    [listed] = http.get("/v1/adapters").json()["data"]
    shown = http.get(f"/v1/adapters/{name}").json()
    assert shown == listed
    assert (shown["name"], shown["base_model"], shown["latest_version"]) == (name, "tiny", 1)
    [row] = shown["versions"]
    assert (row["model"], row["job_id"], row["parent_model"]) == (version.model_id, version.job_id, None)
    assert row["evaluation_id"].startswith("eval-")


def test_a_version_lists_its_files_and_its_parent(http, version, name, session, project):
    adapter = session.get_one(factories.models.Adapter, version.adapter_id)
    factories.make_version(
        session,
        project=project,
        adapter=adapter,
        version=2,
        parent_version_id=version.id,
        files={"b": b"12", "a": b"1"},
    )
    session.commit()
    shown = http.get(f"/v1/adapters/{name}/versions/2").json()
    assert [(file["path"], file["bytes"]) for file in shown["files"]] == [("a", 1), ("b", 2)]
    assert shown["parent_model"] == version.model_id


@pytest.mark.parametrize("path", ["", "/versions/1"])
def test_a_poller_that_has_the_adapter_is_not_sent_it_again(http, version, name, path):
    first = http.get(f"/v1/adapters/{name}{path}")
    again = http.get(f"/v1/adapters/{name}{path}", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304


def test_an_evaluation_is_for_programs_and_for_people(http, version, name):
    [summary] = http.get("/v1/evaluations").json()["data"]
    assert (summary["adapter"], summary["version"], summary["job_id"]) == (name, 1, version.job_id)
    assert "report" not in summary
    address = f"/v1/evaluations/{summary['id']}"
    shown = http.get(address, headers={"Accept": "application/json"})
    assert shown.json() == summary | {"report": {"suites": []}, "gate": None}
    page = http.get(address, headers={"Accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")
    assert page.text == "<!doctype html>"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["vary"] == shown.headers["vary"] == "Accept"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
        ("TEXT/HTML; charset=utf-8", "text/html"),
        ("text/*", "text/html"),
        ("*/*, text/html", "text/html"),
        ("application/json;q=0.5, text/html", "text/html"),
        ("application/json, text/html;q=0.9", "application/json"),
        ("application/json, text/html", "application/json"),
        ("text/html;q=0, */*", "application/json"),
        ("text/html;q=0", "application/json"),
        ("text/html;q=0, image/png", "application/json"),
        ("application/vnd.text/html+json", "application/json"),
        ("*/*", "application/json"),
        ("", "application/json"),
    ],
)
def test_an_evaluation_comes_as_it_is_preferred(http, version, accept, kind):
    """Fault caught: ``text/html`` anywhere in Accept was a page, also where it was excluded."""
    [summary] = http.get("/v1/evaluations").json()["data"]
    answer = http.get(f"/v1/evaluations/{summary['id']}", headers={"Accept": accept})
    assert answer.headers["content-type"].partition(";")[0] == kind


def test_healthz_touches_nothing(anonymous, monkeypatch, app):
    monkeypatch.setattr(app.state, "resources", None)
    assert anonymous.get("/healthz").json() == {"status": "ok"}
    assert anonymous.head("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("broken", "status", "checks"),
    [
        (None, 200, {}),
        ("workers", 200, {"workers": "warning"}),
        ("broker", 200, {"broker": "warning"}),
        ("store", 503, {"store": "failed"}),
        ("schema", 503, {"schema": "failed"}),
    ],
)
def test_readyz_names_what_is_missing(
    *, committed_sessions, store, broker, settings, monkeypatch, broken, status, checks
):
    def fail():
        raise OSError("gone")

    if broken == "broker":
        monkeypatch.setattr(broker, "ping", fail)
    elif broken == "store":
        monkeypatch.setattr(store, "check", fail)
    elif broken == "schema":
        monkeypatch.setattr(health, "is_at_head", lambda _: False)
    with committed_sessions.begin() as session:
        workers.report(session, workers.WorkerProcess("w1", "host", 1, "cpu"), draining=broken == "workers")
    http = TestClient(make_app(committed_sessions, store, broker, settings))
    response = http.get("/readyz")
    well = {"database": "ok", "schema": "ok", "store": "ok", "broker": "ok", "workers": "ok"}
    assert (response.status_code, response.json()["checks"]) == (status, well | checks)
    assert http.head("/readyz").status_code == status


def test_readyz_does_not_wait_for_a_database_that_hangs(store, broker, settings):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never says a word
        sessions = make_sessions(f"postgresql+psycopg://x@127.0.0.1:{silent.getsockname()[1]}/x", pool_size=2)
        started = time.monotonic()
        response = TestClient(make_app(sessions, store, broker, settings)).get("/readyz")
        assert (response.status_code, response.json()["checks"]["database"]) == (503, "failed")
        assert time.monotonic() - started < 4
