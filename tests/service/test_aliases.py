"""Aliases: they move on a passed gate or by an override, under a precondition, and every move is on record."""

import pytest

from app.db.clock import NOW
from app.services.access import authenticate
from tests import factories
from tests.service.conftest import error_of, upload

ALIAS = "/v1/adapters/lamps/aliases/production"
PASSED = {"verdict": "pass"}


@pytest.fixture
def line(session, project, store, base):
    """Two versions that passed their gates, one that failed, one of a job without a gate, one that nobody can judge."""
    versions = []
    for gate in (PASSED, PASSED, {"verdict": "fail"}, None, {"verdict": "insufficient_evidence"}):
        job = factories.make_job(session, "succeeded", project=project, adapter_name="lamps")
        adapter = versions and session.get_one(factories.models.Adapter, versions[0].adapter_id)
        version = factories.make_version(
            session,
            project=project,
            adapter=adapter or None,
            job=job,
            store=store,
            version=len(versions) + 1,
            gate=gate,
        )
        versions.append(version)
    session.commit()
    return versions


def log(http):
    return http.get("/v1/audit_logs").json()["data"]


def test_an_alias_moves_to_a_version_that_passed(http, line, tenant, session):
    moved = http.put(ALIAS, json={"version": 1})
    assert moved.status_code == 200
    body = moved.json()
    assert (body["object"], body["adapter"], body["alias"]) == ("adapter.alias", "lamps", "production")
    assert (body["version"], body["model"]) == (1, line[0].model_id)
    assert http.get(ALIAS).json() == body
    http.put(ALIAS, json={"version": 2, "reason": "Better at lamps."})
    assert http.get(ALIAS).json()["version"] == 2
    second, first = log(http)
    assert (first["action"], first["subject"]) == ("alias.moved", "lamps@production")
    assert first["id"] == body["audit_log_id"]
    assert first["actor"] == authenticate(session, tenant.secret).key_id
    assert first["details"] == {
        "from_version": None, "to_version": 1, "verdict": "pass", "override": False, "reason": None,
    }  # fmt: skip
    assert second["details"] == {
        "from_version": 1, "to_version": 2, "verdict": "pass", "override": False, "reason": "Better at lamps.",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("version", "why"), [(3, "with fail"), (4, "without a gate"), (5, "with insufficient evidence,")]
)
def test_an_alias_does_not_move_to_a_version_that_passed_no_gate(http, line, version, why):
    http.put(ALIAS, json={"version": 1})
    refused = http.put(ALIAS, json={"version": version})
    error = error_of(refused, 409)
    assert error["code"] == "gate_not_passed"
    assert why in error["message"]
    assert "override" in error["message"]
    assert refused.headers["x-should-retry"] == "false"
    assert http.get(ALIAS).json()["version"] == 1
    assert len(log(http)) == 1


def test_an_override_moves_it_and_is_on_record_with_its_reason(http, line):
    http.put(ALIAS, json={"version": 3, "override": True, "reason": "The suite is wrong."})
    assert http.get(ALIAS).json()["version"] == 3
    [entry] = log(http)
    assert entry["details"] == {
        "from_version": None, "to_version": 3, "verdict": "fail", "override": True, "reason": "The suite is wrong.",
    }  # fmt: skip


def test_to_where_it_points_already_is_no_move(http, line):
    first = http.put(ALIAS, json={"version": 1})
    again = http.put(ALIAS, json={"version": 1})
    assert again.headers["etag"] == first.headers["etag"]
    assert len(log(http)) == 1


def test_of_two_who_saw_the_same_alias_one_moves_it(http, line):
    seen = http.put(ALIAS, json={"version": 1}).headers["etag"]
    assert http.get(ALIAS).headers["etag"] == seen
    assert http.put(ALIAS, json={"version": 2}, headers={"If-Match": seen}).status_code == 200
    error = error_of(http.put(ALIAS, json={"version": 1}, headers={"If-Match": seen}), 412)
    assert (error["code"], http.get(ALIAS).json()["version"]) == ("alias_moved", 2)
    assert "read it again" in error["message"]
    error_of(http.delete(ALIAS, headers={"If-Match": seen}), 412)
    # There and back is a move too.
    http.put(ALIAS, json={"version": 1})
    error_of(http.put(ALIAS, json={"version": 2}, headers={"If-Match": seen}), 412)
    now = http.get(ALIAS).headers["etag"]
    assert http.put(ALIAS, json={"version": 2}, headers={"If-Match": f'"other", {now}'}).status_code == 200


