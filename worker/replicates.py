"""A job's configuration again under other seeds, one after the other: trained, asked, dropped.

The seed decides a new adapter's weights, the order of the data and the rollouts. The parts of the data are the job's,
so that all seeds are asked the same. Keeps no checkpoint, as a twin: an attempt that goes on makes them anew. Writes
nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from app.domain.training import MAX_SEED, TrainingConfig
from worker.evals.replicates import Replicate
from worker.evals.run import Measured
from worker.evals.suites import Split
from worker.examples import Rehearsal
from worker.hf.model import HfPolicy
from worker.reporting import PipeReporter
from worker.sdft.monitor import Diverged
from worker.trainer import train
from worker.twin import Quiet, train_twin

Ask = Callable[..., Measured]


@dataclass(frozen=True)
class Replication:
    """What all seeds of a job share.

    Args:
        config: Of the version.
        plain: Of its supervised twin, if it has one.
        data: Of all.
        start: Makes a policy at the start of the job.
        rehearsal: Prompts to rehearse, given such a policy.
        ask: Puts the job's questions to a trained policy; told ``has_twin`` and ``on_progress``.
        reporter: Of the job.
    """

    config: TrainingConfig
    plain: TrainingConfig | None
    data: Split
    start: Callable[[TrainingConfig], HfPolicy]
    rehearsal: Callable[[HfPolicy, TrainingConfig], Rehearsal]
    ask: Ask
    reporter: PipeReporter

    def run(self, num_seeds: int) -> Iterator[Replicate]:
        """Train and ask all seeds but the version's.

        Raises:
            Drained: The supervisor asked to leave; nothing is kept.
        """
        steps = self.config.total_steps + (self.plain.total_steps if self.plain else 0)
        total = (num_seeds - 1) * steps
        for number in range(1, num_seeds):
            seed = (self.config.seed + number) % (MAX_SEED + 1)
            yield Replicate(seed, self._one(seed, before=(number - 1) * steps, total=total))

    def _one(self, seed: int, *, before: int, total: int) -> Measured | None:
        config = self.config.model_copy(update={"seed": seed})
        self.reporter.event("info", f"The same training with seed {seed}, for the report only.")
        policy = self.start(config)
        try:
            quiet = Quiet(self.reporter, before, total)
            train(policy, self.data.training, self.rehearsal(policy, config), config, quiet, None)
        except Diverged as error:
            self.reporter.event("warn", f"With seed {seed} the training diverged. {error}")
            return None
        trained = before + config.total_steps
        has_twin = self._add_twin(policy, seed, before=trained, total=total)
        done = trained + (self.plain.total_steps if self.plain else 0)
        return self.ask(policy, has_twin=has_twin, on_progress=lambda *_: self.reporter.progress(done, total))

    def _add_twin(self, policy: HfPolicy, seed: int, *, before: int, total: int) -> bool:
        """Whether it has one now."""
        if self.plain is None:
            return False
        policy.rest()
        config = self.plain.model_copy(update={"seed": seed})
        try:
            twin = train_twin(self.start(config), self.data, config, Quiet(self.reporter, before, total))
        except Diverged as error:
            self.reporter.event("warn", f"With seed {seed} plain fine-tuning on the same data diverged. {error}")
            return False
        policy.add_twin(twin.factors)
        return True
