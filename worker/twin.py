"""The supervised twin of a job: plain fine-tuning on the same data, for the same steps, from the same start.

Made within one attempt and kept in no checkpoint: it is the cheaper part, and an attempt that goes on makes it anew, on
a CPU to the same bits. Writes nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from app.domain.training import TrainingConfig
from worker.evals.schema import TwinRun
from worker.evals.suites import Split
from worker.hf.model import HfPolicy
from worker.reporting import PipeReporter, Reporter
from worker.trainer import TrainResult, train


@dataclass(frozen=True)
class Twin:
    """A trained twin: what it trained with, what that took, and the factors that came of it by name."""

    config: TrainingConfig
    result: TrainResult
    factors: dict[str, Tensor]

    def run(self, *, beside: TrainResult) -> TwinRun:
        """What the report tells of it.

        Args:
            beside: What the training of its job came to.
        """
        return TwinRun(
            config=self.config.model_dump(),
            trained_tokens=self.result.trained_tokens,
            seconds=self.result.seconds,
            cost_ratio=beside.seconds / self.result.seconds,
        )


class Quiet:
    """Reporter of a run whose steps are not the job's: shows how far it is, and nothing else.

    Args:
        reporter: Of the job.
        before: Steps of runs before it in the same phase.
        total: Steps of the phase; the run's own if not given.
    """

    def __init__(self, reporter: PipeReporter, before: int = 0, total: int | None = None) -> None:
        self._reporter, self._before, self._total = reporter, before, total

    def step(self, step: int, total_steps: int, trained_tokens: int, metrics: dict[str, float]) -> None:  # noqa: ARG002
        """See ``Reporter``.

        Raises:
            Drained: The supervisor asked to leave.
        """
        self._reporter.progress(self._before + step, self._total or total_steps)

    def event(self, level: Literal["info", "warn", "error"], message: str, **data: Any) -> None:
        """See ``Reporter``."""
        self._reporter.event(level, message, **data)

    def checkpoint(self, step: int, folder: Path, metrics: dict[str, float]) -> None:
        """See ``Reporter``; there are none."""

    def should_stop(self) -> bool:
        """Never: who has to leave has been told so by ``step``."""
        return False


def train_twin(policy: HfPolicy, data: Split, config: TrainingConfig, reporter: Reporter) -> Twin:
    """Train a policy as a twin.

    Args:
        policy: At the start of the job that it is the twin of; not that job's own.
        data: Of the job.
        config: See ``app.domain.comparison``.
        reporter: Its own, see ``Quiet``.

    Raises:
        Drained: The supervisor asked to leave; nothing is kept.
        Diverged: A guard ended the run.
    """
    result = train(policy, data.training, {}, config, reporter, None)
    return Twin(config, result, {name: factor.detach() for name, factor in policy.parameters().items()})