def test_conditions_without_an_alias(http, line):
    for asked in ("*", '"audit-0"', "W/*"):
        error_of(http.put(ALIAS, json={"version": 1}, headers={"If-Match": asked}), 412)
    only_new = {"If-None-Match": "*"}
    assert http.put(ALIAS, json={"version": 1}, headers=only_new).status_code == 200
    error_of(http.put(ALIAS, json={"version": 2}, headers=only_new), 412)
    assert http.put(ALIAS, json={"version": 2}, headers={"If-Match": "*"}).status_code == 200
    weak = {"If-Match": f"W/{http.get(ALIAS).headers['etag']}"}
    error_of(http.put(ALIAS, json={"version": 1}, headers=weak), 412)
    error = error_of(http.put(ALIAS, json={"version": 1}, headers={"If-None-Match": '"a"'}), 400)
    assert (error["code"], error["param"]) == ("invalid_value", "If-None-Match")
    assert "If-Match" in error["message"]


def test_an_alias_that_was_to_be_new_is_said_to_exist_and_not_to_have_moved(http, line):
    http.put(ALIAS, json={"version": 1})
    http.put(ALIAS, json={"version": 2})
    only_new = {"If-None-Match": "*"}
    for headers in (only_new, only_new | {"If-Match": http.get(ALIAS).headers["etag"]}):
        for response in (http.put(ALIAS, json={"version": 1}, headers=headers), http.delete(ALIAS, headers=headers)):
            message = error_of(response, 412)["message"]
            assert "exists already and points at version 2" in message
            assert "its ETag in If-Match instead" in message
            assert "moved" not in message


@pytest.mark.parametrize("asked", ["*", '"3"', f'"audit-{"0" * 32}"'])
def test_who_expects_an_alias_that_is_not_there_is_told_how_to_make_it(http, line, asked):
    """Fault caught: nobody can read it again and send the ETag of that."""
    error = error_of(http.put(ALIAS, json={"version": 1}, headers={"If-Match": asked}), 412)
    assert error["code"] == "alias_moved"
    assert "lamps@production does not exist" in error["message"]
    assert "leave If-Match out to make it" in error["message"]
    assert "read it again" not in error["message"]


@pytest.mark.parametrize("asked", ["3", '"3"', "lamps:1", '"audit-0"', "W/*"])
def test_what_is_no_etag_of_an_alias_is_told_so_and_not_that_the_alias_has_moved(http, line, asked):
    http.put(ALIAS, json={"version": 1})
    for response in (
        http.put(ALIAS, json={"version": 2}, headers={"If-Match": asked}),
        http.delete(ALIAS, headers={"If-Match": asked}),
    ):
        error = error_of(response, 412)
        assert (error["code"], error["param"]) == ("invalid_etag", "If-Match")
        assert "has moved" not in error["message"]
        assert "with its quotes" in error["message"]


def test_a_star_in_quotes_is_a_tag_like_any_other_and_not_the_wildcard(http, line):
    http.put(ALIAS, json={"version": 1})
    for tags in ('"*"', 'W/"*"', '"other", "*"'):
        error_of(http.put(ALIAS, json={"version": 2}, headers={"If-Match": tags}), 412)
        error_of(http.delete(ALIAS, headers={"If-Match": tags}), 412)
    assert http.put(ALIAS, json={"version": 2}, headers={"If-Match": " * "}).status_code == 200


def test_a_removed_alias_is_gone_and_on_record(http, line):
    http.put(ALIAS, json={"version": 1})
    gone = http.delete(ALIAS).json()
    assert gone == {"id": "lamps@production", "object": "adapter.alias", "deleted": True}
    error = error_of(http.get(ALIAS), 404)
    assert error["code"] == "alias_not_found"
    assert "retrieve the adapter" in error["message"]
    error_of(http.delete(ALIAS), 404)
    assert [(entry["action"], entry["details"]["from_version"]) for entry in log(http)] == [
        ("alias.removed", 1),
        ("alias.moved", None),
    ]


def test_why_an_alias_was_removed_is_on_record(http, line):
    http.put(ALIAS, json={"version": 1})
    for reason in ("x" * 501, " ", "\u200b\u2060"):
        assert error_of(http.delete(ALIAS, params={"reason": reason}), 400)["param"] == "reason"
    assert http.delete(ALIAS, params={"reason": "It answers in French."}).status_code == 200
    assert log(http)[0]["details"] == {"from_version": 1, "to_version": None, "reason": "It answers in French."}


