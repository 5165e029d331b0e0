"""Evaluations asked for by themselves: what may be asked, how they stand, and that they are no training jobs."""

import json

import pytest
from sqlalchemy import event

from app.services import estimates, publishing, runs
from app.services.publishing import EvaluationResults
from app.storage.store import StoredBlob
from tests import factories
from tests.service.conftest import error_of, make_tenant
from tests.service.test_suites import upload_suite

EVALUATIONS = "/v1/evaluations"
UNKNOWN_FILE = "file-" + "0" * 32
LINE = ("lamps:1", "lamps:2")
HELDOUT = b'{"messages": []}\n'


@pytest.fixture
def line(session, project, base):
    """lamps:1 and lamps:2 on top of it, both with held-out questions; bare:1 without any."""
    versions = []
    for name, heldout in (("lamps", HELDOUT), ("lamps", HELDOUT), ("bare", None)):
        above = versions[-1] if versions and heldout else None
        versions.append(
            factories.make_version(
                session,
                project=project,
                adapter=above and session.get_one(factories.models.Adapter, above.adapter_id),
                job=factories.make_job(session, "succeeded", project=project, adapter_name=name),
                version=2 if above else 1,
                parent_version_id=above and above.id,
                heldout=heldout,
            )
        )
    session.commit()
    return versions


def post(http, **body):
    return http.post(EVALUATIONS, json=body)


def test_a_posted_evaluation_waits_and_a_worker_is_rung_for(http, line, broker, session):
    shown = post(http, version="lamps:2").json()
    assert shown == {
        "id": shown["id"],
        "object": "evaluation",
        "created_at": shown["created_at"],
        "finished_at": None,
        "status": "queued",
        "phase": "waiting",
        "progress": {"done": None, "total": None},
        "error": None,
        "job_id": None,
        "adapter": "lamps",
        "version": 2,
        "against": "lamps:1",
        "suites": ["lamps:2", "lamps:1", "general"],
        "scorer": None,
        "report": None,
        "gate": None,
    }
    [job] = session.query(factories.models.Job).filter_by(kind="evaluation")
    assert broker.rung == [job.id]
    assert http.get(f"{EVALUATIONS}/{shown['id']}").json() == shown
    listed = http.get(EVALUATIONS).json()["data"][0]
    assert listed == {name: value for name, value in shown.items() if name not in {"report", "gate"}}


def num_queries(session, ask):
    queries = []

    def note(connection, cursor, statement, *_):
        queries.append(statement)

    event.listen(session.connection(), "before_cursor_execute", note)
    assert ask().status_code == 200
    event.remove(session.connection(), "before_cursor_execute", note)
    return len(queries)


def test_a_page_takes_as_many_queries_as_one_evaluation(http, line, session):
    for version in ("lamps:1", "lamps:2", "bare:1"):
        post(http, version=version, against="lamps:2" if version != "lamps:2" else "bare:1", suites=["general"])
    assert len(http.get(EVALUATIONS).json()["data"]) == 6
    counts = [
        num_queries(session, lambda limit=limit: http.get(EVALUATIONS, params={"limit": limit})) for limit in (1, 2, 6)
    ]
    assert counts == [counts[0]] * 3
    assert counts[0] > 2


def test_a_long_lineage_takes_as_many_queries_as_a_short_one(http, line, session):
    http.get(EVALUATIONS)  # the first use of a key is noted
    counts = [num_queries(session, lambda name=name: post(http, version=name, against="base")) for name in LINE]
    assert counts[0] == counts[1] > 2


def test_it_is_no_training_job(http, line, session):
    before = http.get("/v1/fine_tuning/jobs").json()["data"]
    post(http, version="lamps:2")
    [job] = session.query(factories.models.Job).filter_by(kind="evaluation")
    assert http.get("/v1/fine_tuning/jobs").json()["data"] == before
    for verb, path in (("GET", ""), ("POST", "/cancel"), ("GET", "/events"), ("GET", "/checkpoints")):
        error = error_of(http.request(verb, f"/v1/fine_tuning/jobs/{job.id}{path}"), 404)
        assert error["code"] == "job_not_found"
    assert error_of(http.get("/v1/fine_tuning/jobs", params={"after": job.id}), 400)["code"] == "unknown_cursor"


