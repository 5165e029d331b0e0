"""What is trained beside a job's version, for its report only: a supervised twin, and the same under other seeds.

All are asked what the version is asked. The seed decides a new adapter's weights, the order of the data and the
rollouts; the parts of the data are the job's. Keeps no checkpoint: an attempt that goes on makes them anew. Trains by
what the pipeline trains by; writes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.domain.trainer_protocol import Order
from app.domain.training import MAX_SEED, TrainingConfig
from worker.answers import answer_memory
from worker.evals.replicates import Replicate
from worker.evals.run import Measured, evaluate
from worker.evals.suites import Split, Suite
from worker.harness import Task
from worker.hf.model import HfPolicy
from worker.rehearsal import prompts_of_its_own, rehearsal
from worker.reporting import PipeReporter
from worker.sdft.monitor import Diverged
from worker.trainer import train
from worker.twin import Quiet, Twin, train_twin

NOT_COMPARED = "Plain fine-tuning on the same data diverged, so this report has nothing to compare with."


@dataclass(frozen=True)
class Siblings:
    """Of one version.

    Args:
        order: Its job's.
        folder: Of the attempt.
        reporter: To the supervisor.
        config: It was trained with.
        data: Trained on and held out.
        suites: What it is asked.
        tasks: And of lm-evaluation-harness.
        start: Makes a policy at the start of the job.
    """

    order: Order
    folder: Path
    reporter: PipeReporter
    config: TrainingConfig
    data: Split
    suites: Sequence[Suite]
    tasks: Sequence[Task]
    start: Callable[[TrainingConfig], HfPolicy]

    def add_twin(self, policy: HfPolicy, plain: TrainingConfig) -> Twin | None:
        """Train the supervised twin and put it beside the candidate; nothing where it diverged.

        Args:
            policy: The candidate's.
            plain: What the twin is trained with.
        """
        steps = f"{plain.total_steps} steps of {plain.batch_size} examples, learning rate {plain.learning_rate:g}"
        self.reporter.event("info", f"Plain fine-tuning on the same data, to compare with: {steps}.")
        return self._train_beside(policy, plain, Quiet(self.reporter), NOT_COMPARED)

    def ask(
        self, policy: HfPolicy, *, has_twin: bool, on_progress: Callable[[int, int], None],
        known: Measured | None = None,
    ) -> Measured:  # fmt: skip
        """Put the job's questions to what was trained, and to what there was before.

        Args:
            policy: The version's, or a sibling's.
            has_twin: Whether there is one beside it.
            on_progress: Told how many of how many questions are done.
            known: What the version was asked: a sibling is asked no more, and what there was before not again.
        """
        return evaluate(
            policy,
            self.suites,
            has_parent=self.order.parent is not None,
            has_twin=has_twin,
            template=self.config.template if self.config.method == "sdft" else None,
            memory=answer_memory(self.order, policy),
            on_progress=on_progress,
            peculiar=[task.of(policy) for task in self.tasks if known is None or task.suite in known.suites],
            known=known,
        )

    def replicate(self, plain: TrainingConfig | None, measured: Measured) -> list[Replicate]:
        """Train and ask all seeds but the version's, one after the other, each dropped before the next.

        Args:
            plain: What the version's supervised twin was trained with, if it has one: then each seed gets one too.
            measured: What the version was asked.

        Raises:
            Drained: The supervisor asked to leave; nothing is kept.
        """
        steps = self.config.total_steps + (plain.total_steps if plain else 0)
        total = (self.order.seeds - 1) * steps
        seeds = [(self.config.seed + number) % (MAX_SEED + 1) for number in range(1, self.order.seeds)]
        return [Replicate(seed, self._again(seed, plain, measured, n * steps, total)) for n, seed in enumerate(seeds)]

    def _again(
        self, seed: int, plain: TrainingConfig | None, measured: Measured, before: int, total: int
    ) -> Measured | None:
        self.reporter.event("info", f"The same training with seed {seed}, for the report only.")
        config = self.config.model_copy(update={"seed": seed})
        policy = self.start(config)
        own = prompts_of_its_own(policy, config, None, self.reporter)
        prompts = rehearsal(self.order, self.folder, self.data, own)
        try:
            train(policy, self.data.training, prompts, config, Quiet(self.reporter, before, total), None)
        except Diverged as error:
            self.reporter.event("warn", f"With seed {seed} the training diverged. {error}")
            return None
        policy.rest()  # as the version's: nothing from here on reads a demonstration again
        done, twin = before + config.total_steps, None
        if plain:
            lost = f"With seed {seed} plain fine-tuning on the same data diverged."
            plain = plain.model_copy(update={"seed": seed})
            twin = self._train_beside(policy, plain, Quiet(self.reporter, done, total), lost)
            done += plain.total_steps
        tell = self.reporter.progress
        return self.ask(policy, has_twin=twin is not None, on_progress=lambda *_: tell(done, total), known=measured)

    def _train_beside(self, policy: HfPolicy, plain: TrainingConfig, quiet: Quiet, lost: str) -> Twin | None:
        """A policy's twin, or what was lost with it, told."""
        try:
            twin = train_twin(self.start(plain), self.data, plain, quiet)
        except Diverged as error:
            self.reporter.event("warn", f"{lost} {error}")
            return None
        policy.add_twin(twin.factors)
        return twin
