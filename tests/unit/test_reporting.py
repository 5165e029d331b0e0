"""What a trainer says on its pipe."""

import io
import threading
from pathlib import Path

import pytest

from worker import reporting
from worker.reporting import PipeReporter


def test_a_sign_of_life_is_given_where_nothing_else_was_said_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of a small base take milliseconds: a line for each would be the most of what a supervisor reads."""
    clock = [0.0]
    monkeypatch.setattr(reporting.time, "monotonic", lambda: clock[0])
    pipe = io.BytesIO()
    reporter = PipeReporter(pipe, Path(), threading.Event())
    for clock[0] in (1.0, 4.9, 5.0, 5.1, 9.9, 10.0):
        reporter.working()
    reporter.phase("evaluating")
    for clock[0] in (14.9, 15.0):
        reporter.working()
    assert [line.split(b'"')[3] for line in pipe.getvalue().splitlines()] == [
        b"working",
        b"working",
        b"phase",
        b"working",
    ]
