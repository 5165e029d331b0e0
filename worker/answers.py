"""Which weights, on what, gave an answer: the names under which answers are remembered between jobs of this machine."""

from importlib import metadata
from pathlib import Path
from typing import Final

from app.domain.trainer_protocol import AnyOrder
from worker import hf, sdft
from worker.circumstances import code_sha256, hardware
from worker.evals.memory import AnswerMemory
from worker.hf.adapter_files import factors_sha256
from worker.hf.model import HfPolicy

LIBRARIES: Final = ("torch", "transformers", "peft")


def answer_memory(order: AnyOrder, policy: HfPolicy) -> AnswerMemory | None:
    """The machine's memory of answers, asked as this policy; ``None`` if the supervisor names none.

    The policy's weights are those of this moment: what they become later has another digest.
    """
    if order.answers is None:
        return None
    # The revision pins the config too: the same weights under another one may answer otherwise.
    base = f"{order.base.weights_sha256} {order.base.revision}"
    parent, student, twin = (
        f"{base} {alpha} {factors_sha256(factors)}" if factors else base
        for alpha, factors in (
            (policy.parent_alpha, policy.parent_parameters()),
            (policy.lora_alpha, policy.parameters()),
            (policy.lora_alpha, policy.twin_parameters()),
        )
    )
    return AnswerMemory(
        Path(order.answers),
        weights={"base": base, "parent": parent, "student": student, "twin": twin},
        settings={
            "decoding": "greedy",
            # Another order of summing, or another way to decode, may say another token.
            "code": code_sha256(hf, sdft),
            "hardware": hardware(policy.device),
            "dtype": str(policy.head.weight_VH.dtype),
            "stop_ids": sorted(policy.stop_ids),
            "versions": {name: metadata.version(name) for name in LIBRARIES},
        },
    )
