"""A reporter and checkpoints that only remember."""

from pathlib import Path

import torch

from worker.hf.checkpoint import CheckpointState


class Remembered:
    """Reporter; asks to stop after a step if told so."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.steps: list[dict[str, float]] = []
        self.checkpoints: list[int] = []
        self._stop_after = stop_after

    def step(self, step, total_steps, trained_tokens, metrics):
        assert step <= total_steps
        self.steps.append({"step": step, "trained_tokens": trained_tokens} | metrics)

    def event(self, _level, message, **_data):
        raise AssertionError(message)

    def checkpoint(self, step, _folder, _metrics):
        self.checkpoints.append(step)

    def should_stop(self):
        return self.steps[-1]["step"] == self._stop_after

    def curve(self, name):
        return [step[name] for step in self.steps]


class Kept:
    """Checkpoints in memory; one is due after every step, or only the last is written."""

    def __init__(self, *, every_step: bool = False) -> None:
        self.states: dict[int, CheckpointState] = {}
        self._every_step = every_step

    def due(self):
        return self._every_step

    def write(self, step, policy, tensors, facts):
        adapter = {name: parameter.detach().clone() for name, parameter in policy.parameters().items()}
        self.states[step] = CheckpointState(
            adapter, {name: torch.clone(tensor) for name, tensor in tensors.items()}, facts
        )
        return Path(f"step-{step}")
