"""What a job's version is compared with and asked: its supervised twin, its suites, other seeds of itself.

Trains by what the pipeline trains by; writes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.domain.trainer_protocol import Order
from app.domain.training import TrainingConfig
from worker.answers import answer_memory
from worker.evals.replicates import Replicate
from worker.evals.run import Measured, Peculiar, evaluate
from worker.evals.suites import Split, Suite
from worker.harness import Task
from worker.hf.model import HfPolicy
from worker.rehearsal import prompts_of_its_own, rehearsal
from worker.replicates import Replication
from worker.reporting import PipeReporter
from worker.sdft.monitor import Diverged
from worker.twin import Quiet, Twin, train_twin

NOT_COMPARED = "Plain fine-tuning on the same data diverged, so this report has nothing to compare with."


@dataclass(frozen=True)
class Measurement:
    """Of one version.

    Args:
        order: Its job's.
        folder: Of the attempt.
        reporter: To the supervisor.
        config: It was trained with.
        data: Trained on and held out.
        start: Makes a policy at the start of the job.
    """

    order: Order
    folder: Path
    reporter: PipeReporter
    config: TrainingConfig
    data: Split
    start: Callable[[TrainingConfig], HfPolicy]

    def compare(self, policy: HfPolicy, plain: TrainingConfig) -> Twin | None:
        """Train the supervised twin and put it beside the candidate; nothing where it diverged.

        Args:
            policy: The candidate's.
            plain: What the twin is trained with.
        """
        steps = f"{plain.total_steps} steps of {plain.batch_size} examples, learning rate {plain.learning_rate:g}"
        self.reporter.event("info", f"Plain fine-tuning on the same data, to compare with: {steps}.")
        try:
            twin = train_twin(self.start(plain), self.data, plain, Quiet(self.reporter))
        except Diverged as error:
            self.reporter.event("warn", f"{NOT_COMPARED} {error}")
            return None
        policy.add_twin(twin.factors)
        return twin

    def ask(
        self, policy: HfPolicy, suites: Sequence[Suite], *, tasks: Sequence[Peculiar],
        has_twin: bool, on_progress: Callable[[int, int], None], known: Measured | None = None,
    ) -> Measured:  # fmt: skip
        """Put the job's questions to what was trained, and to what there was before unless ``known`` has that."""
        return evaluate(
            policy,
            suites,
            has_parent=self.order.parent is not None,
            has_twin=has_twin,
            template=self.config.template if self.config.method == "sdft" else None,
            memory=answer_memory(self.order, policy),
            on_progress=on_progress,
            peculiar=tasks,
            known=known,
        )

    def replicate(
        self, plain: TrainingConfig | None, suites: Sequence[Suite], tasks: Sequence[Task], measured: Measured
    ) -> list[Replicate]:
        """The same under other seeds, and what plain fine-tuning makes of each where the version has a twin."""
        asked = [task for task in tasks if task.suite in measured.suites]
        replication = Replication(
            config=self.config,
            plain=plain,
            data=self.data,
            start=self.start,
            rehearsal=lambda policy, again: rehearsal(
                self.order, self.folder, self.data, prompts_of_its_own(policy, again, None, self.reporter)
            ),
            ask=lambda policy, **given: self.ask(
                policy, suites, tasks=[task.of(policy) for task in asked], known=measured, **given
            ),
            reporter=self.reporter,
        )
        return list(replication.run(self.order.seeds))