def test_an_estimate_counts_what_a_versions_own_job_asked_and_nothing_twice(http, line, session):
    post(http, version="lamps:2")
    [own] = session.query(factories.models.Evaluation).filter_by(job_id=line[1].job_id)
    own.report = {"suites": [{"role": "skill", "n": 8}, {"role": "earlier", "n": 5}]}
    session.commit()
    assert estimates._num_earlier(session, line[1].id) == 8


@pytest.mark.parametrize(
    ("asked", "against", "suites"),
    [
        ({"version": "lamps:1"}, None, ["lamps:1", "general"]),
        ({"version": "lamps@best", "against": "bare:1"}, "bare:1", ["lamps:2", "lamps:1", "general"]),
        ({"version": "lamps:2", "against": "base", "suites": ["general"]}, None, ["general"]),
        ({"version": "lamps:1", "against": "lamps@best", "suites": ["lamps@best"]}, "lamps:2", ["lamps:2"]),
        ({"version": "lamps:2", "suites": ["lamps:1", "lineage"]}, "lamps:1", ["lamps:1", "lamps:2"]),
        ({"version": "bare:1", "suites": ["general", "lineage"]}, None, ["general"]),
    ],
)
def test_any_version_beside_any_other_on_any_suite(*, http, session, line, asked, against, suites):
    factories.make_alias(session, line[1], "best")
    session.commit()
    shown = post(http, **asked).json()
    assert (shown["against"], shown["suites"]) == (against, suites)


