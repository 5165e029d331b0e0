"""Estimates over HTTP: what a job would take, before it is posted, by what earlier ones took."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from app.db.models import Base, Evaluation, Job, JobMetric, Worker
from app.domain.training import SdftHyperparameters
from tests import factories
from tests.service.conftest import error_of, make_counting_base, upload

JOBS = "/v1/fine_tuning/jobs"
HERE = {"device": "cpu", "machine": "x86_64", "threads": 2}


def lines(num: int, *, prompt: int, answer: int, document: int = 0) -> bytes:
    beside = {"document": "d " * document} if document else {}
    return b"".join(
        json.dumps({"prompt": "p " * (prompt - 1) + f"n{number}", "completion": "a " * answer} | beside).encode()
        + b"\n"
        for number in range(num)
    )


@pytest.fixture
def base(session, store):
    """A base with room for four hundred words."""
    return make_counting_base(session, store, context_tokens=400)


def ask(http, file_id, **fields):
    return http.post(f"{JOBS}/estimate", json={"model": "tiny", "training_file": file_id} | fields)


def told(http, file_id, **fields):
    response = ask(http, file_id, **fields)
    assert response.status_code == 200, response.json()
    return response.json()


def sdft(**numbers):
    return {"method": {"type": "sdft", "sdft": {"hyperparameters": numbers}}}


def seconds_of(config, *, prompt: int, answer: int, said: float, answers: int, compared: bool) -> dict[str, float]:
    """How long things take on a machine of these tests: not as the service counts, but not unlike."""
    step = 0.3 + 0.001 * config["batch_size"] * (prompt + 1.6 * answer + 2.5 * said)
    rehearsed = round(config["batch_size"] * config["rehearsal_share"] / (1 - config["rehearsal_share"]))
    step += 0.0015 * rehearsed * (prompt + 1.2 * config["max_completion_tokens"])
    twin = config["total_steps"] * (0.1 + 0.0007 * config["batch_size"] * (prompt + 1.6 * answer))
    return {
        "loading": 2,
        "checking": 3,
        "training": config["total_steps"] * step,
        "evaluation_answers": 4 + 0.06 * answers,
    } | ({"comparing": twin} if compared else {})


@pytest.fixture
def finish(session, project, store):
    """Put a finished job into the database, as this machine would have run it."""

    def make(
        http, *, prompt=30, answer=12, num=64, said=9.0, pace=1.0, hardware=HERE, parent=None, settings=None,
        compare=None, replicating=0.0, harness=0.0, measure="share_right", peak=2 << 30, **values,
    ):  # fmt: skip
        file_id = upload(http, lines(num, prompt=prompt, answer=answer)).json()["id"]
        estimate = told(http, file_id, **({"parent_adapter": parent.model_id} if parent else {}))
        config = {
            **estimate["hyperparameters"],
            "method": "sdft",
            "seed": 1,
            "template": "multi_turn",
            **(settings or {}),
        }
        arms = ["base", "candidate"] + ["parent"] * bool(parent) + ["supervised"] * bool(compare)
        reused = {"general ability": ["base", "parent"]} if parent else {}
        suites = [
            {"name": "general ability", "role": "general", "n": 312, "arms": arms},
            {
                "name": "own",
                "role": "skill",
                "measure": measure,
                "n": estimate["examples"]["held_out"],
                "arms": [*arms, "ceiling"],
            },
        ] + [{"name": "old", "role": "earlier", "n": 8, "arms": arms[1:]}] * bool(parent)
        decoded = {suite["name"]: suite["n"] for suite in suites} | ({} if measure == "share_right" else {"own": 16})
        answers = sum(
            decoded[suite["name"]] * (len(suite["arms"]) - len(reused.get(suite["name"], []))) for suite in suites
        )
        seconds = seconds_of(
            config, prompt=prompt + 8, answer=answer + 1, said=said, answers=answers, compared=bool(compare)
        )
        seconds = {phase: pace * value for phase, value in seconds.items()}
        seconds |= {"replicating": replicating} if replicating else {}
        if harness:
            seconds |= {"evaluation_tasks": harness}
            suites.append({"name": "lm_eval:arc_easy", "role": "client", "n": 2000, "arms": arms})
        total = sum(seconds.values()) + 12
        ended = datetime.now(UTC)
        fixed = {
            "project": project, "resolved": config, "fence": 1, "trained_tokens": 4000, "finished_at": ended,
            "started_at": ended - timedelta(seconds=total), "parent_version_id": parent and parent.id,
            "compare": compare,
        }  # fmt: skip
        row = factories.make_job(
            session, "succeeded", training_file=session.get_one(factories.models.File, file_id), **fixed | values
        )
        for step in range(1, config["total_steps"] + 1):
            session.add(JobMetric(job_id=row.id, step=step, fence=1, values={"completion_tokens_mean": said}))
        cost = {"seconds": seconds, "trained_tokens": 4000, "generated_tokens": 1, "peak_memory_bytes": peak}
        report = {
            "suites": suites,
            "method": {"answers_reused": reused},
            "cost": cost,
            "provenance": {"hardware": hardware},
        }
        version = factories.make_version(session, project=project, job=row, report=report, store=store)
        session.commit()
        return version, total

    return make


def test_one_finished_job_predicts_the_next_within_a_quarter(http, base, finish):
    first, took_first = finish(http)
    longer = upload(http, lines(160, prompt=60, answer=30)).json()["id"]
    estimate = told(http, longer, parent_adapter=first.model_id)
    _, took = finish(http, prompt=60, answer=30, num=160, said=22.0, parent=first)
    assert estimate["calibrated_on"] == 1
    assert estimate["hardware"] == HERE
    assert estimate["peak_memory_bytes"] == 2 << 30
    assert estimate["seconds"]["p50"] == pytest.approx(took, rel=0.25)
    assert took > 1.4 * took_first  # the first job's own time would not do
    assert estimate["seconds"]["p90"] == pytest.approx(1.25 * estimate["seconds"]["p50"], abs=0.2)


def test_a_twin_is_part_of_what_a_job_will_take(http, base, finish):
    compare = {"method": "supervised", "learning_rate": 2e-4}
    first, took_alone = finish(http)
    same = upload(http, lines(64, prompt=30, answer=12)).json()["id"]
    alone = told(http, same, parent_adapter=first.model_id)["seconds"]["p50"]
    guessed = told(http, same, parent_adapter=first.model_id, compare=["supervised"])["seconds"]["p50"]
    assert guessed > alone + 312 * 0.06  # it answers general questions, and trains
    second, took = finish(http, parent=first, compare=compare)
    assert took > took_alone
    estimate = told(http, same, parent_adapter=second.model_id, compare=["supervised"])
    assert estimate["calibrated_on"] == 2
    assert estimate["seconds"]["p50"] == pytest.approx(took, rel=0.25)
    without = told(http, same, parent_adapter=second.model_id)["seconds"]["p50"]
    assert without == pytest.approx(alone, rel=0.15)


def test_other_seeds_are_part_of_what_a_job_will_take(http, base, finish):
    _, alone = finish(http)
    same = upload(http, lines(64, prompt=30, answer=12)).json()["id"]
    one = told(http, same)["seconds"]["p50"]
    three = told(http, same, evaluation={"seeds": 3})["seconds"]["p50"]
    again = seconds_of_one_more_run(http, same)
    assert three - one == pytest.approx(2 * again, rel=0.25)
    compared = told(http, same, evaluation={"seeds": 3}, compare=["supervised"])["seconds"]["p50"]
    one_compared = told(http, same, compare=["supervised"])["seconds"]["p50"]
    assert compared - three == pytest.approx(3 * (one_compared - one), rel=0.05)  # a twin for each
    finish(http, replicating=5 * alone)
    assert told(http, same)["calibrated_on"] == 2
    assert told(http, same)["seconds"]["p50"] == pytest.approx(one, rel=0.05)  # what a job of one seed takes is known


def seconds_of_one_more_run(http, file_id):
    """Its training, and its answers to general and held-out questions."""
    estimate = told(http, file_id)
    seconds = seconds_of(
        estimate["hyperparameters"], prompt=38, answer=13, said=9.0, answers=312 + estimate["examples"]["held_out"],
        compared=False,
    )  # fmt: skip
    return seconds["training"] + seconds["evaluation_answers"]


def test_questions_of_ones_own_are_counted_and_those_of_the_harness_named(http, base, finish):
    finish(http)
    same = upload(http, lines(64, prompt=30, answer=12)).json()["id"]
    content = b"".join(b'{"prompt": "%d?", "expected": "no", "scorer": "exact"}\n' % number for number in range(100))
    content += content.splitlines(keepends=True)[0] * 300  # repeated, so not asked
    suite = http.post("/v1/files", files={"file": ("own.jsonl", content)}, data={"purpose": "evals"}).json()["id"]
    without = told(http, same)
    own = told(http, same, evaluation={"suites": [suite]})
    assert (without["not_counted"], own["not_counted"]) == ([], [])
    assert own["seconds"]["p50"] - without["seconds"]["p50"] == pytest.approx(0.06 * 2 * 100, rel=0.25)
    both = told(http, same, evaluation={"suites": ["lm_eval:arc_easy", suite, "lm_eval:ifeval"]})
    assert both["not_counted"] == ["lm_eval:arc_easy", "lm_eval:ifeval"]
    assert both["seconds"] == own["seconds"]


def test_of_texts_that_are_not_judged_a_few_answers_are_counted(http, base, finish):
    first, took = finish(http, num=400, answer=60, said=61.0, measure="negative_nll")
    free = upload(http, lines(400, prompt=30, answer=60)).json()["id"]
    as_before, judged = told(http, free), told(http, free, evaluation={"scorer": "contains"})
    assert as_before["examples"]["held_out"] == 40
    an_answer = (judged["seconds"]["p50"] - as_before["seconds"]["p50"]) / ((40 - 16) * 3)
    assert an_answer == pytest.approx(0.06 + 4 / (312 * 2 + 16 * 3), rel=0.03)
    assert as_before["seconds"]["p50"] == pytest.approx(took - 312 * an_answer, rel=0.002)  # the base's are remembered
    # The skill before, of which 16 of 40 are decoded, is asked of parent and candidate.
    onto = told(http, free, parent_adapter=first.model_id, **sdft(rehearsal={"share": 1 / 3}))
    assert onto["seconds"]["p50"] - as_before["seconds"]["p50"] == pytest.approx((16 + 2 * 16) * an_answer, abs=0.2)
    content = b"".join(b'{"prompt": "%d?", "expected": "no", "scorer": "nll"}\n' % number for number in range(100))
    suite = http.post("/v1/files", files={"file": ("own.jsonl", content)}, data={"purpose": "evals"}).json()["id"]
    texts = told(http, free, evaluation={"suites": [suite]})
    assert texts["seconds"]["p50"] - as_before["seconds"]["p50"] == pytest.approx(2 * 16 * an_answer, abs=0.2)


def test_what_the_harness_asked_tells_nothing_of_a_job_without(http, base, finish):
    finish(http)
    same = upload(http, lines(64, prompt=30, answer=12)).json()["id"]
    without = told(http, same)["seconds"]["p50"]
    finish(http, harness=3000.0)
    estimate = told(http, same)
    assert estimate["calibrated_on"] == 2
    assert estimate["seconds"]["p50"] == pytest.approx(without, rel=0.05)


def test_answers_that_were_remembered_took_no_time(http, base, finish):
    first, _ = finish(http, fence=2)
    _, took = finish(http, parent=first)
    same = upload(http, lines(64, prompt=30, answer=12)).json()["id"]
    estimate = told(http, same, parent_adapter=first.model_id)
    assert estimate["calibrated_on"] == 1
    assert estimate["seconds"]["p50"] == pytest.approx(took, rel=0.05)


def test_without_a_finished_job_times_are_null_and_what_can_be_counted_is_told(http, base, file_id):
    file_id = upload(http, lines(64, prompt=30, answer=12)).json()["id"]
    estimate = told(http, file_id, **sdft(n_epochs=2, batch_size=8, max_completion_tokens=20))
    assert (estimate["calibrated_on"], estimate["seconds"], estimate["peak_memory_bytes"]) == (0, None, None)
    assert estimate["peak_memory_is_at_least"] is False
    assert estimate["hardware"] is None
    assert estimate["examples"] == {"total": 64, "held_out": 8}
    assert estimate["steps"] == 2 * 56 / 8
    assert estimate["tokens"]["prompt"] == 56 * (30 + 4 + 4)
    assert estimate["tokens"]["demonstration"] == 56 * (12 + 1)
    # All answers as long as the demonstrations, and rehearsal to its limit.
    assert estimate["tokens"]["trained"] == 14 * (8 * 13 + 4 * 20)
    assert estimate["object"] == "fine_tuning.job.estimate"
    assert SdftHyperparameters().n_epochs == "auto" != estimate["hyperparameters"]["num_epochs"]


def test_automatic_steps_count_the_token_that_ends_a_demonstration_as_the_worker_does(http, base):
    """Fault caught: the demo's third skill was estimated at a token less, and took two epochs more."""
    training, validation = (upload(http, lines(num, prompt=30, answer=16)).json()["id"] for num in (64, 20))
    # Of samples 48 steps, and 18 for each of 17 tokens above 8, in whole epochs of 8.
    sampled = {"method": {"type": "sdft", "sdft": {"hyperparameters": {"offline_share": 0}}}}
    assert told(http, training, validation_file=validation, **sampled)["steps"] == 216
    assert told(http, training, validation_file=validation)["steps"] == 48


