"""Checkpoints on disk: a PEFT folder of the student, its tar, and all that a bit-equal continuation needs.

Only safetensors and JSON: nothing here can run code when it is read. Knows where files lie, not what training means.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from app.domain.trainer_protocol import checkpoint_path
from worker.hf.adapted import WEIGHTS_NAME
from worker.hf.adapter_files import write_tar
from worker.sdft.policy import Policy

STATE_NAME = "state.safetensors"
ADAPTER_NAME = "adapter"
TAR_NAME = "adapter.tar"
_FACTS = "facts"


@dataclass(frozen=True)
class CheckpointState:
    """What a run was at the end of a step.

    Args:
        adapter: The student's factors; empty where the policy itself holds them (on the way to disk).
        tensors: Optimizer moments, RNG state, teacher, data order.
        facts: Numbers and lists, as JSON.
    """

    adapter: dict[str, Tensor]
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Checkpoints:
    """Writes the checkpoints of one attempt.

    Args:
        attempt_folder: Where ``checkpoints/step-<n>`` go.
        every_seconds: Time between two.
        base_name: The base as PEFT will look for it.
        base_revision: Its commit or digest.
        constants: What every step's facts have in common.
    """

    def __init__(
        self,
        attempt_folder: Path,
        *,
        every_seconds: float,
        base_name: str,
        base_revision: str,
        constants: Mapping[str, Any] | None = None,
    ) -> None:
        self._attempt_folder = attempt_folder
        self._constants = constants or {}
        self._every_seconds = every_seconds
        self._base_name, self._base_revision = base_name, base_revision
        self._written_at = time.monotonic()

    def due(self) -> bool:
        """Whether the time between two checkpoints has passed."""
        return time.monotonic() - self._written_at >= self._every_seconds

    def write(self, step: int, policy: Policy, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Path:
        """Write a whole checkpoint or none; returns its folder."""
        folder = self._attempt_folder / checkpoint_path(step)
        unfinished = folder.with_name(f".{folder.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        policy.save_adapter(unfinished / ADAPTER_NAME, base_name=self._base_name, base_revision=self._base_revision)
        write_tar(unfinished / ADAPTER_NAME, unfinished / TAR_NAME)
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, unfinished / STATE_NAME, metadata={_FACTS: json.dumps({**self._constants, **facts})})
        for path in [*unfinished.rglob("*"), unfinished]:
            _sync(path)
        shutil.rmtree(folder, ignore_errors=True)  # a resumed attempt may come past a step again
        unfinished.rename(folder)
        _sync(folder.parent)
        self._written_at = time.monotonic()
        return folder


def read_checkpoint(folder: Path) -> CheckpointState:
    """What ``Checkpoints.write`` left in a folder."""
    with safe_open(folder / STATE_NAME, framework="pt") as state:
        facts = json.loads(state.metadata()[_FACTS])
    return CheckpointState(
        adapter=load_file(folder / ADAPTER_NAME / WEIGHTS_NAME), tensors=load_file(folder / STATE_NAME), facts=facts
    )


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
