"""The place of a slot's trainer process: one is started when an attempt needs it, and may stay for the next.

What stays is a process that has its libraries and a base in memory and has finished what it was given. It decides
itself how long it stays (see ``worker.trainer_process``); nothing here counts on it, and a new one does as well.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from app.domain.trainer_protocol import BaseModelRef, Stay
from app.settings import WorkerSettings
from worker.launcher import Trainer

log = structlog.get_logger()

ANSWER_SECONDS = 10.0
"""A trainer that has just finished may still be tidying up; a new one would take as long to start."""


class Seat:
    """Holds at most one trainer, which is at work on one attempt or waits.

    Args:
        command: Starts a trainer.
        scratch: A folder that outlives every attempt.
        settings: Device, and how long a trainer may stay.
    """

    def __init__(self, command: Sequence[str], scratch: Path, settings: WorkerSettings) -> None:
        self._command, self._scratch, self._device = command, scratch, settings.device
        self._stay = Stay(
            max_jobs=settings.warm_jobs,
            idle_seconds=settings.warm_idle_seconds,
            memory_growth=settings.warm_memory_growth,
            trust_seconds=settings.trust_seconds,
        )
        self._waiting: tuple[Trainer, BaseModelRef] | None = None

    @contextmanager
    def trainer(self, base: BaseModelRef, folder: Path) -> Iterator[Trainer]:
        """A trainer at work on an attempt's folder; afterwards it waits here or is gone, with all that it started.

        Args:
            base: What the attempt trains on; a trainer that holds another one is of no use.
            folder: Ready, with the order in it.
        """
        trainer = self._take(base, folder)
        if trainer is None:
            trainer = Trainer(self._command, self._scratch, device=self._device, stay=self._stay)
            trainer.begin(folder)
        try:
            yield trainer
        except BaseException:
            trainer.close()
            raise
        if trainer.may_stay:
            self._waiting = trainer, base
        else:
            trainer.close()

    def close(self) -> None:
        """End what waits."""
        if self._waiting:
            self._waiting[0].close()
        self._waiting = None

    def _take(self, base: BaseModelRef, folder: Path) -> Trainer | None:
        """The trainer that waits, at work on the folder, if it has this base and answers."""
        if self._waiting is None:
            return None
        (trainer, loaded), self._waiting = self._waiting, None
        # One that has said something since it finished, if only good-bye, is not what it should be.
        if loaded == base and not trainer.speaks(0):
            trainer.begin(folder)
            if trainer.speaks(ANSWER_SECONDS):
                log.info("trainer_goes_on")
                return trainer
        trainer.close()
        return None
