"""The folder of one Celery worker: scratch space of its attempts, and the sign that it is to leave.

The main process holds a lock on the folder for life, so that the next start can tell the folders of the living from
what a ``kill -9`` left behind. Its children, however they were started, find the folder in their environment.
"""

import fcntl
import os
import shutil
from pathlib import Path
from typing import IO

HOME_VARIABLE = "SDFT_WORKER_HOME"
_LOCK = "lock"
_DRAINING = "draining"


class WorkerHome:
    """A worker's folder, as all of its processes see it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of_parent(cls) -> "WorkerHome":
        """The folder that the main process made."""
        return cls(Path(os.environ[HOME_VARIABLE]))

    @property
    def worker_id(self) -> str:
        """Id of the worker, which names its folder."""
        return self.folder.name

    @property
    def draining(self) -> bool:
        """Whether the worker is to leave: no new attempt, and a checkpoint and release of the one that runs."""
        return (self.folder / _DRAINING).exists()

    @property
    def answers(self) -> Path:
        """Answers that trainers of this machine remember: beside the workers' folders, and not removed with them."""
        return self.folder.parent / "answers"

    def drain(self) -> None:
        """Tell every process of this worker that it is to leave."""
        (self.folder / _DRAINING).touch()

    def attempt(self, job_id: str, fence: int) -> Path:
        """The folder for one attempt, to be made."""
        return self.folder / f"{job_id}-{fence}"


class OwnedHome(WorkerHome):
    """A worker's folder in the main process: made, locked, and removed at the end.

    Args:
        root: Where all workers of this machine have their folders.
        worker_id: Id of the worker.
    """

    def __init__(self, root: Path, worker_id: str) -> None:
        super().__init__(root / worker_id)
        root.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(root)
        self.folder.mkdir(mode=0o700)
        unlocked = self.folder / f".{_LOCK}"
        self._lock = unlocked.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        unlocked.rename(self.folder / _LOCK)  # locked before another worker's start can see it, and take it for free
        os.environ[HOME_VARIABLE] = str(self.folder)

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()


def _remove_abandoned(root: Path) -> None:
    for lock in root.glob(f"*/{_LOCK}"):
        with lock.open() as handle:
            if _is_free(handle):
                shutil.rmtree(lock.parent, ignore_errors=True)


def _is_free(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
