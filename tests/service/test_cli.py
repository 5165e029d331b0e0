"""The ``sdft`` command against a served application: what it prints, and its exit codes."""

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.db.clock import NOW
from app.db.models import Adapter, AdapterVersion, Evaluation, File, Job, Project
from app.services import publishing, runs
from app.services.publishing import EvaluationResults
from app.storage.store import StoredBlob
from tests import factories

CRITERION = {
    "question": "gain", "suite": "home", "against": "base", "n": 40, "value": 0.5, "low": 0.4, "high": 0.6,
    "limit": 0.05, "verdict": "pass", "sentence": "home: gain +0.500.",
}  # fmt: skip
RULE = {"min_gain": 0.05, "max_forgetting": 0.02, "confidence": 0.9, "on_pass": None}
SUMMARY = {
    "recommendation": "ship",
    "headline": "Ship it.",
    "skill": {"sentence": "Right."},
    "retention": {"sentence": "Kept."},
    "ceiling": {"sentence": "All of it."},
}
SUITE = {
    "name": "home",
    "role": "skill",
    "measure": "share_right",
    "n": 40,
    "arms": [
        {"arm": "candidate", "score": {"value": 0.9, "low": 0.8, "high": 0.95}, "nll": None, "field_f1": None},
    ],
    "comparisons": [],
    "changes": [],
    "flips": [],
}
REPORT = {
    "title": "home:1", "summary": SUMMARY, "suites": [SUITE], "lineage": [], "kept": [], "behaviour": [], "drift": [],
    "errors": [], "caveats": [], "cost": {"seconds": {}, "trained_tokens": 0, "generated_tokens": 0},
    "method": {"scorer": "exact", "scorer_reason": "asked for", "split": "Half was held out."},
}  # fmt: skip


@pytest.fixture
def sdft(live):
    address, secret = live

    def run(*arguments, **environment):
        named = {name: value for name, value in os.environ.items() if not name.startswith("SDFT_")} | environment
        command = [sys.executable, "-m", "app.cli", *arguments, "--url", address, "--key", secret]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=named)

    return run


@pytest.fixture
def line(live, committed_sessions, store):
    """Version 1 passed its gate, version 2 did not; their jobs."""
    jobs = []
    with committed_sessions.begin() as session:
        project = session.query(Project).filter_by(name="acme").one()
        for verdict in ("pass", "fail"):
            job = factories.make_job(session, "succeeded", project=project, adapter_name="home", gate=RULE)
            factories.make_version(
                session,
                project=project,
                adapter=session.query(Adapter).one_or_none(),
                job=job,
                version=len(jobs) + 1,
                report=REPORT,
                store=store,
                gate={"rule": RULE, "verdict": verdict, "criteria": [CRITERION | {"verdict": verdict}]},
            )
            factories.make_event(session, job)
            jobs.append(job.id)
    return jobs


def test_promote_moves_an_alias_or_says_that_the_gate_is_in_the_way(sdft, line):
    promoted = sdft("adapters", "promote", "home:1", "--alias", "production")
    assert (promoted.returncode, promoted.stderr) == (0, "")
    assert promoted.stdout.startswith("home@production points at home:1 (ft:")
    refused = sdft("adapters", "promote", "home:2", "--alias", "production")
    assert refused.returncode == 2
    assert "--override --reason TEXT" in refused.stderr
    unfounded = sdft("adapters", "promote", "home:2", "--alias", "production", "--override")
    assert unfounded.returncode == 1
    assert "add reason" in unfounded.stderr
    forced = sdft(
        "adapters", "promote", "home:2", "--alias", "production", "--override", "--reason", "Hotfix.", "--json"
    )
    assert json.loads(forced.stdout)["version"] == 2
    listed = sdft("adapters", "list").stdout.splitlines()
    assert [line.split()[:2] for line in listed[2:]] == [["home:2", "production"]]
    assert "fail" in listed[2]


