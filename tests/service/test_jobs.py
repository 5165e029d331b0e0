import pytest

from app.db.models import Job
from app.domain.training import DatasetFacts, SdftHyperparameters, SupervisedHyperparameters, resolve
from tests import factories
from tests.service.conftest import error_of, upload

JOBS = "/v1/fine_tuning/jobs"


def post(http, file_id, **fields):
    return http.post(JOBS, json={"model": "tiny", "training_file": file_id} | fields)


def test_a_posted_job_waits_and_a_worker_is_rung_for(http, base, file_id, broker, project):
    response = post(http, file_id)
    assert response.status_code == 200
    job = response.json()
    assert broker.rung == [job["id"]]
    assert http.get(f"{JOBS}/{job['id']}").json() == job
    assert job == {
        "id": job["id"],
        "object": "fine_tuning.job",
        "created_at": job["created_at"],
        "finished_at": None,
        "model": "tiny",
        "fine_tuned_model": None,
        "status": "queued",
        "error": None,
        "hyperparameters": job["hyperparameters"],
        "method": {"type": "sdft", "sdft": {"hyperparameters": job["hyperparameters"]}},
        "training_file": file_id,
        "validation_file": None,
        "result_files": [],
        "seed": job["seed"],
        "trained_tokens": None,
        "organization_id": project.id,
        "estimated_finish": None,
        "metadata": None,
        "integrations": [],
        "user_provided_suffix": None,
        "phase": "waiting",
        "progress": {
            "step": 0,
            "total_steps": None,
            "percent": None,
            "phase_done": None,
            "phase_total": None,
            "seconds_remaining": None,
            "queue_position": 1,
        },
        "attempt": 0,
        "adapter": {"name": f"adapter-{job['id'][6:14]}", "version": None},
        "parent_adapter": None,
        "limits": None,
        "evaluation_id": None,
        "gate": None,
        "evaluation": None,
        "compare": None,
    }
    assert job["hyperparameters"]["n_epochs"] == "auto"
    assert 0 <= job["seed"] < 2**31


def test_what_was_asked_for_is_echoed(http, base, file_id):
    validation_id = upload(http, factories.TRAINING_LINES.replace(b"Say", b"Tell me")).json()["id"]
    numbers = {"n_epochs": 3, "learning_rate": 1e-4, "template": "paper", "rehearsal": {"share": 0.5}}
    job = post(
        http,
        file_id,
        validation_file=validation_id,
        suffix="my.Skill_1",
        seed=7,
        metadata={"team": "a", "": "empty key"},
        method={"type": "sdft", "sdft": {"hyperparameters": numbers}},
        limits={"max_seconds": 60},
        integrations=[],
    ).json()
    assert job["validation_file"] == validation_id
    assert job["limits"] == {"max_seconds": 60}
    assert (job["user_provided_suffix"], job["adapter"]["name"]) == ("my.Skill_1", "my.Skill_1")
    assert (job["seed"], job["metadata"]) == (7, {"team": "a", "": "empty key"})
    echoed = job["method"]["sdft"]["hyperparameters"]
    assert (echoed["n_epochs"], echoed["learning_rate"], echoed["template"]) == (3, 1e-4, "paper")
    assert echoed["rehearsal"] == {"share": 0.5, "prompts": "builtin", "file": None}
    assert echoed["batch_size"] == "auto"


WAYS = [
    {"objective": {"kind": "forward_kl", "entry_clip": 0.05}},
    {"objective": {"kind": "reverse_kl"}},
    {"objective": {"kind": "jsd", "alpha": 0.3}},
    {"objective": {"kind": "isdft", "rho0": 0.5, "rho1": 0.9, "ramp_steps": 20}, "anchor_weight": 0.01},
    {"teacher": {"kind": "frozen"}},
    {"teacher": {"kind": "ema", "rate": 0.05, "every": 2}},
    {"teacher": {"kind": "hard_sync", "every": 5}},
    {"teacher": {"kind": "live"}},
    {"preset": "default"},
    {"preset": "paper"},
    {"preset": "retain"},
    {"rehearsal": {"share": 0.5, "prompts": "self"}, "rollouts_per_prompt": 4},
    {"weak_teacher": "fail", "loss_skip_tokens": 3, "max_completion_tokens": 40, "lora_rank": 8, "lora_alpha": 8},
]


@pytest.mark.parametrize("asked", WAYS, ids=str)
def test_every_way_to_train_can_be_asked_for(http, base, file_id, asked):
    answer = post(http, file_id, method={"type": "sdft", "sdft": {"hyperparameters": asked}})
    assert answer.status_code == 200, answer.text
    echoed = answer.json()["method"]["sdft"]["hyperparameters"]
    for name, value in asked.items():
        said = echoed[name]
        assert {key: said[key] for key in value} == value if isinstance(value, dict) else said == value
    shown = http.get(f"{JOBS}/{answer.json()['id']}").json()
    assert shown["method"]["sdft"]["hyperparameters"] == echoed


