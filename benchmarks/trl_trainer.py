"""TRL's ``SDFTTrainer`` on our data and our prompts: the other side of parity tests and benchmarks.

Everything that TRL lets its user say is said through its configuration. Only the teacher's conversation goes past it: a
template string cannot express a demonstration that was played as a turn.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.experimental.sdft import SDFTConfig, SDFTTrainer

from app.domain.demonstrations import Demonstration
from worker.sdft.prompts import teacher_messages

PAPER = {
    "distillation_mode": "full_logits",
    "distillation_alpha": 0.0,
    "teacher_model_kind": "base",
    "num_generations": 1,
    "gradient_checkpointing": False,
}
"""What makes TRL's step the paper's: forward KL over the full vocabulary, a frozen teacher, one rollout a prompt."""


class OurPrompts(SDFTTrainer):  # type: ignore[misc]
    """Shows the teacher a demonstration in one of our templates.

    Args:
        template: One of ``worker.sdft.prompts.TEMPLATES``; none leaves TRL its own string.
    """

    def __init__(self, *args: Any, template: str | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if template:
            self.teacher_context_builder._compose_teacher_prompt = lambda prompt, answer: teacher_messages(  # noqa: SLF001
                template, Demonstration(line=0, messages=prompt, completion=answer)
            )


def make_dataset(demonstrations: Sequence[Demonstration]) -> Dataset:
    """Demonstrations as TRL wants them."""
    return Dataset.from_list(
        [{"prompt": list(one.messages), "privileged_context": one.completion} for one in demonstrations]
    )


def make_trainer(
    base_folder: Path, demonstrations: Sequence[Demonstration], output_folder: Path, *, lora_rank: int,
    lora_alpha: int, settings: dict[str, Any], kind: type[SDFTTrainer] = OurPrompts, **kwargs: Any,
) -> SDFTTrainer:  # fmt: skip
    """A trainer in fp32 on the CPU that says nothing and saves nothing.

    Args:
        base_folder: Weights and tokenizer.
        demonstrations: What it trains on, in this order if ``settings`` turn shuffling off.
        output_folder: TRL wants one.
        lora_rank: Of a new adapter on all linear layers.
        lora_alpha: Of the same.
        settings: For ``SDFTConfig``.
        kind: The class.
        kwargs: For its constructor.
    """
    config = SDFTConfig(
        output_dir=str(output_folder), use_cpu=True, bf16=False, report_to="none", save_strategy="no",
        logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False, **settings,
    )  # fmt: skip
    lora = LoraConfig(
        r=lora_rank, lora_alpha=lora_alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return kind(
        model=AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32, local_files_only=True),
        args=config,
        train_dataset=make_dataset(demonstrations),
        processing_class=AutoTokenizer.from_pretrained(base_folder, padding_side="left", local_files_only=True),
        peft_config=lora,
        **kwargs,
    )


def student_factors(trainer: SDFTTrainer) -> dict[str, torch.nn.Parameter]:
    """The factors that it trains, by the names that they have in an adapter file."""
    return {
        name.replace(".default.", "."): parameter
        for name, parameter in trainer.model.named_parameters()
        if ".default." in name
    }