@pytest.mark.parametrize(
    ("body", "code", "param", "fix"),
    [
        ({}, "missing_required_parameter", "version", "version"),
        ({"version": 0}, "invalid_value", "version", "1"),
        ({"version": "1"}, "invalid_value", "version", "whole number"),
        ({"version": 3, "override": True}, "invalid_value", "", "add reason"),
        ({"version": 3, "override": True, "reason": "  "}, "invalid_value", "reason", "no text"),
        ({"version": 3, "override": True, "reason": "\u200b"}, "invalid_value", "reason", "no text"),
        ({"version": 1, "force": True}, "unknown_parameter", "force", "there are"),
        ({"version": 1, "reasn": "x"}, "unknown_parameter", "reasn", "reason"),
    ],
)
def test_a_move_that_cannot_be_is_refused_with_what_it_takes(*, http, line, body, code, param, fix):
    error = error_of(http.put(ALIAS, json=body), 400)
    assert (error["code"], error["param"] or "") == (code, param)
    assert fix in error["message"]


@pytest.mark.parametrize("name", ["Production", "3", "a@b", "a" * 33, "1a"])
def test_an_alias_has_a_name_that_is_no_number(http, line, name):
    error = error_of(http.put(f"/v1/adapters/lamps/aliases/{name}", json={"version": 1}), 400)
    assert (error["code"], error["param"]) == ("invalid_value", "alias")
    assert "[a-z]" in error["message"]


def test_an_alias_points_at_no_version_that_is_not_there(http, line, session):
    assert error_of(http.put(ALIAS, json={"version": 9}), 404)["code"] == "version_not_found"
    line[1].deleted_at = NOW
    session.commit()
    error_of(http.put(ALIAS, json={"version": 2}), 404)
    assert error_of(http.put("/v1/adapters/other/aliases/production", json={"version": 1}), 404)["code"] == (
        "adapter_not_found"
    )


def test_a_version_that_an_alias_points_at_is_not_deleted(http, line):
    http.put(ALIAS, json={"version": 1})
    for called in (line[0].model_id, "lamps:1", "lamps@production"):
        error = error_of(http.delete(f"/v1/models/{called}"), 409)
        assert error["code"] == "model_in_use"
        assert "lamps@production" in error["message"]
    http.put(ALIAS, json={"version": 2})
    assert http.delete(f"/v1/models/{line[0].model_id}").status_code == 200


def test_an_alias_stands_wherever_a_version_may(*, http, line, base, session, project):
    factories.make_alias(session, factories.make_version(session, project=project), "production")
    session.commit()
    http.put(ALIAS, json={"version": 2})
    http.put("/v1/adapters/lamps/aliases/canary", json={"version": 2})
    by_number = http.get("/v1/adapters/lamps/versions/2").json()
    assert by_number["aliases"] == ["canary", "production"]
    assert http.get("/v1/adapters/lamps/versions/production").json() == by_number
    assert http.get("/v1/adapters/lamps/versions/production/archive").content == b"a tar"
    assert http.get("/v1/adapters/lamps/versions/canary/files/adapter_config.json").content == b"{}"
    model = http.get("/v1/models/lamps@production").json()
    assert (model["id"], model["aliases"]) == (line[1].model_id, ["lamps@canary", "lamps@production"])
    assert http.get("/v1/models/lamps:2").json() == model
    listed = {model["id"]: model["aliases"] for model in http.get("/v1/models").json()["data"]}
    assert listed[line[0].model_id] == []
    assert listed[line[1].model_id] == ["lamps@canary", "lamps@production"]
    body = {"model": "tiny", "training_file": upload(http).json()["id"], "parent_adapter": "lamps@production"}
    job = http.post("/v1/fine_tuning/jobs", json=body).json()
    assert (job["adapter"]["name"], job["status"]) == ("lamps", "queued")
    events = http.get(f"/v1/fine_tuning/jobs/{job['id']}/events").json()["data"]
    assert "from lamps:2" in events[-1]["message"]


@pytest.mark.parametrize(
    "reference", ["lamps@nothing", "lamps:production", "lamps@2", "@production", "lamps@", "lamps"]
)
def test_what_names_no_version_is_no_parent(http, line, base, reference):
    http.put(ALIAS, json={"version": 2})
    body = {"model": "tiny", "training_file": upload(http).json()["id"], "parent_adapter": reference}
    error = error_of(http.post("/v1/fine_tuning/jobs", json=body), 400)
    assert (error["code"], error["param"]) == ("parent_not_found", "parent_adapter")
    assert "my-adapter@production" in error["message"]
    assert error_of(http.get(f"/v1/models/{reference}"), 404)["code"] == "model_not_found"
