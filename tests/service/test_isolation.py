"""Tenants never see each other: another project's id looks like one that does not exist."""

import re

import pytest

from app.services.access import create_key
from tests import factories
from tests.service.conftest import error_of, make_tenant, upload

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def theirs(session, tenant, base, store):
    """One of everything, of another project: names of path parameters and their values."""
    other = factories.make_project(session)
    version = factories.make_version(session, project=other, store=store)
    job = session.get_one(factories.models.Job, version.job_id)
    checkpoint = factories.make_checkpoint(session, job, 5, store=store)
    event = factories.make_event(session, job)
    evaluation = session.query(factories.models.Evaluation).filter_by(version_id=version.id).one()
    entry = factories.make_alias(session, version, "production").moved_by
    session.commit()
    return {
        "file_id": job.training_file_id,
        "job_id": job.id,
        "model": version.model_id,
        "name": job.adapter_name,
        "version": "1",
        "path": "adapter_config.json",
        "evaluation_id": evaluation.id,
        "alias": "production",
        "audit_log": entry,
        "checkpoint": checkpoint.id,
        "event": event.id,
        "archive": version.archive_file_id,
    }


UNKNOWN = {
    "file_id": "file-" + "0" * 32,
    "job_id": "ftjob-" + "0" * 32,
    "model": "ft:tiny:acme:nothing:00000000",
    "name": "nothing",
    "version": "1",
    "path": "adapter_config.json",
    "evaluation_id": "eval-" + "0" * 32,
    "alias": "production",
    "audit_log": "audit-" + "0" * 32,
}

BODIES = {"PUT": {"version": 1}}


def refusal(http, verb, path, names):
    filled = re.sub(r"{(\w+)}", lambda match: names[match[1]], path)
    response = http.request(verb, filled, json=BODIES.get(verb))
    return error_of(response, 404) if verb != "HEAD" else response.status_code


def test_every_route_with_an_id_answers_as_for_an_unknown_one(app, http, theirs):
    routes = [(verb.upper(), path) for path, verbs in app.openapi()["paths"].items() for verb in verbs if "{" in path]
    routes += [("HEAD", path) for _, path in routes if path.endswith(("/content", "/archive", "/files/{path}"))]
    assert len(routes) > 15
    for verb, path in routes:
        assert refusal(http, verb, path, theirs) == refusal(http, verb, path, UNKNOWN), (verb, path)


@pytest.mark.parametrize(
    ("field", "thing", "prefix"),
    [
        ("training_file", "file_id", ""),
        ("validation_file", "file_id", ""),
        ("parent_adapter", "model", ""),
        ("parent_adapter", "name", ":1"),
    ],
)
def test_an_id_in_a_body_answers_as_an_unknown_one(*, http, file_id, theirs, field, thing, prefix):
    def refusal(names):
        body = {"model": "tiny", "training_file": file_id, field: names[thing] + prefix}
        return error_of(http.post(JOBS, json=body), 400)

    assert refusal(theirs) == refusal(UNKNOWN)


@pytest.mark.parametrize(
    ("path", "thing"),
    [
        ("/v1/files", "file_id"),
        (JOBS, "job_id"),
        ("/v1/evaluations", "evaluation_id"),
        ("/v1/audit_logs", "audit_log"),
    ],
)
def test_an_id_as_a_cursor_answers_as_an_unknown_one(http, theirs, path, thing):
    def refusal(names):
        return error_of(http.get(path, params={"after": names[thing]}), 400)

    assert refusal(theirs) == refusal(UNKNOWN)


def test_cursors_of_another_job_are_unknown(http, session, project, theirs):
    job = factories.make_job(session, project=project)
    session.commit()
    for path, thing in (("events", "event"), ("checkpoints", "checkpoint")):
        response = http.get(f"{JOBS}/{job.id}/{path}", params={"after": theirs[thing]})
        assert error_of(response, 400)["code"] == "unknown_cursor"


def test_lists_hold_nothing_of_another_project(http, theirs):
    for path in ("/v1/files", JOBS, "/v1/adapters", "/v1/evaluations", "/v1/audit_logs"):
        assert http.get(path).json()["data"] == []
    assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["tiny"]


def test_two_projects_may_have_adapters_of_one_name(http, base, file_id, theirs):
    response = http.post(JOBS, json={"model": "tiny", "training_file": file_id, "suffix": theirs["name"]})
    assert response.status_code == 200


def test_two_keys_of_one_project_share_it(app, sessions, session, http, file_id):
    second = make_tenant(app, sessions, "acme")
    assert second.http.get(f"/v1/files/{file_id}").status_code == 200


@pytest.mark.parametrize("name", ["", "Acme", "a:b", "a/b", "-a", "a" * 64])
def test_a_project_has_a_name_that_fits_into_a_model_id(session, name):
    from app.domain.errors import Invalid

    with pytest.raises(Invalid):
        create_key(session, project=name, name="x")


def test_no_column_of_a_job_can_be_set_from_outside(http, base, file_id):
    for column in factories.models.Job.__table__.columns:
        if column.name in ("seed", "suffix", "hyperparameters", "method", "gate", "evaluation", "compare"):
            continue
        body = {"model": "tiny", "training_file": file_id, column.name: "x"}
        assert error_of(http.post(JOBS, json=body), 400)["code"] == "unknown_parameter"
    assert upload(http).status_code == 200
