"""What a job says before it trains."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from app.domain.demonstrations import Demonstration
from app.domain.gate import GateRule
from worker.evals.suites import hold_out
from worker.pipeline import Training


@dataclass
class Listener:
    said: list[tuple[str, str]] = field(default_factory=list)

    def event(self, level: str, message: str) -> None:
        self.said.append((level, message))


def training(**order: Any) -> tuple[Training, Listener]:
    one, listener = object.__new__(Training), Listener()
    one.order = SimpleNamespace(**{"validation_sha256": None, "parent": None, "gate": None} | order)  # type: ignore[assignment]
    one.reporter = listener  # type: ignore[assignment]
    return one, listener


def demonstrations(num: int) -> list[Demonstration]:
    return [Demonstration(({"role": "user", "content": f"{number}?"},), "a", number) for number in range(num)]


@pytest.mark.parametrize("gate", [None, GateRule()])
def test_a_validation_file_of_which_nothing_is_left_is_told_of(gate: GateRule | None) -> None:
    """Fault caught: the report comes without a skill, and nobody has said so before."""
    one, listener = training(validation_sha256="0" * 64, gate=gate)
    one.warn_of_no_skill(hold_out(demonstrations(30), demonstrations(20), 1))
    [(level, message)] = listener.said
    assert level == "warn"
    assert "20 were in the training file. The report will have no skill to measure" in message
    assert ("the gate cannot pass" in message) == (gate is not None)


def test_where_something_is_held_out_nothing_is_said() -> None:
    one, listener = training(validation_sha256="0" * 64)
    one.warn_of_no_skill(hold_out(demonstrations(15), demonstrations(20), 1))
    assert listener.said == []
