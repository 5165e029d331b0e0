"""All that a run carries from one step to the next, and how it is put into a checkpoint and taken out again.

What is not in here (weights of the base, the tokenised examples, the learning rate) follows from the job's order. A run
restored on a CPU goes on bit for bit as if it had not been interrupted.
"""

import torch
from torch import Tensor

from app.domain.training import TrainingConfig
from worker.hf.checkpoint import CheckpointState
from worker.sdft.monitor import Guards
from worker.sdft.policy import Policy
from worker.sdft.schedule import learning_rate

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class ShuffledPasses:
    """Endless shuffled passes over ``num_items`` things.

    Args:
        num_items: Indices go from 0 up to it.
        generator: Shuffles.
    """

    def __init__(self, num_items: int, generator: torch.Generator) -> None:
        self._num_items = num_items
        self._generator = generator
        self.ahead = torch.empty(0, dtype=torch.long)
        """What is left of the present pass."""

    def take(self, count: int) -> list[int]:
        """The next indices."""
        while len(self.ahead) < count:
            self.ahead = torch.cat([self.ahead, torch.randperm(self._num_items, generator=self._generator)])
        taken, self.ahead = self.ahead[:count].tolist(), self.ahead[count:]
        return taken


class TrainState:
    """Optimizer, randomness, data order and counters of one run.

    Args:
        policy: Its student is what the optimizer moves.
        config: Of the job.
        num_tasks: Training examples.
        num_neutral: Rehearsal prompts.
    """

    def __init__(self, policy: Policy, config: TrainingConfig, *, num_tasks: int, num_neutral: int) -> None:
        self._policy = policy
        self.step, self.trained_tokens, self.generated_tokens, self.seconds = 0, 0, 0, 0.0
        self.generator = torch.Generator().manual_seed(config.seed)
        self.tasks, self.neutral = (ShuffledPasses(count, self.generator) for count in (num_tasks, num_neutral))
        self.guards = Guards(policy.vocab_size)
        self.optimizer = torch.optim.AdamW(
            policy.parameters().values(),
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.weight_decay,
        )

    def set_rate(self, config: TrainingConfig) -> float:
        """Give the next step its learning rate."""
        rate = learning_rate(
            self.step + 1,
            peak=config.learning_rate,
            warmup_steps=config.warmup_steps,
            total_steps=config.total_steps,
            final_ratio=config.final_learning_rate_ratio,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def tensors(self) -> dict[str, Tensor]:
        """Moments, a moving teacher, RNG state and data order, by name."""
        named = {
            "generator": self.generator.get_state(),
            "order.tasks": self.tasks.ahead,
            "order.neutral": self.neutral.ahead,
        }
        named |= {f"teacher.{name}": tensor.detach() for name, tensor in self._policy.teacher_parameters().items()}
        for name, parameter in self._policy.parameters().items():
            moments = self.optimizer.state[parameter]
            named |= {f"optimizer.{moment}.{name}": moments[moment] for moment in _MOMENTS if moment in moments}
        return named

    def facts(self) -> dict[str, object]:
        """Counters and the guards' memory, as JSON."""
        return {
            "step": self.step,
            "trained_tokens": self.trained_tokens,
            "generated_tokens": self.generated_tokens,
            "seconds": self.seconds,
            "guards": self.guards.history,
        }

    @torch.no_grad()
    def restore(self, saved: CheckpointState) -> None:
        """Go on where a checkpoint was written."""
        self.step, self.seconds = saved.facts["step"], saved.facts["seconds"]
        self.trained_tokens, self.generated_tokens = saved.facts["trained_tokens"], saved.facts["generated_tokens"]
        self.guards.history = saved.facts["guards"]
        self.generator.set_state(saved.tensors["generator"])
        self.tasks.ahead, self.neutral.ahead = saved.tensors["order.tasks"], saved.tensors["order.neutral"]
        self._policy.load_student(saved.adapter)
        for name, tensor in self._policy.teacher_parameters().items():
            tensor.copy_(saved.tensors[f"teacher.{name}"])
        for name, parameter in self._policy.parameters().items():
            self.optimizer.state[parameter] = {
                moment: saved.tensors[key].to("cpu" if moment == "step" else parameter.device)
                for moment in _MOMENTS
                if (key := f"optimizer.{moment}.{name}") in saved.tensors
            }