def test_promote_moves_no_alias_that_has_moved_since(sdft, line):
    def override(version, *more):
        return sdft(
            "adapters", "promote", version, "--alias", "production", "--override", "--reason", "Test.", "--json", *more
        )

    seen = json.loads(override("home:1").stdout)["audit_log_id"]
    assert json.loads(override("home:2", "--if-match", f'"{seen}"').stdout)["version"] == 2
    late = override("home:1", "--if-match", seen)
    assert (late.returncode, json.loads(late.stdout)["error"]["code"]) == (1, "alias_moved")


def test_an_empty_etag_is_none_that_an_alias_has(sdft, line):
    """Fault caught: a variable that was not set took the condition away, and the alias moved whoever had moved it."""
    sdft("adapters", "promote", "home:1", "--alias", "production")
    forced = ("--override", "--reason", "Test.", "--if-match", "")
    refused = sdft("adapters", "promote", "home:2", "--alias", "production", *forced)
    assert refused.returncode == 1
    assert "If-Match has no ETag of an alias" in refused.stderr
    assert json.loads(sdft("adapters", "list", "--json").stdout)[0]["versions"][0]["aliases"] == ["production"]


def test_an_adapter_whose_versions_are_all_deleted_is_said_to_have_none(sdft, line, committed_sessions):
    with committed_sessions.begin() as session:
        session.query(AdapterVersion).update({"deleted_at": NOW})
    assert sdft("adapters", "list").stdout == "No adapter has a version; a job makes one: sdft jobs create\n"
    assert [one["versions"] for one in json.loads(sdft("adapters", "list", "--json").stdout)] == [[]]
    latest = sdft("adapters", "pull", "home")
    assert latest.returncode == 1
    assert "home has no version left" in latest.stderr
    shown = sdft("adapters", "lineage", "home").stdout
    assert "90% (80% to 95%)" in shown
    assert "every version of this adapter is deleted" in shown


def test_an_alias_is_removed_and_the_audit_log_says_why(sdft, line):
    sdft("adapters", "promote", "home:1", "--alias", "production")
    gone = sdft("adapters", "remove-alias", "home@production", "--reason", "Too slow.")
    assert (gone.returncode, gone.stdout) == (0, "home@production is gone; its version stays.\n")
    removed, moved = sdft("adapters", "audit").stdout.splitlines()[1:]
    assert "home@production" in moved
    assert removed.split()[2:5] == ["home@production", "1", "removed"]
    assert removed.endswith("Too slow.")
    unnamed = sdft("adapters", "remove-alias", "home")
    assert unnamed.returncode == 1
    assert "NAME@ALIAS" in unnamed.stderr


def test_promote_wants_a_version(sdft, line):
    result = sdft("adapters", "promote", "home", "--alias", "production")
    assert result.returncode == 1
    assert "NAME:VERSION" in result.stderr


def test_watch_and_report_leave_with_what_the_gate_says(sdft, line):
    passed, failed = line
    assert sdft("jobs", "watch", passed).returncode == 0
    watched = sdft("jobs", "watch", failed)
    assert watched.returncode == 2
    assert "Gate: fail" in watched.stdout
    shown = sdft("report", passed)
    assert shown.returncode == 0
    assert "Gate: pass\n  pass: home: gain +0.500." in shown.stdout
    assert sdft("report", failed).returncode == 2
    assert sdft("report", failed, "--json").returncode == 2


def test_a_report_is_written_as_a_page_and_opened_in_a_browser(sdft, line, tmp_path):
    shown = sdft("report", line[0], "--open", BROWSER="echo opened %s", TMPDIR=str(tmp_path))
    assert shown.returncode == 0
    address = shown.stdout.partition("opened ")[2].strip()
    assert address.startswith(f"file://{tmp_path}/")
    assert Path(address.removeprefix("file://")).read_text() == "<!doctype html>"
    page = tmp_path / "mine.html"
    assert sdft("report", line[1], "--html", page, "--json").returncode == 2  # the page is written all the same
    assert page.read_text() == "<!doctype html>"


