"""What a job is to be compared with: how it is asked for, what is kept of it, what it makes the job cost."""

import pytest

from app.db.models import Job
from tests import factories
from tests.service.conftest import upload

JOBS = "/v1/fine_tuning/jobs"


@pytest.mark.parametrize(
    ("num_parameters", "asked", "rate"),
    [
        (135_000_000, "supervised", 5e-4),
        (7_000_000_000, "supervised", 2e-4),
        (7_000_000_000, {"method": "supervised"}, 2e-4),
        (7_000_000_000, {"method": "supervised", "learning_rate": "auto"}, 2e-4),
        (135_000_000, {"method": "supervised", "learning_rate": 1e-3}, 1e-3),
    ],
)
def test_a_job_shows_the_learning_rate_that_its_twin_will_have(*, http, session, num_parameters, asked, rate):
    factories.make_base_model(session, num_parameters=num_parameters)
    session.commit()
    file_id = upload(http, factories.TRAINING_LINES).json()["id"]
    job = http.post(JOBS, json={"model": "tiny", "training_file": file_id, "compare": [asked]}).json()
    twin = {"method": "supervised", "learning_rate": rate}
    assert job["compare"] == http.get(f"{JOBS}/{job['id']}").json()["compare"] == [twin]
    assert session.get_one(Job, job["id"]).compare == twin


@pytest.mark.parametrize("nothing", [{}, {"compare": None}, {"compare": []}])
def test_a_job_is_compared_only_when_asked(http, base, file_id, nothing):
    assert http.post(JOBS, json={"model": "tiny", "training_file": file_id} | nothing).json()["compare"] is None
