"""Tasks of lm-evaluation-harness in an evaluation asked for by itself: as in the job that made the version."""

import io
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from app.cli.report_view import show_report
from app.domain.trainer_protocol import MESSAGES, EvaluationOrder, Order, ParentRef
from app.domain.training import SdftHyperparameters
from tests.training.test_pipeline import QUICK, base, lay_out, run
from worker import evaluation
from worker.evals import lm_eval_suite
from worker.pipeline import open_attempt
from worker.reporting import PipeReporter, RunFailed

__all__ = ["base"]

TASKS = ["sdft_choose", "sdft_say"]
ASKED = [f"lm_eval:{task}" for task in TASKS]


@pytest.fixture(scope="module", autouse=True)
def _loaded_manager(tasks_folder: Path) -> Any:
    """It takes seconds to read thousands of YAMLs."""
    manager = lm_eval_suite.open_manager(tasks_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_eval_suite, "open_manager", lambda _: manager)
        yield


@pytest.fixture(scope="module")
def job(base: Any, tasks_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that asked the tasks of the version that it made."""
    quick = SdftHyperparameters.model_validate(QUICK | {"learning_rate": 0.01, "n_epochs": 4})
    folder = lay_out(tmp_path_factory.mktemp("attempts") / "job", base, tasks=TASKS, hyperparameters=quick)
    run(folder)
    return folder


def ask(folder: Path, job: Path, **order: Any) -> tuple[Any, list[Any]]:
    """Ask the job's version; the report, and what was said on the pipe."""
    given = {
        "job_id": "ftjob-2",
        "attempt": 1,
        "base": Order.model_validate_json((job / "order.json").read_bytes()).base,
        "version": ParentRef(adapter="lamp", version=1, model_id="ft:tiny:default:lamp:1"),
        "against": None,
        "goes_on": False,
        "skills": [],
        "general": False,
        "rehearsed": True,
        "num_threads": 1,
    }
    shutil.copytree(job / "out" / "adapter", folder / "version")
    (folder / "order.json").write_text(EvaluationOrder.model_validate(given | order).model_dump_json())
    pipe = io.BytesIO()
    open_attempt(folder, PipeReporter(pipe, folder, threading.Event())).run()
    messages = [MESSAGES.validate_json(line) for line in pipe.getvalue().splitlines()]
    return json.loads((folder / "out" / "report.json").read_text()), messages


def test_it_reports_of_a_version_what_the_versions_own_report_says(job: Path, tmp_path: Path) -> None:
    report, messages = ask(tmp_path / "asked", job, tasks=TASKS)
    own = [one for one in json.loads((job / "out" / "report.json").read_text())["suites"] if one["name"] in ASKED]
    assert [one["name"] for one in own] == ASKED
    # P-values, and with them verdicts, are adjusted over all that was tested for loss: in the job that was more.
    free = {"p_value": None, "loss_p_value": None, "verdict": None}
    for suite in (*report["suites"], *own):
        suite["comparisons"] = [one | free for one in suite["comparisons"]]
    assert report["suites"] == own
    assert any(one["flips"] for one in report["suites"])
    assert {row["suite"] for row in report["kept"]} == set(ASKED)
    assert (report["behaviour"], report["errors"]) == ([], [])
    progress = [(message.done, message.total) for message in messages if message.kind == "progress"]
    assert progress[-1] == (72, 72)  # 24 and 12 items of two arms
    assert messages[-1].kind == "report_finished"


def test_page_and_terminal_show_them(job: Path, tmp_path: Path) -> None:
    report, _ = ask(tmp_path / "asked", job, tasks=TASKS)
    console = Console(record=True, width=200, file=io.StringIO())
    show_report(report, None, console)
    shown = [console.export_text(), (tmp_path / "asked" / "out" / "report.html").read_text()]
    for name in ASKED:
        assert all(name in view for view in shown)
    flip = next(one["flips"][0] for one in report["suites"] if one["flips"])
    assert all(flip["expected"][0] in view for view in shown)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("sdft_chose", r"There is no task sdft_chose .* Did you mean sdft_choose"),
        ("sdft_no_data", "The data of lm_eval:sdft_no_data are not on the worker"),
        ("sdft_perplexity", "neither right nor wrong"),
    ],
)
def test_what_cannot_be_asked_is_told_before_anything_is(job: Path, tmp_path: Path, task: str, says: str) -> None:
    with pytest.raises(RunFailed, match=says) as failed:
        ask(tmp_path / "a", job, general=True, tasks=["sdft_choose", task])
    assert (failed.value.code, failed.value.param) == ("suite_unavailable", "suites")
    assert not (tmp_path / "a" / "out").exists()


@pytest.fixture
def _breaking_late(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_later(*given: Any) -> Any:
        tasks, missing = open_tasks(*given)
        monkeypatch.setattr(tasks[0].tasks["sdft_say"], "process_results", lambda *_: 1 / 0)
        return tasks, missing

    open_tasks = evaluation.open_tasks
    monkeypatch.setattr(evaluation, "open_tasks", break_later)


@pytest.mark.usefixtures("_breaking_late")
def test_a_suite_that_breaks_late_costs_itself_and_not_the_others(job: Path, tmp_path: Path) -> None:
    report, _ = ask(tmp_path / "a", job, general=True, tasks=["sdft_say"])
    assert [suite["name"] for suite in report["suites"]] == ["general ability"]
    assert any("ZeroDivisionError" in caveat for caveat in report["caveats"])


@pytest.mark.usefixtures("_breaking_late")
def test_one_that_has_no_others_ends_without_a_report(job: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="lm_eval:sdft_say cannot be asked here: ZeroDivisionError") as failed:
        ask(tmp_path / "a", job, tasks=["sdft_say"])
    assert (failed.value.code, failed.value.param) == ("suite_unavailable", "suites")
    assert not (tmp_path / "a" / "out").exists()
