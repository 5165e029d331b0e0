"""What a worker lays out for an evaluation asked for by itself, and that it ends like any other attempt."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.db.models import Adapter, AdapterVersion, Evaluation, File, Job
from app.domain.ids import new_id
from app.domain.trainer_protocol import ORDERS, EvaluationOrder, Finished, ReportFinished, Taught
from app.services import runs
from tests import factories
from tests.worker.conftest import TIMES, Site
from worker import attempt
from worker.workspace import prepare

CONFIG = {
    "seed": 1, "num_epochs": 2, "batch_size": 8, "total_steps": 10, "learning_rate": 1e-3, "warmup_steps": 2,
    "lora_rank": 4, "lora_alpha": 8, "max_completion_tokens": 16,
}  # fmt: skip


@pytest.fixture
def asked(site: Site) -> str:
    """Of a second version beside the first: on its skill, general ability, two files of one name, and a task."""
    with site.sessions.begin() as session:
        project = factories.make_project(session)
        first = factories.make_version(session, project=project, store=site.store, heldout=b"one\n", files={"a": b"1"})
        line = session.get_one(Adapter, first.adapter_id)
        second = factories.make_version(
            session, project=project, adapter=line, version=2, store=site.store, heldout=b"two\n", files={"a": b"2"}
        )
        factories.store_bytes(site.store, factories.TRAINING_LINES)
        questions = [
            factories.make_file(
                session, project, store=site.store, content=content, filename="mine.jsonl", purpose="evals"
            )
            for content in (b"three\n", b"four\n")
        ]
        job = Job(
            id=new_id("ftjob"), project_id=project.id, kind="evaluation", base_model=line.base_model,
            hyperparameters={}, seed=0, adapter_name=line.name, status="queued", phase="waiting",
        )  # fmt: skip
        session.add(job)
        session.flush()
        evaluation = Evaluation(
            id=new_id("eval"), project_id=project.id, job_id=job.id, version_id=second.id,
            against_version_id=first.id,
            suites=[
                {"name": "x:1", "version_id": first.id}, {"name": "general", "version_id": None},
                *({"name": file.id, "version_id": None, "file_id": file.id} for file in questions),
                {"name": "lm_eval:arc_easy", "version_id": None, "task": "arc_easy"},
            ],
        )  # fmt: skip
        session.add(evaluation)
        return evaluation.id


def order_of(site: Site, claim: runs.Claim | None, folder: str) -> EvaluationOrder:
    """What `claim`'s evaluation is told to do, laid out in a new `folder` of the site's."""
    assert claim is not None
    (site.folder / folder).mkdir()
    order = prepare(
        site.resources(), claim, site.folder / folder,
        answers=site.folder / "answers", tasks_folder=site.folder / "tasks", checkpoint_seconds=60.0,
        device="cpu", num_threads=2,
    )  # fmt: skip
    assert isinstance(order, EvaluationOrder)
    return order


def test_the_folder_holds_both_versions_and_the_questions(site: Site, asked: str) -> None:
    order_of(site, site.claim(site.slot()), "attempt")
    folder = site.folder / "attempt"
    order = ORDERS.validate_json((folder / "order.json").read_bytes())
    assert isinstance(order, EvaluationOrder)
    assert order.base.tokenizer_sha256 == hashlib.sha256(b"a tokenizer").hexdigest()
    assert (order.version.version, order.against and order.against.version) == (2, 1)
    assert (folder / "version" / "a").read_bytes() == b"2"
    assert (folder / "parent" / "a").read_bytes() == b"1"
    [skill] = order.skills
    assert (skill.version, skill.scorer, skill.max_completion_tokens) == (1, "exact", 16)
    assert (folder / skill.path).read_bytes() == b"one\n"
    assert (order.general, order.goes_on) == (True, False)
    assert [suite.name.partition(" (")[0] for suite in order.suites] == ["file mine.jsonl"] * 2
    assert len({suite.name for suite in order.suites}) == 2
    assert [(folder / suite.path).read_bytes() for suite in order.suites] == [b"three\n", b"four\n"]
    assert (order.tasks, order.tasks_folder) == (["arc_easy"], str(site.folder / "tasks"))
    assert (order.answers, order.device, order.num_threads) == (str(site.folder / "answers"), "cpu", 2)
    assert [suite.sha256 for suite in order.suites] == [
        hashlib.sha256(one).hexdigest() for one in (b"three\n", b"four\n")
    ]
    assert skill.sha256 == hashlib.sha256(b"one\n").hexdigest()


@pytest.mark.parametrize(
    ("resolved", "rehearsed"),
    [
        ({"method": "sdft", "rehearsal_share": 0.33}, True),
        ({"method": "sdft", "rehearsal_share": 0.33, "rehearsal_prompts": "self"}, False),
        ({"method": "sdft", "rehearsal_share": 0.0}, False),
        ({"method": "supervised"}, False),
    ],
    ids=["shipped prompts", "its own prompts", "none", "a supervised job"],
)
def test_what_counts_as_rehearsed_is_what_the_versions_job_rehearsed(
    *, site: Site, asked: str, resolved: dict[str, Any], rehearsed: bool
) -> None:
    with site.sessions.begin() as session:
        version = session.get_one(AdapterVersion, session.get_one(Evaluation, asked).version_id)
        session.get_one(Job, version.job_id).resolved = CONFIG | resolved
    order = order_of(site, site.claim(site.slot()), "attempt")
    assert order.rehearsed is rehearsed


def test_what_a_version_before_it_rehearsed_counts_too(site: Site, asked: str) -> None:
    """Fault caught: kinds that version 1 rehearsed were called other kinds, as version 2 was taught by itself."""
    with site.sessions.begin() as session:
        evaluation = session.get_one(Evaluation, asked)
        second = session.get_one(AdapterVersion, evaluation.version_id)
        second.parent_version_id = evaluation.against_version_id
        first = session.get_one(AdapterVersion, evaluation.against_version_id)
        session.get_one(Job, first.job_id).resolved = CONFIG | {"method": "sdft", "rehearsal_share": 0.33}
        session.get_one(Job, second.job_id).resolved = CONFIG | {"method": "supervised"}
    assert order_of(site, site.claim(site.slot()), "attempt").rehearsed


def test_skills_are_ordered_by_ancestry_and_those_of_others_are_told_apart(site: Site, asked: str) -> None:
    """Whatever the order of the request: the report's matrix goes from the oldest to the newest."""
    with site.sessions.begin() as session:
        evaluation = session.get_one(Evaluation, asked)
        second = session.get_one(AdapterVersion, evaluation.version_id)
        second.parent_version_id = evaluation.against_version_id
        first = session.get_one(AdapterVersion, evaluation.against_version_id)
        [of_first] = session.scalars(select(Evaluation).where(Evaluation.job_id == first.job_id))
        score = {"value": 0.9, "low": 0.8, "high": 1.0}
        of_first.report = {
            "suites": [
                {
                    "name": "x", "role": "skill", "measure": "share_right", "n": 40, "comparisons": [],
                    "arms": [{"arm": "candidate", "score": score, "num_right": 36}],
                }
            ]
        }  # fmt: skip
        line = session.get_one(Adapter, second.adapter_id)
        third = factories.make_version(
            session, adapter=line, version=3, parent_version_id=second.id, store=site.store, heldout=b"three\n"
        )
        named = (third.id, str(evaluation.against_version_id), second.id)
        evaluation.suites = [{"name": version_id, "version_id": version_id} for version_id in named]
    order = order_of(site, site.claim(site.slot()), "attempt")
    assert [(skill.version, skill.inherited) for skill in order.skills] == [(2, True), (1, True), (3, False)]
    assert order.goes_on
    # What its ancestors scored, and not what its own report said: that is asked anew.
    assert [(one.version.partition(":")[2], one.value) for one in order.past] == [("1", 0.9)]


