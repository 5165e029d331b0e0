"""What a job may train beside its version, to compare it with: a supervised twin on the same data."""

from typing import Literal

from pydantic import Field

from app.domain.distillation import Auto, Frozen
from app.domain.training import (
    DatasetFacts,
    LearningRate,
    SupervisedHyperparameters,
    TrainingConfig,
    default_learning_rate,
    resolve,
)


class SupervisedTwin(Frozen):
    """Plain supervised fine-tuning with all that its job has, but its own learning rate."""

    method: Literal["supervised"]
    learning_rate: LearningRate | Auto = Field("auto", description="Peak. auto: as of a supervised job on this base.")

    def fixed(self, *, num_parameters: int) -> "SupervisedTwin":
        """The twin on a base of so many parameters, with a number for its learning rate."""
        if self.learning_rate != "auto":
            return self
        rate = default_learning_rate("supervised", num_parameters=num_parameters)
        return SupervisedTwin(method="supervised", learning_rate=rate)

    def config(self, job: TrainingConfig, *, facts: DatasetFacts, num_parameters: int) -> TrainingConfig:
        """What the twin of a job trains with: what a supervised job would that names the same numbers.

        Args:
            job: What it is the twin of.
            facts: Of the training part of both.
            num_parameters: Of the base of both.
        """
        asked = SupervisedHyperparameters(
            n_epochs=job.num_epochs,
            batch_size=job.batch_size,
            learning_rate=self.learning_rate,
            lora_rank=job.lora_rank,
            lora_alpha=job.lora_alpha,
        )
        return resolve(
            asked, method="supervised", seed=job.seed, facts=facts, num_parameters=num_parameters, has_earlier=False
        )
