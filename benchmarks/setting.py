"""What both trainers of a comparison start from: data, and every number that a job would choose.

Holds no weights by itself: what is measured of an arm's memory is the trainer's alone.
"""

import json
from pathlib import Path

import torch

from app.demo.skills import DATA
from app.domain.demonstrations import Demonstration, read_demonstrations
from app.domain.distillation import Auto
from app.domain.training import (
    Hyperparameters,
    Method,
    RehearsalRequest,
    SdftHyperparameters,
    SupervisedHyperparameters,
    TrainingConfig,
    resolve,
)
from benchmarks.arms import BATCH_SIZE, LORA_ALPHA, LORA_RANK, TEMPLATE, Order
from worker.dataset import Lengths
from worker.evals.scorers import SCORERS, infer_scorer
from worker.evals.suites import Split
from worker.hf.base import Base
from worker.hf.chat import Chat
from worker.hf.import_model import FACTS_NAME
from worker.hf.model import HfPolicy
from worker.sdft.policy import Arm


class Setting:
    """A skill of the demo on a base.

    Attributes:
        demonstrations: To train on.
        heldout: To be scored on.
        lengths: Of both in tokens.
    """

    def __init__(self, order: Order) -> None:
        torch.set_num_threads(order.threads)
        self._base = Path(order.base)
        self.demonstrations = read_demonstrations(DATA / f"{order.skill}.jsonl")[: order.num_demonstrations]
        self.heldout: list[Demonstration] = read_demonstrations(DATA / f"{order.skill}-heldout.jsonl")
        self.lengths = Lengths.of(
            Split(training=self.demonstrations, heldout=self.heldout, statement=""), Chat.load(self._base)
        )
        self._order = order

    def config(self, *, method: Method = "sdft", share: float | Auto = "auto", rollouts: int = 1) -> TrainingConfig:
        """A job's, with the batch, rank and number of steps that all arms share.

        Args:
            method: ``sdft`` or ``supervised``.
            share: Of rehearsal.
            rollouts: Of each prompt; a step has as many prompts fewer.
        """
        order = self._order
        asked: Hyperparameters = SupervisedHyperparameters(
            batch_size=BATCH_SIZE, lora_rank=LORA_RANK, lora_alpha=LORA_ALPHA
        )
        if method == "sdft":
            asked = SdftHyperparameters(
                batch_size=BATCH_SIZE // rollouts,
                rollouts_per_prompt=rollouts,
                offline_share=0.0,  # TRL has none
                lora_rank=LORA_RANK,
                lora_alpha=LORA_ALPHA,
                template=TEMPLATE,
                rehearsal=RehearsalRequest(share=share),
                max_completion_tokens=order.new_tokens or "auto",
            )
        size = json.loads((self._base / FACTS_NAME).read_text())["num_parameters"]
        config = resolve(
            asked, method=method, seed=order.seed, facts=self.lengths.facts, num_parameters=size, has_earlier=False
        )
        return config.model_copy(update={"total_steps": order.steps})

    def policy(self) -> HfPolicy:
        """A new adapter."""
        return HfPolicy.on(
            Base.load(self._base, device="cpu"),
            lora_rank=LORA_RANK,
            lora_alpha=LORA_ALPHA,
            parent=None,
            seed=self._order.seed,
        )

    def score(self, policy: HfPolicy, arm: Arm = "student") -> float:
        """Share of the held-out items that a policy answers as the expert did."""
        scorer = SCORERS[infer_scorer([one.completion for one in self.heldout]).name]
        prompts = [policy.encode_chat(one.messages) for one in self.heldout]
        answers = policy.greedy(prompts, self.lengths.longest_answer, arm=arm)
        right = [
            scorer.score(policy.decode(answer.ids), [one.completion])
            for answer, one in zip(answers, self.heldout, strict=True)
        ]
        return sum(right) / len(right)