@pytest.mark.parametrize(
    ("body", "code", "param", "fix"),
    [
        ({}, "missing_required_parameter", "version", "version"),
        ({"version": "lamps:9"}, "version_not_found", "version", "my-adapter:3"),
        ({"version": "lamps"}, "version_not_found", "version", "my-adapter@production"),
        ({"version": "tiny"}, "version_not_found", "version", "ft:"),
        ({"version": 3}, "invalid_value", "version", "string"),
        ({"version": "lamps:2", "against": "lamps:9"}, "version_not_found", "against", "my-adapter:3"),
        ({"version": "lamps:2", "against": "lamps:2"}, "invalid_value", "against", "base"),
        ({"version": "lamps:2", "against": "other:1"}, "against_over_another_base", "against", "same base"),
        ({"version": "lamps:2", "suites": []}, "invalid_value", "suites", "with 1 to 50 items"),
        ({"version": "lamps:2", "suites": ["generel"]}, "suite_not_found", "suites[0]", '"general"'),
        ({"version": "lamps:2", "suites": ["general", "lamps:9"]}, "suite_not_found", "suites[1]", '"my-adapter:3"'),
        ({"version": "lamps:2", "suites": ["general", "general"]}, "invalid_value", "suites", "once"),
        ({"version": "lamps:2", "suites": [UNKNOWN_FILE]}, "file_not_found", "suites[0]", "purpose evals"),
        ({"version": "lamps:2", "suites": ["file-1"]}, "suite_not_found", "suites[0]", "id of a file"),
        (
            {"version": "lamps:2", "suites": [f"file-{number:032x}" for number in range(9)]},
            "invalid_value",
            "suites",
            "more than 8 files and tasks",
        ),
        (
            {"version": "lamps:2", "suites": [UNKNOWN_FILE, *(f"lm_eval:task{number}" for number in range(8))]},
            "invalid_value",
            "suites",
            "more than 8 files and tasks",
        ),
        ({"version": "lamps:2", "suites": ["lm_eval:"]}, "invalid_value", "suites", "lm_eval:arc_easy"),
        ({"version": "lamps:2", "suites": ["lm_eval:../mine.yaml"]}, "invalid_value", "suites", "lm_eval:arc_easy"),
        ({"version": "lamps:2", "suites": ["lm-eval:arc_easy"]}, "suite_not_found", "suites[0]", "lm_eval:arc_easy"),
        ({"version": "lamps:2", "suites": ["bare:1"]}, "nothing_to_ask", "suites[0]", "another suite"),
        ({"version": "bare:1", "suites": ["lineage"]}, "nothing_to_ask", "suites", "general"),
        ({"version": "lamps:2", "suite": ["general"]}, "unknown_parameter", "suite", "suites"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_can(*, http, session, project, line, broker, body, code, param, fix):
    factories.make_base_model(session, "other-base")
    job = factories.make_job(session, "succeeded", project=project, adapter_name="other", base_model="other-base")
    factories.make_version(session, project=project, job=job)
    session.commit()
    error = error_of(http.post(EVALUATIONS, json=body), 400)
    assert (error["code"], error["param"]) == (code, param)
    assert fix in error["message"]
    assert broker.rung == []


def test_tasks_of_the_harness_are_suites(http, line, session):
    asked = ["lm_eval:arc_easy", "lineage", "lm_eval:tinyMMLU"]
    shown = post(http, version="lamps:1", suites=asked).json()
    assert shown["suites"] == ["lm_eval:arc_easy", "lamps:1", "lm_eval:tinyMMLU"]
    assert session.get_one(factories.models.Evaluation, shown["id"]).suites == [
        {"name": "lm_eval:arc_easy", "version_id": None, "task": "arc_easy"},
        {"name": "lamps:1", "version_id": line[0].id},
        {"name": "lm_eval:tinyMMLU", "version_id": None, "task": "tinyMMLU"},
    ]
    assert post(http, version="bare:1", suites=["lineage", "lm_eval:arc_easy"]).json()["suites"] == ["lm_eval:arc_easy"]


def test_a_number_after_lm_eval_is_a_version_of_an_adapter_of_that_name(http, session, project, store):
    version = factories.make_version(
        session,
        project=project,
        job=factories.make_job(session, "succeeded", project=project, adapter_name="lm_eval"),
        heldout=b"one\n",
        store=store,
    )
    session.commit()
    shown = post(http, version="lm_eval:1", suites=["lm_eval:1", "lm_eval:arc_easy"]).json()
    assert session.get_one(factories.models.Evaluation, shown["id"]).suites == [
        {"name": "lm_eval:1", "version_id": version.id},
        {"name": "lm_eval:arc_easy", "version_id": None, "task": "arc_easy"},
    ]


def test_files_of_questions_are_suites(http, line, session):
    suite_id = upload_suite(http).json()["id"]
    shown = post(http, version="lamps:1", suites=["general", suite_id]).json()
    assert shown["suites"] == ["general", suite_id]
    assert session.get_one(factories.models.Evaluation, shown["id"]).suites == [
        {"name": "general", "version_id": None},
        {"name": suite_id, "version_id": None, "file_id": suite_id},
    ]
    assert post(http, version="bare:1", suites=[suite_id]).status_code == 200


def test_a_suite_stays_while_an_evaluation_has_yet_to_ask_it(http, line):
    suite_id = upload_suite(http).json()["id"]
    evaluation_id = post(http, version="lamps:1", suites=[suite_id]).json()["id"]
    error = error_of(http.delete(f"/v1/files/{suite_id}"), 409)
    assert error["code"] == "file_in_use"
    assert evaluation_id in error["message"]
    http.post(f"{EVALUATIONS}/{evaluation_id}/cancel")
    assert http.delete(f"/v1/files/{suite_id}").status_code == 200
    error = error_of(post(http, version="lamps:1", suites=[suite_id]), 400)
    assert (error["code"], error["param"]) == ("file_not_found", "suites[0]")


def test_only_the_projects_own_questions_that_the_base_can_be_asked_are_suites(http, app, sessions, line, file_id):
    foreign = upload_suite(make_tenant(app, sessions, "other").http).json()["id"]
    turns = (("user", "Look."), ("assistant", "call"), ("tool", "1"))
    messages = [{"role": role, "content": content} for role, content in turns]
    question = json.dumps({"messages": messages, "expected": "1", "scorer": "exact"}).encode()
    unread = upload_suite(http, question).json()["id"]
    for named, code in (
        (foreign, "file_not_found"),
        (file_id, "invalid_file_purpose"),
        (unread, "unrecognized_role"),
    ):
        error = error_of(post(http, version="lamps:1", suites=["general", named]), 400)
        assert (error["code"], error["param"]) == (code, "suites[1]")


def test_a_skill_over_another_base_is_a_suite_where_this_one_can_be_asked_it(http, session, project, line):
    """Fault caught: an internal error of the worker, once the chat template meets a message that it takes none of."""
    factories.make_base_model(session, "other-base")
    for name, roles in (("open", ["user", "assistant"]), ("shut", ["user", "assistant", "tool"])):
        file = factories.make_file(session, project, validation={"stats": {"roles": roles}})
        job = factories.make_job(
            session, "succeeded", project=project, adapter_name=name, base_model="other-base", training_file=file
        )
        factories.make_version(session, project=project, job=job, heldout=HELDOUT)
    session.get_one(factories.models.BaseModel, "tiny").overheads = {"message": {"tool": None}}
    session.commit()
    assert post(http, version="lamps:1", suites=["open:1"]).status_code == 200
    error = error_of(post(http, version="lamps:1", suites=["general", "shut:1"]), 400)
    assert (error["code"], error["param"]) == ("unrecognized_role", "suites[1]")
    assert post(http, version="shut:1", suites=["shut:1"]).status_code == 200


def test_another_projects_version_is_not_there(http, session, base):
    version = factories.make_version(session, heldout=HELDOUT)
    session.commit()
    mine = error_of(post(http, version=version.model_id), 400)
    assert mine["code"] == "version_not_found"


def test_the_same_post_twice_is_one_evaluation(http, line):
    def send():
        return http.post(EVALUATIONS, json={"version": "lamps:2"}, headers={"Idempotency-Key": "once"})

    first, second = send(), send()
    assert first.json() == second.json()
    assert second.headers["idempotent-replayed"] == "true"


def test_a_retry_of_a_cancelled_evaluation_is_another_one(http, line):
    def retry():
        headers = {"x-stainless-retry-count": "1"}
        return http.post(EVALUATIONS, json={"version": "lamps:2"}, headers=headers).json()["id"]

    first = retry()
    assert retry() == first
    http.post(f"{EVALUATIONS}/{first}/cancel")
    assert retry() != first


def test_a_waiting_evaluation_is_cancelled_at_once_and_twice_is_once(http, line):
    evaluation_id = post(http, version="lamps:2").json()["id"]
    for _ in range(2):
        assert http.post(f"{EVALUATIONS}/{evaluation_id}/cancel").json()["status"] == "cancelled"
    error = error_of(http.get(f"{EVALUATIONS}/{evaluation_id}", headers={"Accept": "text/html"}), 409)
    assert error["code"] == "report_not_ready"
    assert "cancelled" in error["message"]


def test_what_a_job_made_with_its_version_cannot_be_cancelled(http, line):
    [own, *_] = http.get(EVALUATIONS).json()["data"]
    assert (own["status"], own["suites"]) == ("succeeded", None)
    error = error_of(http.post(f"{EVALUATIONS}/{own['id']}/cancel"), 409)
    assert error["code"] == "job_already_ended"
    assert error["message"].startswith("The evaluation has already succeeded")


def blob(session, content):
    row = factories.make_blob(session, content)
    return StoredBlob(row.sha256, row.num_bytes)


def claim(session):
    taken = runs.claim_next(session, factories.make_worker(session).id, 60)
    assert taken
    return taken


def results(session, **report):
    return EvaluationResults(report, blob(session, b"{}"), blob(session, b"<!doctype html>"))


def test_its_report_is_there_once_it_is_done_and_fills_the_lineage(http, line, session):
    evaluation_id = post(http, version="lamps:1", against="base", suites=["lamps:2"]).json()["id"]
    taken = claim(session)
    assert http.get(f"{EVALUATIONS}/{evaluation_id}").json()["status"] == "running"
    suite = {
        "name": "lamps:2", "role": "earlier", "measure": "share_right", "n": 8,
        "arms": [{"arm": arm, "score": {"value": 0.25, "low": 0.1, "high": 0.4}} for arm in ("base", "candidate")],
    }  # fmt: skip
    line_report = {"suites": [suite | {"name": "lamps", "role": "skill"}]}
    session.query(factories.models.Evaluation).filter_by(version_id=line[1].id).one().report = line_report
    publishing.publish_evaluation(session, taken, results(session, suites=[suite]))
    session.commit()
    shown = http.get(f"{EVALUATIONS}/{evaluation_id}").json()
    assert (shown["status"], shown["phase"], shown["report"]) == ("succeeded", "done", {"suites": [suite]})
    assert shown["finished_at"] is not None
    lineage = http.get("/v1/adapters/lamps/lineage").json()
    assert lineage["scores"][0][0] == {"score": 0.25, "low": 0.1, "high": 0.4, "evaluation_id": evaluation_id}
    own = http.get("/v1/adapters/lamps/versions/1").json()["evaluation_id"]
    assert own == lineage["versions"][0]["evaluation_id"] != evaluation_id


def test_answers_that_changed_are_listed_by_what_became_of_them(http, line, session):
    def flip(item, change):
        said = {"base": "a", "candidate": "b"}
        return {
            "item": item, "kind": "facts", "change": change, "against": ["base"], "prompt": f"{item}?",
            "expected": ["a"], "answers": said,
        }  # fmt: skip

    def asked(**query):
        found = http.get(f"{EVALUATIONS}/{evaluation_id}/examples", params=query)
        assert found.status_code == 200
        return [(one["suite"], one["id"], one["flip"]) for one in found.json()["data"]]

    evaluation_id = post(http, version="lamps:1", against="base").json()["id"]
    assert asked() == []
    suites = [
        {"name": "lamps", "flips": [flip("001", "lost"), flip("002", "gained")]},
        {"name": "general ability", "flips": [flip("facts-07", "lost")]},
        {"name": "older report"},
    ]
    publishing.publish_evaluation(session, claim(session), results(session, suites=suites))
    session.commit()
    assert [one[1] for one in asked()] == ["lamps/001", "lamps/002", "general ability/facts-07"]
    assert asked(flip="lost", suite="lamps") == [("lamps", "lamps/001", "lost")]
    assert asked(flip="gained") == [("lamps", "lamps/002", "gained")]
    assert http.get(f"{EVALUATIONS}/{evaluation_id}/examples?flip=kept").status_code == 400


def test_a_worker_that_lost_it_cannot_report_and_a_cancelled_one_must_not(http, line, session):
    evaluation_id = post(http, version="lamps:1").json()["id"]
    taken = claim(session)
    stale = runs.Claim(taken.job_id, taken.fence - 1)
    with pytest.raises(runs.LeaseLost):
        publishing.publish_evaluation(session, stale, results(session, suites=[]))
    http.post(f"{EVALUATIONS}/{evaluation_id}/cancel")
    with pytest.raises(publishing.CancelRequested):
        publishing.publish_evaluation(session, taken, results(session, suites=[]))
    runs.cancel(session, taken)
    session.commit()
    shown = http.get(f"{EVALUATIONS}/{evaluation_id}").json()
    assert (shown["status"], shown["report"]) == ("cancelled", None)


def test_a_failed_evaluation_says_why(http, line, session):
    evaluation_id = post(http, version="lamps:1").json()["id"]
    runs.fail_or_retry(session, claim(session), "internal_error", "It broke.")
    session.commit()
    shown = http.get(f"{EVALUATIONS}/{evaluation_id}").json()
    assert shown["status"] == "failed"
    assert shown["error"] == {"code": "internal_error", "message": "It broke.", "param": None, "retryable": False}


def test_a_page_is_promised_only_where_there_may_be_one(http, line, session):
    def told():
        page = http.get(f"{EVALUATIONS}/{evaluation_id}", headers={"Accept": "text/html"})
        return error_of(page, 409)["message"]

    evaluation_id = post(http, version="lamps:1").json()["id"]
    waits = "This evaluation is {} and has no report; it has one once it has succeeded."
    assert told() == waits.format("queued")
    taken = claim(session)
    session.commit()
    assert told() == waits.format("running")
    http.post(f"{EVALUATIONS}/{evaluation_id}/cancel")
    assert told() == "This evaluation is being cancelled. There will be no report."
    runs.cancel(session, taken)
    session.commit()
    assert told() == "This evaluation was cancelled. There will be no report."
    evaluation_id = post(http, version="lamps:1").json()["id"]
    runs.fail_or_retry(session, claim(session), "internal_error", "It broke.")
    session.commit()
    assert told() == "This evaluation has failed (internal_error), so there will be no report: It broke."