def test_without_a_browser_one_is_told_where_the_page_lies(sdft, line, tmp_path):
    failed = sdft("report", line[0], "--open", "--html", tmp_path / "mine.html", BROWSER="no-such-browser %s")
    assert failed.returncode == 1
    assert f"the page lies in {tmp_path / 'mine.html'}" in failed.stderr


def test_lineage_is_a_table_for_people_and_json_for_programs(sdft, line):
    shown = sdft("adapters", "lineage", "home").stdout
    assert [row.split()[0] for row in shown.splitlines()[3:6]] == ["base", "home:1", "home:2"]
    assert "90% (80% to 95%)" in shown
    found = json.loads(sdft("adapters", "lineage", "home", "--json").stdout)
    assert found["object"] == "adapter.lineage"
    missing = sdft("adapters", "lineage", "nothing")
    assert missing.returncode == 1
    assert "list" in missing.stderr


def test_evaluate_asks_each_version(sdft, line, tmp_path):
    asked = sdft("evaluate", "home:1", "home:2", "--suite", "general", "--against", "base")
    assert (asked.returncode, asked.stderr) == (0, "")
    ids = [row for row in asked.stdout.splitlines() if row.startswith("eval-")]
    assert len(ids) == 2
    unread = sdft("report", ids[0])
    assert unread.returncode == 1
    assert "is queued and has no report" in unread.stderr
    shown = json.loads(sdft("evaluate", "home:1", "--suite", "general", "--json").stdout)
    assert (shown["status"], shown["suites"]) == ("queued", ["general"])
    (tmp_path / "mine.jsonl").write_bytes(b'{"prompt": "6 * 7?", "expected": "42", "scorer": "numeric"}\n')
    mine = ("--suite", str(tmp_path / "mine.jsonl"), "--suite", "general", "--json")
    both = [json.loads(line) for line in sdft("evaluate", "home:1", "home:2", *mine).stdout.splitlines()]
    assert [shown["suites"][1] for shown in both] == ["general", "general"]
    [file_id] = {shown["suites"][0] for shown in both}  # uploaded once
    assert file_id.startswith("file-")
    again = json.loads(sdft("evaluate", "home:1", "--suite", file_id, "--json").stdout)
    assert again["suites"] == [file_id]
    task = json.loads(sdft("evaluate", "home:1", "--suite", "lm_eval:arc_easy", "--json").stdout)
    assert task["suites"] == ["lm_eval:arc_easy"]
    late = sdft("evaluate", "home:1", "home:99", "--suite", "general")
    assert (late.returncode, late.stdout.startswith("eval-")) == (1, True)  # what was queued before is told of
    missing = sdft("evaluate", "home:1", "--suite", "nofile.jsonl")
    assert missing.returncode == 1
    assert "nofile.jsonl is no file on this machine" in missing.stderr
    refused = sdft("evaluate", "home:1", "--suite", "generel")
    assert refused.returncode == 1
    assert '"general"' in refused.stderr


@pytest.mark.parametrize(("ends", "exit_code", "said"), [("succeeded", 0, "Ship it."), ("cancelled", 3, "cancelled.")])
def test_evaluate_watches_until_the_report_is_there(*, sdft, line, committed_sessions, ends, exit_code, said):
    def end():
        while True:
            with committed_sessions.begin() as session:
                claim = runs.claim_next(session, factories.make_worker(session).id, 60)
                if claim and ends == "cancelled":
                    runs.request_cancel(session, session.get_one(Job, claim.job_id))
                    runs.cancel(session, claim)
                elif claim:
                    blobs = [factories.make_blob(session, content) for content in (b"{}", b"<!doctype html>")]
                    files = [StoredBlob(blob.sha256, blob.num_bytes) for blob in blobs]
                    publishing.publish_evaluation(session, claim, EvaluationResults(REPORT, *files))
            if claim:
                return
            time.sleep(0.05)

    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(end)
        watched = sdft("evaluate", "home:1", "--suite", "general", "--watch")
        worker.result()
    assert watched.returncode == exit_code
    assert said in watched.stdout


