"""TRL's trainer as an arm. What it lets its user set is set as ours is; what is timed is its own code."""

import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import TrainerCallback

from app.domain.training import TrainingConfig
from benchmarks.arithmetic import Work, measure
from benchmarks.arms import BATCH_SIZE, TEMPLATE, Order
from benchmarks.setting import Setting
from benchmarks.trl_trainer import PAPER, OurPrompts, make_trainer, student_factors
from benchmarks.turnstile import Turnstile, peak_memory_bytes


class TimedTrainer(OurPrompts):
    """Adds up the seconds of its phases: rollout with building of the batch, the teacher's pass, all else of a step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seconds = dict.fromkeys(("rollout", "teacher", "student"), 0.0)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        began = time.perf_counter()
        prepared = super()._prepare_inputs(generation_batch)
        self.seconds["rollout"] += time.perf_counter() - began
        return prepared

    def _forward_logits(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        began = time.perf_counter()
        logits: torch.Tensor = super()._forward_logits(*args, **kwargs)
        if not torch.is_grad_enabled():
            self.seconds["teacher"] += time.perf_counter() - began
        return logits

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Rollout, teacher, student, backward; clipping and the optimizer come after it."""
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        began = time.perf_counter()
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.seconds["student"] = time.perf_counter() - began - self.seconds["rollout"] - self.seconds["teacher"]
        return loss

    def num_tokens(self) -> int:
        """Said in the last step."""
        return int(self._buffered_inputs[0]["raw_completion_lengths"].sum())


class TurnstileSteps(TrainerCallback):
    """Passes the turn on before each step but the first, and after the last."""

    def __init__(self, turnstile: Turnstile) -> None:
        self._turnstile = turnstile
        self._began: float | None = None
        self.trainer: TimedTrainer

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """A step's record goes out when the next is about to begin."""
        self._pass_on()
        self._began = time.perf_counter()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """The last step's."""
        self._pass_on()

    def _pass_on(self) -> None:
        if self._began is not None:
            phases = dict(self.trainer.seconds)
            phases["optimizer"] = time.perf_counter() - self._began - sum(phases.values())
            self._turnstile.pass_on(phases=phases, tokens=self.trainer.num_tokens())


def main() -> None:
    """One arm, from its order on the command line to its last word."""
    order, turnstile = Order.from_json(sys.argv[1]), Turnstile()
    setting, steps = Setting(order), TurnstileSteps(turnstile)
    config, paper = setting.config(share=0.0), bool(order.settings["paper"])
    rollouts = {"num_generations": order.settings["rollouts"]} if "rollouts" in order.settings else {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            Path(order.base), setting.demonstrations, Path(folder), lora_rank=config.lora_rank,
            lora_alpha=config.lora_alpha, kind=TimedTrainer, template=TEMPLATE if paper else None,
            settings=make_settings(config, order) | (PAPER if paper else {}) | rollouts, callbacks=[steps],
        )  # fmt: skip
        steps.trainer = trainer
        work = expected_work(trainer, setting, config)
        turnstile.pass_on(size=asdict(measure(trainer.model)), work=asdict(work))
        trainer.train()
    peak = peak_memory_bytes()
    scores = {}
    if not order.new_tokens:
        policy = setting.policy()
        policy.load_student(student_factors(trainer))
        scores["score"] = setting.score(policy)
    turnstile.say(peak_memory_bytes=peak, **scores)


def make_settings(config: TrainingConfig, order: Order) -> dict[str, Any]:
    """Our optimizer, schedule and lengths in TRL's words."""
    settings = {
        "per_device_train_batch_size": BATCH_SIZE,
        "max_steps": config.total_steps,
        "learning_rate": config.learning_rate,
        "warmup_steps": config.warmup_steps,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": config.final_learning_rate_ratio},
        "adam_beta1": config.adam_beta1,
        "adam_beta2": config.adam_beta2,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "max_completion_length": config.max_completion_tokens,
        "num_loss_tokens_to_skip": config.loss_skip_tokens,
        "seed": order.seed,
    }
    return settings | ({"generation_kwargs": {"min_new_tokens": order.new_tokens}} if order.new_tokens else {})


def expected_work(trainer: TimedTrainer, setting: Setting, config: TrainingConfig) -> Work:
    """Tokens of a step, from means over the data."""
    prompts = [list(one.messages) for one in setting.demonstrations]
    shown = trainer.teacher_context_builder.select_generation_prompts(
        prompts, [one.completion for one in setting.demonstrations]
    )
    prompt, teacher_prompt = (fmean(map(len, trainer._tokenize_prompts(kind))) for kind in (prompts, shown))  # noqa: SLF001
    return Work(BATCH_SIZE * prompt, BATCH_SIZE * teacher_prompt, BATCH_SIZE * config.max_completion_tokens)


if __name__ == "__main__":
    main()