def test_what_both_versions_were_trained_on_is_known_unless_it_was_deleted(site: Site, asked: str) -> None:
    claim = site.claim(site.slot())
    with site.sessions() as session:
        evaluation = session.get_one(Evaluation, asked)
        second_id, first_id = evaluation.version_id, str(evaluation.against_version_id)
        name = session.get_one(Adapter, session.get_one(AdapterVersion, second_id).adapter_id).name
    for folder, deleted_at in (("before", None), ("after", datetime.now(UTC))):
        with site.sessions.begin() as session:
            version = session.get_one(AdapterVersion, second_id)
            file = session.get_one(File, session.get_one(Job, version.job_id).training_file_id)
            file.deleted_at = deleted_at
        order = order_of(site, claim, folder)
        taught, gone = order.taught, deleted_at is not None
        assert taught.files == ([] if gone else [f"rehearsal/{second_id}.jsonl"])
        assert (taught.versions, taught.deleted) == ([f"{name}:2"], [f"{name}:2"] if gone else [])
        assert taught.held_out == [f"held_out/{second_id}.jsonl"]
        assert (site.folder / folder / taught.held_out[0]).read_bytes() == b"two\n"
        assert order.against_taught == Taught(
            versions=[f"{name}:1"], files=[f"rehearsal/{first_id}.jsonl"], held_out=[f"held_out/{first_id}.jsonl"]
        )
    for version_id in (first_id, second_id):
        assert (site.folder / "before" / f"rehearsal/{version_id}.jsonl").read_bytes() == factories.TRAINING_LINES


