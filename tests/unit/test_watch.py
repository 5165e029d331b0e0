"""What the live line of a watched job shows."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from app.cli.watch import _Live


@pytest.mark.parametrize(
    ("phase", "own", "shown"),
    [
        ("training", {"phase_done": None, "phase_total": None}, (12, 42)),
        ("comparing", {"phase_done": 0, "phase_total": 40}, (0, 40)),
        ("evaluating", {"phase_done": 300, "phase_total": 900}, (300, 900)),
    ],
)
def test_a_phase_with_a_count_of_its_own_shows_that(phase, own, shown):
    view = _Live(Console(file=io.StringIO(), force_terminal=True))
    view.state(SimpleNamespace(status="running", phase=phase, progress={"step": 12, "total_steps": 42} | own))
    [task] = view._progress.tasks
    assert (task.completed, task.total) == shown
    assert task.fields["count"] == f"{shown[0]}/{shown[1]}"