def test_plain_fine_tuning_can_be_asked_for(http, base, file_id):
    job = post(http, file_id, method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 4}}}).json()
    assert job["method"]["supervised"]["hyperparameters"]["n_epochs"] == 4


@pytest.mark.parametrize(("method", "said"), [(None, "the default"), ({"type": "sdft"}, "method sdft,")])
def test_the_first_event_says_which_method_was_understood(http, base, file_id, method, said):
    job = post(http, file_id, **({"method": method} if method else {})).json()
    event = http.get(f"{JOBS}/{job['id']}/events").json()["data"][-1]
    assert "method sdft" in event["message"]
    assert said in event["message"]
    assert (event["level"], event["type"], event["object"]) == ("info", "message", "fine_tuning.job.event")
    assert event["data"] == {"method": "sdft"}


def test_old_style_hyperparameters_are_taken(http, base, file_id):
    job = post(http, file_id, hyperparameters={"n_epochs": 2, "batch_size": 4}).json()
    assert (job["hyperparameters"]["n_epochs"], job["hyperparameters"]["batch_size"]) == (2, 4)


def test_every_auto_has_its_value_once_a_worker_has_fixed_it(http, session, project):
    asked = SdftHyperparameters(learning_rate_multiplier=2, preset="retain")
    facts = DatasetFacts(
        num_examples=64, demonstration_tokens_p50=10, demonstration_tokens_p99=20, demonstration_tokens_max=24
    )
    resolved = resolve(asked, method="sdft", seed=1, facts=facts, num_parameters=1000, has_earlier=True)
    job = factories.make_job(
        session,
        "running",
        project=project,
        hyperparameters=asked.model_dump(mode="json"),
        resolved=resolved.model_dump(mode="json"),
        total_steps=resolved.total_steps,
        progress_step=4,
    )
    session.commit()
    shown = http.get(f"{JOBS}/{job.id}").json()
    numbers = shown["hyperparameters"]
    assert numbers["n_epochs"] == resolved.num_epochs
    assert numbers["batch_size"] == resolved.batch_size
    assert (numbers["learning_rate"], numbers["learning_rate_multiplier"]) == (1e-3, 2)
    assert numbers["max_completion_tokens"] == 25
    assert numbers["rehearsal"] == {"share": 0.5, "prompts": "builtin", "file": None}
    isdft = {"rho0": 0.25, "rho1": 1.0, "ramp_steps": resolved.total_steps}
    assert numbers["objective"] == {"kind": "isdft", **isdft}
    assert numbers["teacher"] == {"kind": "frozen"}
    assert (numbers["preset"], numbers["anchor_weight"]) == ("retain", 2e-3)
    assert "auto" not in str(numbers | {"template": None})
    assert shown["progress"]["percent"] == round(100 * 4 / resolved.total_steps, 1)


@pytest.mark.parametrize(
    ("method", "asked"),
    [("supervised", {}), ("supervised", {"learning_rate": 1e-2, "learning_rate_multiplier": 0.3})]
    + [("sdft", asked) for asked in [*WAYS, {"objective": {"kind": "jsd"}}, {"teacher": {"kind": "hard_sync"}}]],
    ids=str,
)
def test_what_a_job_ran_with_can_be_posted_again_and_means_the_same(*, http, base, session, file_id, method, asked):
    def resolved(job):
        kind = SdftHyperparameters if method == "sdft" else SupervisedHyperparameters
        facts = DatasetFacts(
            num_examples=12, demonstration_tokens_p50=5, demonstration_tokens_p99=5, demonstration_tokens_max=5
        )
        requested = kind.model_validate(job.hyperparameters)
        return resolve(requested, method=method, seed=1, facts=facts, num_parameters=1000, has_earlier=False)

    first = post(http, file_id, method={"type": method, method: {"hyperparameters": asked}}).json()
    job = session.get_one(Job, first["id"])
    job.resolved = resolved(job).model_dump(mode="json")
    session.commit()
    echoed = http.get(f"{JOBS}/{job.id}").json()["method"]
    again = post(http, file_id, method=echoed)
    assert again.status_code == 200, again.text
    assert resolved(session.get_one(Job, again.json()["id"])) == resolved(job)


