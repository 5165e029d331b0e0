"""A job's gate as clients ask for it and read what came of it."""

import pytest

from tests import factories
from tests.service.conftest import error_of

JOBS = "/v1/fine_tuning/jobs"
RULE = {"min_gain": 0.05, "max_forgetting": 0.02, "confidence": 0.9, "on_pass": "production"}


def test_a_gate_is_kept_with_the_job_and_has_no_verdict_yet(http, base, file_id):
    job = http.post(JOBS, json={"model": "tiny", "training_file": file_id, "gate": RULE}).json()
    assert job["gate"] == RULE | {"verdict": None, "criteria": []}
    assert http.get(f"{JOBS}/{job['id']}").json() == job


def test_an_empty_gate_has_the_default_limits(http, base, file_id):
    job = http.post(JOBS, json={"model": "tiny", "training_file": file_id, "gate": {}}).json()
    assert job["gate"] == {
        "min_gain": 0.0,
        "max_forgetting": 0.1,
        "confidence": 0.95,
        "on_pass": None,
        "verdict": None,
        "criteria": [],
    }


def test_a_job_without_a_gate_has_none(http, base, file_id):
    assert http.post(JOBS, json={"model": "tiny", "training_file": file_id}).json()["gate"] is None


@pytest.mark.parametrize(
    ("gate", "code", "param", "fix"),
    [
        ({"min_gian": 0.1}, "unknown_parameter", "gate.min_gian", "did you mean min_gain"),
        ({"min_gain": -1}, "invalid_value", "gate.min_gain", "0"),
        ({"max_forgetting": 0}, "invalid_value", "gate.max_forgetting", "0.001"),
        ({"max_forgetting": 1e-310}, "invalid_value", "gate.max_forgetting", "0.001"),
        ({"confidence": 1}, "invalid_value", "gate.confidence", "0.999"),
        ({"confidence": "high"}, "invalid_value", "gate.confidence", "0.5"),
        ({"on_pass": "Prod 1"}, "invalid_value", "gate.on_pass", "[a-z]"),
        ("strict", "invalid_value", "gate", "object"),
    ],
)
def test_a_gate_that_cannot_be_is_refused_with_what_it_takes(*, http, base, file_id, gate, code, param, fix):
    error = error_of(http.post(JOBS, json={"model": "tiny", "training_file": file_id, "gate": gate}), 400)
    assert (error["code"], error["param"]) == (code, param)
    assert fix in error["message"]


def test_the_verdict_and_its_numbers_are_on_job_version_and_evaluation(http, session, project, base):
    criterion = {
        "question": "gain", "suite": "home", "against": "base", "n": 40, "value": 0.5, "low": 0.4, "high": 0.6,
        "p_value": 0.001, "limit": 0.05, "verdict": "pass", "sentence": "It gained.",
    }  # fmt: skip
    decision = {"rule": RULE, "verdict": "pass", "criteria": [criterion]}
    job = factories.make_job(session, "succeeded", project=project, gate=RULE)
    factories.make_version(session, project=project, job=job, gate=decision)
    session.commit()
    shown = http.get(f"{JOBS}/{job.id}").json()
    assert (shown["status"], shown["gate"]) == ("succeeded", RULE | {"verdict": "pass", "criteria": [criterion]})
    assert http.get(f"/v1/evaluations/{shown['evaluation_id']}").json()["gate"] == decision
    assert http.get(f"/v1/adapters/{job.adapter_name}/versions/1").json()["gate_verdict"] == "pass"
