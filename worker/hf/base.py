"""A base model in memory: frozen weights and a tokenizer, loaded once, shared by every adapter that is trained on it.

Knows no adapters. A trainer process serves one job after the other on the same base, so nothing here may change.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from worker.hf.chat import Chat
from worker.sdft.products import linear

_AS_INTEGERS = {2: torch.int16, 4: torch.int32}


class NoDevice(Exception):
    """The device that the operator has named is not there."""


@dataclass(frozen=True)
class Base:
    """Weights that no job changes, and how they speak.

    Args:
        model: A transformers causal LM; never wrapped itself, see ``fresh_model``.
        chat: Its tokenizer and template.
        loaded_checksum: Of the weights as they were read, before any job.
    """

    model: Any
    chat: Chat
    loaded_checksum: int

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto", num_threads: int | None = None) -> Self:
        """Read a base from disk.

        Args:
            folder: Safetensors weights, config, tokenizer with chat template.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            num_threads: CPU threads; as many as torch likes if not given.

        Raises:
            ValueError: The base has no usable chat template.
            NoDevice: There is no such device.
        """
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        on_cpu = torch.device(device).type == "cpu"
        if not on_cpu and not torch.cuda.is_available():
            raise NoDevice(f"The worker was told to compute on {device}, and sees no such device.")
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32 if on_cpu else torch.bfloat16, local_files_only=True
        )
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = _FrozenLinear  # around the same weight, which may be the embedding's too
        model = model.to(device).requires_grad_(requires_grad=False)
        return cls(model, Chat.load(folder), _checksum(model))

    def fresh_model(self) -> Any:
        """The model as it was loaded: modules, config and buffers of its own, around the same weights.

        What PEFT, or anything else, does to the modules of one job ends with them.
        """
        shared = {id(parameter): parameter for parameter in self.model.parameters()}
        return copy.deepcopy(self.model, memo=shared)

    def checksum(self) -> int:
        """Of the weights as they are now."""
        return _checksum(self.model)


class _FrozenLinear(nn.Linear):
    """A linear layer whose weight has no gradient."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Map [..., I] to [..., O]."""
        return super().forward(input) if torch.is_grad_enabled() else linear(input, self.weight, self.bias)


@torch.no_grad()
def _checksum(model: Any) -> int:
    """Sum of all weights, read as integers: one flipped bit makes it another."""
    weights = (parameter.flatten().view(_AS_INTEGERS[parameter.itemsize]) for parameter in model.parameters())
    return sum(int(weight.sum()) for weight in weights)