def test_a_number_that_could_not_be_had_is_not_echoed_as_if_it_had(http, session, project):
    """A batch is no larger than the data, and a parent's LoRA rank goes on."""
    asked = SdftHyperparameters(batch_size=256, lora_rank=64)
    facts = DatasetFacts(
        num_examples=50, demonstration_tokens_p50=10, demonstration_tokens_p99=20, demonstration_tokens_max=24
    )
    resolved = resolve(asked, method="sdft", seed=1, facts=facts, num_parameters=1000, has_earlier=True)
    job = factories.make_job(
        session, "running", project=project, hyperparameters=asked.model_dump(mode="json"),
        resolved=resolved.model_dump(mode="json") | {"lora_rank": 16}, total_steps=resolved.total_steps,
    )  # fmt: skip
    session.commit()
    numbers = http.get(f"{JOBS}/{job.id}").json()["hyperparameters"]
    assert (numbers["batch_size"], numbers["lora_rank"]) == (50, 16)


def test_a_finished_job_names_its_results(http, session, project, store):
    version = factories.make_version(session, project=project, store=store)
    job = session.get_one(factories.models.Job, version.job_id)
    job.result_file_ids = [{"kind": "adapter", "file_id": version.archive_file_id}]
    session.commit()
    shown = http.get(f"{JOBS}/{job.id}").json()
    assert shown["fine_tuned_model"] == version.model_id
    assert shown["adapter"] == {"name": job.adapter_name, "version": 1}
    assert shown["result_files"] == [version.archive_file_id]
    assert shown["evaluation_id"].startswith("eval-")
    assert http.get(f"/v1/files/{version.archive_file_id}/content").content == b"a tar"


def test_a_failed_job_says_why(http, session, project):
    job = factories.make_job(
        session, "failed", project=project, error_code="out_of_memory", error_message="It grew.", error_param=None
    )
    session.commit()
    error = http.get(f"{JOBS}/{job.id}").json()["error"]
    assert error == {"code": "out_of_memory", "message": "It grew.", "param": None, "retryable": True}


def test_waiting_jobs_know_their_place(http, base, file_id):
    first, second = (post(http, file_id).json() for _ in range(2))
    http.post(f"{JOBS}/{first['id']}/cancel")
    assert second["progress"]["queue_position"] == 2
    assert http.get(f"{JOBS}/{second['id']}").json()["progress"]["queue_position"] == 1


def test_the_pace_of_the_steps_gives_the_time_that_is_left(http, session, project):
    from datetime import UTC, datetime, timedelta

    job = factories.make_job(session, "running", project=project, phase="training", total_steps=10, progress_step=4)
    start = datetime.now(UTC)
    for step in range(1, 5):
        moment = start + timedelta(seconds=2 * step)
        metric = {"job_id": job.id, "step": step, "fence": job.fence, "values": {}, "created_at": moment}
        session.add(factories.models.JobMetric(**metric))
    session.commit()
    shown = http.get(f"{JOBS}/{job.id}").json()
    assert shown["progress"]["seconds_remaining"] == pytest.approx(12)
    assert shown["estimated_finish"] >= start.timestamp()


