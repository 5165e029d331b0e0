"""What every worker does now and then, so that no leader is needed.

It reports itself, ends attempts whose worker is gone, rings again for jobs that nobody came for, and removes bytes
that nothing refers to. Runs as a thread of Celery's main process; whatever fails is tried again at the next round.
"""

import threading
import time
from functools import partial

import structlog

from app.db.session import after_commit, transaction
from app.resources import Resources
from app.services import blobs, runs, workers
from app.settings import WorkerSettings
from worker.home import WorkerHome

log = structlog.get_logger()

GARBAGE_SECONDS = 3600.0
POOL_SIZE = 1


class Sweeper:
    """Sweeps until stopped.

    Args:
        resources: Its own; not shared with other threads.
        worker: Who reports.
        home: Tells whether the worker is to leave.
        times: How often, and after how long to ring again.
    """

    def __init__(
        self, resources: Resources, worker: workers.WorkerProcess, home: WorkerHome, times: WorkerSettings
    ) -> None:
        self._resources, self._worker, self._home, self._times = resources, worker, home, times
        self._garbage_at = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)

    def start(self) -> None:
        """Begin, with a first round at once."""
        self._thread.start()

    def stop(self) -> None:
        """Let the round in progress end."""
        self._stopped.set()
        self._thread.join(timeout=self._times.sweep_seconds)

    def _run(self) -> None:
        while True:
            try:
                self.sweep()
            except Exception:  # a thread's edge: one bad round must not be the last
                log.warning("sweep_failed", exc_info=True)
            if self._stopped.wait(self._times.sweep_seconds):
                return

    def sweep(self) -> None:
        """One round."""
        sessions, draining = self._resources.sessions, self._home.draining
        with transaction(sessions) as session:
            workers.report(session, self._worker, draining=draining)
        while self._reap():
            pass
        if not draining:
            self._ring()
        if time.monotonic() >= self._garbage_at:
            self._garbage_at = time.monotonic() + GARBAGE_SECONDS
            while self._collect():
                pass

    def _reap(self) -> bool:
        with transaction(self._resources.sessions) as session:
            ended = runs.reap(session)
        if ended:
            log.warning("leases_expired", job_ids=ended)
        return bool(ended)

    def _ring(self) -> None:
        with transaction(self._resources.sessions) as session:
            if job_id := runs.unclaimed(session, self._worker.id, self._times.ring_again_seconds):
                log.info("ringing_again", job_id=job_id)
                after_commit(session, partial(self._resources.broker.ring, job_id))

    def _collect(self) -> bool:
        with transaction(self._resources.sessions) as session:
            return blobs.collect_garbage(session, self._resources.store) > 0