@pytest.mark.parametrize(
    ("suite", "looked_up"),
    [({"name": "general"}, True), ({"name": "lm_eval:arc_easy", "task": "arc_easy"}, False)],
    ids=["general ability", "a task of the harness"],
)
def test_training_files_come_along_where_what_is_asked_is_looked_up_in_them(
    *, site: Site, asked: str, suite: dict[str, str], looked_up: bool
) -> None:
    """Fault caught: a version trained on questions of general ability, asked nothing else, and not a word of that."""
    with site.sessions.begin() as session:
        session.get_one(Evaluation, asked).suites = [{"version_id": None, **suite}]
    order = order_of(site, site.claim(site.slot()), "attempt")
    assert [len(taught.files) for taught in (order.taught, order.against_taught)] == [looked_up, looked_up]


def test_the_report_is_stored_and_the_job_has_succeeded(site: Site, asked: str, tmp_path: Path) -> None:
    slot = site.slot()
    claim = site.claim(slot)
    assert claim is not None
    out = tmp_path / "attempt" / "out"
    out.mkdir(parents=True)
    (out / "report.json").write_text(json.dumps({"suites": []}))
    (out / "report.html").write_text("<!doctype html>")
    conclude(slot, claim, out.parent, ReportFinished())
    with site.sessions() as session:
        evaluation = session.get_one(Evaluation, asked)
        assert evaluation.report == {"suites": []}
        job = session.get_one(Job, evaluation.job_id)
        assert (job.status, [entry["kind"] for entry in job.result_file_ids]) == ("succeeded", ["report"])
        file = session.get_one(File, job.result_file_ids[0]["file_id"])
        assert (file.filename, file.purpose) == (f"{asked}-report.json", "fine-tune-results")
        assert evaluation.html_sha256 is not None
    stored = site.folder / "store" / "blobs" / evaluation.html_sha256[:2] / evaluation.html_sha256
    assert stored.read_text() == "<!doctype html>"
    assert site.versions(claim.job_id) == []


def test_a_lost_worker_leaves_it_to_another_one(site: Site, asked: str) -> None:
    with site.sessions.begin() as session:
        claim = runs.claim_next(session, factories.make_worker(session).id, -1)
        assert claim is not None
        assert runs.reap(session) == [claim.job_id]
        again = runs.claim_next(session, factories.make_worker(session).id, 60)
        assert again == runs.Claim(claim.job_id, claim.fence + 1)


def conclude(slot: attempt.Slot, claim: runs.Claim, folder: Path, end: Finished | ReportFinished) -> None:
    """The last step of an attempt whose trainer said ``end``."""
    with attempt.LeaseKeeper(slot.resources.sessions, claim, TIMES, claimed_at=attempt.time.monotonic()) as keeper:
        one: Any = attempt.Attempt(slot, claim, keeper, folder)
        one._publish(end)
