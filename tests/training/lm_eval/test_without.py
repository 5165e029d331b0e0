"""A worker that lacks lm-evaluation-harness."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.training.test_evaluation import ask, versions
from tests.training.test_pipeline import base, lay_out, run
from worker.reporting import RunFailed

__all__ = ["base", "versions"]


@pytest.fixture(autouse=True)
def _without_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "worker.evals.lm_eval_suite", raising=False)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)


def test_a_worker_without_the_harness_says_so_before_training(base: Any, tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "a", base, tasks=["arc_easy"])
    with pytest.raises(RunFailed, match="is not installed on the worker") as failed:
        run(folder)
    assert (failed.value.code, failed.value.param) == ("suite_unavailable", "evaluation.suites")


def test_and_so_does_an_evaluation_before_it_asks(versions: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="is not installed on the worker") as failed:
        ask(tmp_path / "a", versions, tasks=["arc_easy"])
    assert (failed.value.code, failed.value.param) == ("suite_unavailable", "suites")
    assert not (tmp_path / "a" / "out").exists()