def test_create_takes_a_gate_by_pairs(sdft, tmp_path):
    (tmp_path / "train.jsonl").write_bytes(factories.TRAINING_LINES)
    job = sdft(
        "jobs", "create", "--model", "org/tiny", "--training-file", str(tmp_path / "train.jsonl"), "--json",
        "--gate", "min_gain=0.2", "--gate", "on_pass=production",
    )  # fmt: skip
    assert json.loads(job.stdout)["gate"] | {"criteria": []} == {
        "min_gain": 0.2, "max_forgetting": 0.1, "confidence": 0.95, "on_pass": "production", "verdict": None,
        "criteria": [],
    }  # fmt: skip


def test_create_takes_hyperparameters_by_their_dotted_names(sdft, tmp_path):
    (tmp_path / "train.jsonl").write_bytes(factories.TRAINING_LINES)
    create = ("jobs", "create", "--model", "org/tiny", "--training-file", str(tmp_path / "train.jsonl"), "--json")
    job = sdft(
        *create, "--set", "objective.kind=isdft", "--set", 'teacher={"kind": "ema"}', "--set", "teacher.rate=0.5"
    )
    asked = json.loads(job.stdout)["hyperparameters"]
    assert (asked["objective"]["kind"], asked["teacher"]["kind"], asked["teacher"]["rate"]) == ("isdft", "ema", 0.5)
    for twice in (("objective=1", "objective.kind=isdft"), ("teacher.rate=0.5", 'teacher={"kind": "ema"}')):
        refused = sdft(*create, "--set", twice[0], "--set", twice[1])
        assert refused.returncode == 1
        assert "set" in json.loads(refused.stdout)["error"]["message"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--gate", "0.05"), "NAME=VALUE"),
        (("--metadata", "team"), "NAME=VALUE"),
        (("--method", "dpo"), "dpo"),
        (("--model", "org/tinny"), "there are: org/tiny"),
        (("--validation-file", "heldout.jsonl"), "--validation-file: heldout.jsonl is neither"),
        (("--suite", "mine.jsonl"), "--suite: mine.jsonl is neither"),
    ],
)
def test_nothing_is_uploaded_for_a_job_that_cannot_be(*, sdft, tmp_path, committed_sessions, wrong, said):
    """Fault caught: each failed try leaves a copy of the file behind."""
    (tmp_path / "train.jsonl").write_bytes(factories.TRAINING_LINES)
    refused = sdft(
        "jobs", "create", "--model", "org/tiny", "--training-file", str(tmp_path / "train.jsonl"), *wrong
    )  # fmt: skip
    assert refused.returncode in {1, 64}
    assert said in refused.stderr
    with committed_sessions() as session:
        assert session.query(File).count() == 0


def test_an_error_is_told_once_and_with_what_it_is_about(sdft, tmp_path):
    create = ("jobs", "create", "--model", "org/tiny", "--training-file", "file-x")
    missing = sdft(*create).stderr.splitlines()
    assert len(missing) == 1
    assert missing[0].endswith("(training_file)")
    unknown = sdft(*create, "--set", "epochs=3").stderr.splitlines()
    assert len(unknown) == 1
    assert "epochs is not a parameter here" in unknown[0]
    several = sdft(*create, "--set", "epochs=3", "--seed", "-1").stderr.splitlines()
    assert [line.removeprefix("Error:").split()[0] for line in several] == [
        "method.sdft.hyperparameters.epochs",
        "seed",
    ]


