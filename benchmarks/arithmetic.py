"""What a step has to compute, by definition: nothing padded, nothing remembered, nothing done twice.

Two floating point operations a weight and token. Attention itself is left out: under two per cent at these lengths. A
trainer that remembers what it has computed before does less, and its share of the machine's peak shows that as a gain.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Size:
    """Weights that multiply every token.

    Args:
        linear: In the layers.
        head: In the output embedding.
        lora: In the adapter.
    """

    linear: int
    head: int
    lora: int


@dataclass(frozen=True)
class Work:
    """Tokens of one step, means over the data.

    Args:
        prompt: Of the student's prompts, all sequences together.
        teacher_prompt: Of the teacher's; none where there is no teacher.
        completion: Of the completions.
    """

    prompt: float
    teacher_prompt: float | None
    completion: float


def flop(size: Size, work: Work) -> float:
    """Floating point operations of a step."""
    seen, layers = work.prompt + work.completion, size.linear + size.lora
    # The base is frozen: backwards, its weights only carry the gradient on. A factor's own gradient is a third product.
    student = 2 * (2 * size.linear + 3 * size.lora) * seen + 2 * 2 * size.head * work.completion
    if work.teacher_prompt is None:
        return student
    rollout = 2 * layers * seen + 2 * size.head * work.completion
    teacher = 2 * size.linear * (work.teacher_prompt + work.completion) + 2 * size.head * work.completion
    return rollout + teacher + student


def measure(peft_model: Any) -> Size:
    """Count a model's weights."""
    linear = sum(layer.base_layer.weight.numel() for layer in _adapted(peft_model))
    lora = sum(parameter.numel() for name, parameter in peft_model.named_parameters() if "lora_" in name)
    return Size(linear, peft_model.get_output_embeddings().weight.numel(), lora)


def _adapted(peft_model: Any) -> Iterator[Any]:
    return (module for module in peft_model.modules() if hasattr(module, "lora_A") and hasattr(module, "base_layer"))