def test_cancelling_twice_is_cancelling_once(http, base, file_id):
    job = post(http, file_id).json()
    for _ in range(2):
        cancelled = http.post(f"{JOBS}/{job['id']}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert cancelled.json()["finished_at"]
    said = [event["message"] for event in http.get(f"{JOBS}/{job['id']}/events").json()["data"]]
    assert said.count("The job was cancelled.") == 1


def test_a_running_job_is_cancelled_by_its_worker(http, session, project):
    job = factories.make_job(session, "running", project=project)
    session.commit()
    shown = http.post(f"{JOBS}/{job.id}/cancel").json()
    assert (shown["status"], shown["phase"]) == ("running", "cancelling")


@pytest.mark.parametrize("status", ["succeeded", "failed"])
def test_a_job_that_has_ended_cannot_be_cancelled(http, session, project, status):
    job = factories.make_job(session, status, project=project)
    session.commit()
    response = http.post(f"{JOBS}/{job.id}/cancel")
    assert error_of(response, 409)
    assert response.headers["x-should-retry"] == "false"


def test_jobs_are_filtered_by_metadata(http, base, file_id):
    one = post(http, file_id, metadata={"team": "a", "run": "1"}).json()["id"]
    two = post(http, file_id, metadata={"team": "a", "run": "2"}).json()["id"]
    none = post(http, file_id).json()["id"]

    def ids(**params):
        return [job["id"] for job in http.get(JOBS, params=params).json()["data"]]

    assert ids() == [none, two, one]
    assert ids(**{"metadata[team]": "a"}) == [two, one]
    assert ids(**{"metadata[team]": "a", "metadata[run]": "1"}) == [one]
    assert ids(**{"metadata[team]": "b"}) == []
    assert ids(metadata="null") == [none]
    assert error_of(http.get(JOBS, params={"metadata": "team"}), 400)["param"] == "metadata"


def test_events_and_checkpoints_are_listed_newest_first(http, session, project, store):
    job = factories.make_job(session, "running", project=project)
    events = [factories.make_event(session, job, f"Number {number}").id for number in range(3)]
    checkpoints = [factories.make_checkpoint(session, job, step, store=store) for step in (5, 10)]
    session.commit()

    first = http.get(f"{JOBS}/{job.id}/events", params={"limit": 2}).json()
    assert ([event["id"] for event in first["data"]], first["has_more"]) == ([events[2], events[1]], True)
    rest = http.get(f"{JOBS}/{job.id}/events", params={"after": first["last_id"]}).json()
    assert ([event["id"] for event in rest["data"]], rest["has_more"]) == ([events[0]], False)

    newest, oldest = http.get(f"{JOBS}/{job.id}/checkpoints").json()["data"]
    assert (newest["step_number"], oldest["step_number"]) == (10, 5)
    assert newest["fine_tuned_model_checkpoint"] == (
        f"ft:tiny:{project.name}:{job.adapter_name}:{job.id[6:14]}:ckpt-step-10"
    )
    assert newest["metrics"] == {"step": 10, "train_loss": 1.0}
    assert newest["file_id"] == checkpoints[1].adapter_file_id
    assert http.get(f"/v1/files/{newest['file_id']}/content").content == b"tar of step 10"


def test_a_poller_that_has_the_answer_is_not_sent_it_again(http, base, file_id):
    job = post(http, file_id).json()
    first = http.get(f"{JOBS}/{job['id']}")
    assert first.headers["etag"].startswith('W/"')
    again = http.get(f"{JOBS}/{job['id']}", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    http.post(f"{JOBS}/{job['id']}/cancel")
    changed = http.get(f"{JOBS}/{job['id']}", headers={"If-None-Match": first.headers["etag"]})
    assert (changed.status_code, changed.json()["status"]) == (200, "cancelled")


def test_a_job_goes_on_from_a_version(http, session, project, base, file_id):
    version = factories.make_version(session, project=project)
    session.commit()
    name = session.get_one(factories.models.Adapter, version.adapter_id).name
    for reference in (f"{name}:1", version.model_id):
        job = post(http, file_id, parent_adapter=reference).json()
        assert job["adapter"]["name"] == name
        event = http.get(f"{JOBS}/{job['id']}/events").json()["data"][-1]
        assert f"from {name}:1" in event["message"]
        assert job["parent_adapter"] == f"{name}:1"
        assert http.get(f"{JOBS}/{job['id']}").json() == job
    named = post(http, file_id, parent_adapter=f"{name}:1", suffix="other").json()
    assert named["adapter"]["name"] == "other"
    error = error_of(http.delete(f"/v1/models/{version.model_id}"), 409)
    assert error["code"] == "model_in_use"


@pytest.mark.parametrize("asked", [{}, {"lora_rank": 24, "lora_alpha": 48}])
def test_a_job_on_a_version_has_the_lora_matrices_of_its_parent(*, http, base, session, project, file_id, asked):
    """In its echo and in its estimate, named or not."""
    made_by = factories.make_job(
        session, "succeeded", project=project, adapter_name="mine", resolved={"lora_rank": 24, "lora_alpha": 48}
    )
    factories.make_version(session, project=project, job=made_by)
    session.commit()
    body = {"parent_adapter": "mine:1", "method": {"type": "sdft", "sdft": {"hyperparameters": asked}}}
    for numbers in (
        post(http, file_id, **body).json()["hyperparameters"],
        http.post(f"{JOBS}/estimate", json={"model": "tiny", "training_file": file_id} | body).json()[
            "hyperparameters"
        ],
    ):
        assert (numbers["lora_rank"], numbers["lora_alpha"]) == (24, 48)


def prompts(num):
    return b"\n".join(b'{"prompt": "Say %d", "completion": "%d"}' % (number, number) for number in range(num))


def warnings(http, job):
    events = http.get(f"{JOBS}/{job['id']}/events").json()["data"]
    return [event["message"] for event in events if event["level"] == "warn"]


@pytest.mark.parametrize("gate", [None, {"min_gain": 0.1}])
def test_a_job_of_which_nothing_is_held_out_says_so_when_it_is_posted(http, base, gate):
    """Equal prompts, but for case and spacing, are one; a validation file is measured on instead."""
    repeated = prompts(23) + b'\n{"prompt": "say  3", "completion": "3"}'
    file_id = upload(http, repeated).json()["id"]
    [message] = warnings(http, post(http, file_id, gate=gate).json())
    assert message.startswith("Nothing of 23 different prompts is held out. The report will have no skill to measure")
    assert message.endswith("It takes 24 different prompts, or a validation file.")
    assert ("the gate cannot pass" in message) == (gate is not None)
    others = upload(http, prompts(12)).json()["id"]
    assert warnings(http, post(http, file_id, validation_file=others).json()) == []
    enough = upload(http, prompts(24)).json()["id"]
    assert warnings(http, post(http, enough, gate=gate).json()) == []