def test_documents_are_counted_for_the_teacher_that_reads_them(http, base, finish):
    finish(http)
    without, beside = (upload(http, lines(64, prompt=30, answer=12, document=words)).json()["id"] for words in (0, 200))
    plain, estimate = told(http, without), told(http, beside)
    assert (plain["tokens"]["document"], estimate["tokens"]["document"]) == (0, 56 * (200 + 2))
    assert {**estimate["tokens"], "document": 0} == plain["tokens"]
    assert estimate["seconds"]["p50"] > 1.5 * plain["seconds"]["p50"]
    asked = {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 8}}}}
    assert told(http, beside, **asked)["tokens"]["document"] == 0


def test_tokens_of_a_supervised_job_are_exact(http, base):
    file_id = upload(http, lines(64, prompt=30, answer=12)).json()["id"]
    asked = {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 8}}}}
    assert told(http, file_id, **asked)["tokens"]["trained"] == 2 * 56 * 13


def test_prompts_are_told_apart_as_the_worker_does_in_all_of_a_large_file(http, base):
    """Fault caught: of 2,500 lines a third was looked at, and case and spacing told prompts apart."""
    thrice = [f"{text} {number}" for number in range(30) for text in ("Say", "say", "SAY ")]
    content = b"".join(json.dumps({"prompt": text, "completion": "a"}).encode() + b"\n" for text in thrice)
    examples = told(http, upload(http, content).json()["id"])["examples"]
    assert examples == {"total": 90, "held_out": 8}
    content = b"".join(b'{"prompt": "p%d", "completion": "a"}\n' % (number // 3) for number in range(2500))
    examples = told(http, upload(http, content).json()["id"])["examples"]
    assert examples == {"total": 2500, "held_out": 83}


def test_a_validation_file_is_what_is_held_out(http, base):
    training, validation = (upload(http, lines(num, prompt=30, answer=12)).json()["id"] for num in (64, 20))
    assert told(http, training, validation_file=validation)["examples"] == {"total": 64, "held_out": 20}


def test_demonstrations_longer_than_an_answer_may_be_are_told_by_line(http, base):
    content = lines(20, prompt=5, answer=8) + lines(1, prompt=6, answer=30) + lines(5, prompt=7, answer=8)
    file_id = upload(http, content).json()["id"]
    one = {"count": 1, "counted": 26, "lines": [21]}
    assert told(http, file_id, **sdft(max_completion_tokens=9))["truncations"] == one
    assert told(http, file_id, **sdft(max_completion_tokens=8))["truncations"]["count"] == 26
    none = {"count": 0, "counted": 26, "lines": []}
    assert told(http, file_id, **sdft(max_completion_tokens=31))["truncations"] == none


def test_truncations_of_a_large_file_say_how_many_examples_were_looked_at(http, base):
    file_id = upload(http, lines(2500, prompt=5, answer=8)).json()["id"]
    truncations = told(http, file_id, **sdft(max_completion_tokens=8))["truncations"]
    assert (truncations["count"], truncations["counted"]) == (834, 834)
    assert len(truncations["lines"]) == 100


def test_jobs_of_its_kind_are_found_behind_many_newer_ones_of_another(http, base, finish):
    finish(http)
    for _ in range(11):
        finish(http, settings={"teacher": {"kind": "ema", "rate": 0.01, "every": 1}})
    file_id = upload(http, lines(64, prompt=30, answer=12)).json()["id"]
    assert told(http, file_id)["calibrated_on"] == 1
    assert told(http, file_id, **sdft(teacher={"kind": "ema"}))["calibrated_on"] == 10
    assert told(http, file_id, **sdft(anchor_weight=0.1))["calibrated_on"] == 0


def test_jobs_that_sampled_as_many_of_their_rollouts_tell_best_and_others_where_there_are_none(http, base, finish):
    """Fault caught: a job that samples, timed by jobs that sampled nothing."""
    file_id = upload(http, lines(64, prompt=30, answer=12)).json()["id"]
    finish(http, pace=1.0, settings={"offline_share": 1.0})
    sampled = sdft(offline_share=0)
    assert told(http, file_id, **sampled)["calibrated_on"] == 1
    finish(http, pace=3.0, settings={"offline_share": 0.0})
    finish(http, pace=3.0, settings={"offline_share": 0.0})
    assert told(http, file_id)["calibrated_on"] == 1
    assert told(http, file_id, **sampled)["calibrated_on"] == 2


def test_memory_is_that_of_a_job_that_was_no_smaller_and_else_said_to_be_at_least_so_much(http, base, finish):
    finish(http, num=64, prompt=30, answer=12, peak=2 << 30)
    finish(http, num=64, prompt=90, answer=40, peak=5 << 30)
    small, between, large = (
        upload(http, lines(num, prompt=prompt, answer=answer)).json()["id"]
        for num, prompt, answer in ((64, 30, 12), (64, 60, 20), (64, 150, 40))
    )

    def memory(file_id, **numbers):
        estimate = told(http, file_id, **sdft(**numbers))
        return estimate["peak_memory_bytes"], estimate["peak_memory_is_at_least"]

    assert memory(small) == (2 << 30, False)
    assert memory(between) == (5 << 30, False)
    assert memory(large) == (5 << 30, True)
    assert memory(small, batch_size=56) == (5 << 30, True)
    assert memory(small, lora_rank=200) == (5 << 30, True)


def test_the_wait_is_that_of_the_jobs_before(http, base, session, finish, project):
    file_id = upload(http, lines(64, prompt=30, answer=12)).json()["id"]
    assert told(http, file_id)["queue"] == {"waiting": 0, "workers": 0, "wait_seconds": None}
    worker = factories.make_worker(session)
    session.commit()
    assert told(http, file_id)["queue"] == {"waiting": 0, "workers": 1, "wait_seconds": 0.0}
    _, took = finish(http)
    factories.make_job(session, project=project)
    factories.make_job(session, "running", project=project)
    session.execute(update(Job).where(Job.status == "running").values(started_at=func.clock_timestamp()))
    long_ago = datetime.now(UTC) - timedelta(minutes=5)
    session.execute(update(Worker).where(Worker.id != worker.id).values(heartbeat_at=long_ago))
    session.commit()
    queue = told(http, file_id)["queue"]
    assert (queue["waiting"], queue["workers"]) == (1, 1)
    # The one that runs has just begun, and another one waits.
    assert queue["wait_seconds"] == pytest.approx(2 * took, rel=0.05)


def test_an_evaluation_before_a_job_is_waited_for_as_long_as_evaluations_take(http, base, session, finish, project):
    file_id = upload(http, lines(64, prompt=30, answer=12)).json()["id"]
    factories.make_worker(session)
    _, took = finish(http)
    ended = datetime.now(UTC)
    asked = {"project": project, "kind": "evaluation"}
    factories.make_job(session, project=project)
    factories.make_job(session, **asked)
    session.execute(update(Worker).values(heartbeat_at=ended))
    session.commit()
    assert told(http, file_id)["queue"]["wait_seconds"] is None  # of evaluations nothing is known yet
    for seconds in (2, 3, 4):
        times = {"started_at": ended - timedelta(seconds=seconds), "finished_at": ended}
        factories.make_job(session, "succeeded", **asked, **times)
    session.commit()
    queue = told(http, file_id)["queue"]
    assert queue["waiting"] == 2
    assert queue["wait_seconds"] == pytest.approx((took + 3) / queue["workers"], rel=0.01)


@pytest.mark.parametrize(
    "values",
    [
        {"method": "supervised"},
        {"fence": 2},
        {"hardware": HERE | {"threads": 64}},
        {"settings": {"teacher": {"kind": "ema", "rate": 0.01, "every": 1}}},
    ],
    ids=["another method", "a second attempt", "other hardware", "another teacher"],
)
def test_jobs_of_another_kind_tell_nothing(http, base, finish, values):
    finish(http, pace=50.0, **values)
    finish(http)  # the newest is what the next one will be like
    file_id = upload(http, lines(64, prompt=30, answer=12)).json()["id"]
    estimate = told(http, file_id)
    assert (estimate["calibrated_on"], estimate["hardware"]) == (1, HERE)


def test_jobs_whose_report_or_file_is_gone_are_passed_over(http, base, session, finish):
    finish(http)
    version, _ = finish(http)
    session.execute(update(Evaluation).where(Evaluation.version_id == version.id).values(report={"suites": []}))
    version, _ = finish(http)
    file_id = session.get_one(Job, version.job_id).training_file_id
    session.execute(
        update(factories.models.File).where(factories.models.File.id == file_id).values(deleted_at=datetime.now(UTC))
    )
    session.commit()
    assert told(http, upload(http, lines(64, prompt=30, answer=12)).json()["id"])["calibrated_on"] == 1


def test_nothing_is_created(http, base, session, broker):
    file_id = upload(http, lines(64, prompt=30, answer=12)).json()["id"]

    def counts():
        return {
            table.name: session.scalar(select(func.count()).select_from(table)) for table in Base.metadata.sorted_tables
        }

    before = counts()
    told(http, file_id)
    assert counts() == before
    assert not broker.rung


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "none"},
        {"training_file": "file-" + "0" * 32},
        {"parent_adapter": "none:1"},
        {"n_epoch": 3},
        sdft(n_epochs=99),
        {"training_file": None},
        {"validation_file": "file-" + "1" * 32},
        sdft(max_completion_tokens=399),
    ],
)
def test_what_cannot_be_posted_cannot_be_estimated_and_says_the_same(http, base, wrong):
    file_id = upload(http, lines(64, prompt=30, answer=12)).json()["id"]
    body = {"model": "tiny", "training_file": file_id} | wrong
    posted, asked = (error_of(http.post(path, json=body), 400) for path in (JOBS, f"{JOBS}/estimate"))
    assert asked == posted


def test_an_example_that_does_not_fit_is_told_by_line(http, base):
    file_id = upload(http, lines(20, prompt=5, answer=8) + lines(1, prompt=350, answer=80)).json()["id"]
    assert [finding["line"] for finding in error_of(ask(http, file_id), 400)["errors"]] == [21]