def test_findings_of_an_upload_say_where_they_are(sdft, tmp_path):
    bad = b'{"messages": [{"role": "wizard", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}\n'
    (tmp_path / "bad.jsonl").write_bytes(bad)
    one = sdft("upload", str(tmp_path / "bad.jsonl"))
    assert one.returncode == 4
    [told] = one.stderr.splitlines()
    assert told.startswith("Error: line 1, messages[0].role: The role")
    (tmp_path / "bad.jsonl").write_bytes(bad * 2)
    several = sdft("upload", str(tmp_path / "bad.jsonl")).stderr.splitlines()
    assert [line.partition(": ")[0] for line in several[1:]] == [
        "  line 1, messages[0].role",
        "  line 2, messages[0].role",
    ]


def test_questions_that_are_uploaded_as_demonstrations_are_known_for_what_they_are(sdft, tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "6 * 7?", "expected": "42", "scorer": "numeric"}\n')
    for command in ("upload", str(tmp_path / "mine.jsonl")), ("upload", str(tmp_path / "mine.jsonl"), "--json"):
        refused = sdft(*command)
        assert refused.returncode == 4
        assert ("--purpose evals" in refused.stderr) == ("--json" not in command)
    assert sdft("upload", str(tmp_path / "mine.jsonl"), "--purpose", "evals").returncode == 0


def test_a_job_is_shown_in_json_and_in_times_that_people_read(sdft, line):
    shown = dict(row.split(maxsplit=1) for row in sdft("jobs", "show", line[0]).stdout.splitlines()[1:])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", shown["created_at"].strip())
    assert shown["gate"].startswith('{"min_gain": 0.05')
    assert json.loads(shown["progress"])["total_steps"] is None


def test_a_report_is_promised_only_where_there_may_be_one(sdft, line, committed_sessions):
    def told(named):
        shown = sdft("report", named)
        assert (shown.returncode, shown.stdout) == (1, "")
        return " ".join(shown.stderr.split()).removeprefix("Error: ")

    broken, cancelled, waiting = (
        json.loads(sdft("evaluate", "home:1", "--suite", "general", "--json").stdout)["id"] for _ in range(3)
    )
    with committed_sessions.begin() as session:
        project = session.query(Project).filter_by(name="acme").one()
        jobs = {
            status: factories.make_job(session, status, project=project).id
            for status in ("failed", "cancelled", "queued")
        }
        claim = runs.claim_next(session, factories.make_worker(session).id, 60)
        runs.fail_or_retry(session, claim, "internal_error", "It broke.")
    sdft("evaluations", "cancel", cancelled)
    for failed in (broken, jobs["failed"]):
        assert told(failed) == f"{failed} has failed (internal_error), so there will be no report: It broke."
    for ended in (cancelled, jobs["cancelled"]):
        assert told(ended) == f"{ended} was cancelled. There will be no report."
    for waits in (waiting, jobs["queued"]):
        assert told(waits) == f"{waits} is queued and has no report; it has one once it has succeeded."


def test_a_report_is_found_by_its_version_too(sdft, line):
    sdft("adapters", "promote", "home:1", "--alias", "production")
    by_job = sdft("report", line[0]).stdout
    assert [sdft("report", version).stdout for version in ("home:1", "home@production")] == [by_job, by_job]
    unknown = sdft("report", "home")
    assert unknown.returncode == 1
    assert "NAME:VERSION" in unknown.stderr


def test_evaluations_are_listed_shown_and_cancelled(sdft, line):
    asked = json.loads(sdft("evaluate", "home:1", "--suite", "general", "--json").stdout)["id"]
    listed = [row.split() for row in sdft("evaluations", "list").stdout.splitlines()[1:]]
    assert listed[0][0] == asked
    assert [row[3:5] for row in listed] == [["queued", "home:1"], ["succeeded", "home:2"], ["succeeded", "home:1"]]
    assert json.loads(sdft("evaluations", "show", asked, "--json").stdout)["status"] == "queued"
    assert "queued" in sdft("evaluations", "show", asked).stdout
    assert sdft("evaluations", "cancel", asked).stdout == f"{asked} is cancelled.\n"
    assert json.loads(sdft("evaluations", "list", "--limit", "1", "--json").stdout)[0]["status"] == "cancelled"


