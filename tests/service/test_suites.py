"""Questions of a client's own: uploaded, checked, named in a job, and kept while a job needs them."""

import json

import pytest
from tokenizers import Tokenizer, models

from app.db.models import Job
from tests import factories
from tests.service.conftest import OVERHEADS, error_of, make_tenant

JOBS = "/v1/fine_tuning/jobs"
LINES = b"""{"prompt": "6 * 7?", "expected": "42", "scorer": "numeric"}
{"prompt": "Hi", "expected": "Hello", "scorer": "exact"}
"""


def upload_suite(http, content=LINES):
    return http.post("/v1/files", files={"file": ("mine.jsonl", content)}, data={"purpose": "evals"})


@pytest.fixture
def suite_id(http):
    return upload_suite(http).json()["id"]


def test_a_suite_is_kept_under_its_purpose_and_measured_in_tokens(http, session, store):
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer = factories.make_blob(session, words.to_str().encode(), store=store)
    factories.make_base_model(session, tokenizer_sha256=tokenizer.sha256, overheads=OVERHEADS)
    session.commit()
    file = upload_suite(http).json()
    assert (file["purpose"], file["filename"], file["status"]) == ("evals", "mine.jsonl", "processed")
    shown = http.get(f"/v1/files/{file['id']}/validation").json()
    assert (shown["n_examples"], shown["errors"]) == (2, [])
    assert shown["stats"]["tokens"]["tiny"]["n_counted"] == 2
    assert [item["id"] for item in http.get("/v1/files", params={"purpose": "evals"}).json()["data"]] == [file["id"]]


def test_a_suite_with_errors_is_refused_by_line(http):
    error = error_of(upload_suite(http, LINES + b'{"prompt": "x", "expected": "y"}\n'), 422)
    assert (error["code"], error["param"]) == ("invalid_file", "file")
    assert [(item["line"], item["code"]) for item in error["errors"]] == [(3, "unknown_scorer")]


def test_demonstrations_are_no_suite_and_a_suite_no_demonstrations(http, base, file_id, suite_id):
    assert error_of(upload_suite(http, factories.TRAINING_LINES), 422)["code"] == "invalid_file"
    body = {"model": "tiny", "training_file": suite_id}
    assert error_of(http.post(JOBS, json=body), 400)["param"] == "training_file"
    body = {"model": "tiny", "training_file": file_id, "evaluation": {"suites": [file_id]}}
    error = error_of(http.post(JOBS, json=body), 400)
    assert (error["code"], error["param"]) == ("invalid_file_purpose", "evaluation.suites[0]")
    assert "purpose evals" in error["message"]


def test_a_job_says_how_it_is_measured_and_shows_it(http, base, session, file_id, suite_id):
    asked = {"scorer": "numeric", "tolerance": 0.5, "suites": ["lm_eval:arc_easy", suite_id], "seeds": 3}
    response = http.post(JOBS, json={"model": "tiny", "training_file": file_id, "evaluation": asked})
    assert response.json()["evaluation"] == asked
    assert http.get(f"{JOBS}/{response.json()['id']}").json()["evaluation"] == asked
    assert session.get_one(Job, response.json()["id"]).evaluation == asked


@pytest.mark.parametrize(
    ("evaluation", "param"),
    [
        ({"scorer": "rouge"}, "evaluation.scorer"),
        ({"seeds": 0}, "evaluation.seeds"),
        ({"seeds": 6}, "evaluation.seeds"),
        ({"seeds": "3"}, "evaluation.seeds"),
        ({"seeds": None}, "evaluation.seeds"),
        ({"tolerance": 1}, "evaluation"),
        ({"scorer": "exact", "tolerance": 1}, "evaluation"),
        ({"scorer": "numeric", "tolerance": -1}, "evaluation.tolerance"),
        ({"suites": ["file-x", "file-x"]}, "evaluation"),
        ({"suites": ["file-" + "0" * 32]}, "evaluation.suites[0]"),
        ({"suites": [f"file-{n}" for n in range(9)]}, "evaluation.suites"),
        ({"suite": []}, "evaluation.suite"),
        ({"suites": ["lm_eval:"]}, "evaluation"),
        ({"suites": ["lm_eval:../mine.yaml"]}, "evaluation"),
        ({"suites": ["lm_eval:arc_*"]}, "evaluation"),
        ({"suites": ["lm_eval:arc_easy", "lm_eval:arc_easy"]}, "evaluation"),
        ({"suites": ["lm_eval:arc_easy", "file-" + "0" * 32]}, "evaluation.suites[1]"),
        ({"suites": ["lm_eval:3"]}, "evaluation.suites[0]"),
    ],
)
def test_what_cannot_be_measured_so_is_refused(http, base, file_id, evaluation, param):
    body = {"model": "tiny", "training_file": file_id, "evaluation": evaluation}
    assert (
        error_of(http.post(JOBS, content=json.dumps(body), headers={"Content-Type": "application/json"}), 400)["param"]
        == param
    )


@pytest.mark.parametrize("path", [JOBS, f"{JOBS}/estimate"])
def test_a_scorer_that_an_answer_does_not_suit_is_refused_with_the_line(http, base, path):
    """Of the validation file if there is one. Fault caught: the job is queued, and fails when its worker reads it."""
    calls = [{"prompt": f"{n}?", "completion": json.dumps({"name": "f", "arguments": {"n": n}})} for n in range(12)]
    good, bad = (
        http.post("/v1/files", files={"file": ("mine.jsonl", content)}, data={"purpose": "fine-tune"}).json()["id"]
        for content in (
            "\n".join(map(json.dumps, calls)),
            "\n".join(map(json.dumps, [*calls, {"prompt": "x", "completion": "in words"}])),
        )
    )
    body = {"model": "tiny", "evaluation": {"scorer": "tool_call"}}
    error = error_of(http.post(path, json=body | {"training_file": bad}), 400)
    assert (error["code"], error["param"]) == ("unusable_expected", "evaluation.scorer")
    assert "cannot compare with 1 answer of mine.jsonl" in error["message"]
    assert [found["line"] for found in error["errors"]] == [13]
    error_of(http.post(path, json=body | {"training_file": good, "validation_file": bad}), 400)
    for fields in ({"training_file": good}, {"training_file": bad, "validation_file": good}):
        assert http.post(path, json=body | fields).status_code == 200


@pytest.mark.parametrize("name", ["general", "lineage"])
def test_a_suite_that_every_job_is_asked_need_not_be_named(http, base, file_id, suite_id, name):
    body = {"model": "tiny", "training_file": file_id, "evaluation": {"suites": [suite_id, name]}}
    error = error_of(http.post(JOBS, json=body), 400)
    assert (error["code"], error["param"]) == ("invalid_value", "evaluation.suites[1]")
    assert error["message"].startswith("Every job is asked general and lineage; leave it out")


@pytest.mark.parametrize("status", ["queued", "running", "succeeded"])
def test_a_suite_stays_while_a_job_has_yet_to_ask_it(http, session, project, suite_id, status):
    factories.make_job(session, status, project=project, evaluation={"scorer": None, "suites": ["file-1", suite_id]})
    session.commit()
    assert http.delete(f"/v1/files/{suite_id}").status_code == (200 if status == "succeeded" else 409)


def test_a_suite_of_another_project_is_not_there(http, app, sessions, base, file_id):
    foreign = upload_suite(make_tenant(app, sessions, "other").http).json()["id"]
    body = {"model": "tiny", "training_file": file_id, "evaluation": {"suites": [foreign]}}
    assert error_of(http.post(JOBS, json=body), 400)["code"] == "file_not_found"