def test_keys_have_names_that_tell_them_apart(committed_sessions, database_url, tmp_path):
    def keys(*arguments):
        environment = os.environ | {"SDFT_DATABASE__URL": database_url, "SDFT_HOME": str(tmp_path)}
        command = [sys.executable, "-m", "app.cli", "keys", *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)

    assert keys("create", " ").returncode == 64
    first = json.loads(keys("create", "alice", "--json").stdout)
    twice = keys("create", "alice")
    assert twice.returncode == 1
    assert first["id"] in twice.stderr
    assert "revoke" in twice.stderr
    assert keys("create", "alice", "--project", "other").returncode == 0
    keys("revoke", first["id"])
    assert keys("create", "alice").returncode == 0


@pytest.mark.parametrize(
    ("asked", "rate"), [(["supervised"], 5e-4), (["supervised=1e-4"], 1e-4)], ids=["by name", "with a learning rate"]
)
def test_create_takes_a_comparison(sdft, tmp_path, asked, rate):
    (tmp_path / "train.jsonl").write_bytes(factories.TRAINING_LINES)
    create = ("jobs", "create", "--model", "org/tiny", "--training-file", str(tmp_path / "train.jsonl"), "--json")
    job = sdft(*create, "--compare", *asked)
    assert json.loads(job.stdout)["compare"] == [{"method": "supervised", "learning_rate": rate}]


def test_create_takes_tasks_beside_files_of_questions(sdft, tmp_path):
    (tmp_path / "train.jsonl").write_bytes(factories.TRAINING_LINES)
    (tmp_path / "mine.jsonl").write_text('{"prompt": "6 * 7?", "expected": "42", "scorer": "numeric"}\n')
    job = sdft(
        "jobs", "create", "--model", "org/tiny", "--training-file", str(tmp_path / "train.jsonl"), "--json",
        "--suite", "lm_eval:arc_easy", "--suite", str(tmp_path / "mine.jsonl"),
    )  # fmt: skip
    task, file_id = json.loads(job.stdout)["evaluation"]["suites"]
    assert task == "lm_eval:arc_easy"
    assert file_id.startswith("file-")


def test_create_takes_a_number_of_seeds(sdft, tmp_path):
    (tmp_path / "train.jsonl").write_bytes(factories.TRAINING_LINES)
    create = ("jobs", "create", "--model", "org/tiny", "--training-file", str(tmp_path / "train.jsonl"))
    job = sdft(*create, "--json", "--seeds", "3")
    assert json.loads(job.stdout)["evaluation"]["seeds"] == 3
    refused = sdft(*create, "--seeds", "6")
    assert refused.returncode == 1
    assert "evaluation.seeds" in refused.stderr


def test_a_comparison_that_does_not_exist_is_refused_with_the_nearest(sdft, tmp_path):
    (tmp_path / "train.jsonl").write_bytes(factories.TRAINING_LINES)
    refused = sdft(
        "jobs", "create", "--model", "org/tiny", "--training-file", str(tmp_path / "train.jsonl"),
        "--compare", "supervize",
    )  # fmt: skip
    assert refused.returncode == 1
    assert 'did you mean "supervised"?' in refused.stderr


def test_a_report_shows_the_twin_beside_the_version(sdft, line, committed_sessions):
    twin = SUITE["arms"][0] | {"arm": "supervised", "score": {"value": 0.6, "low": 0.5, "high": 0.7}}
    beside = {"sentence": "Plain fine-tuning on the same data: learned 24 of 40.", "kept": [], "flips": {}}
    with committed_sessions.begin() as session:
        evaluation = session.query(Evaluation).filter_by(job_id=line[0]).one()
        suite = SUITE | {"arms": [*SUITE["arms"], twin]}
        evaluation.report = REPORT | {"suites": [suite], "supervised": beside}
    shown = [" ".join(row.split()) for row in sdft("report", line[0]).stdout.splitlines()]
    assert beside["sentence"] in shown
    assert "supervised 60% 50 to 70" in shown
