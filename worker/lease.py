"""Keeps the lease of one attempt from a thread of its own, so that no upload and no slow trainer can let it run out.

What it learns is read by the attempt's own loop. Trust ends before the lease does, and counts from when the renewal
was sent: however long an answer takes, nobody else has the job while this side still believes to have it.
"""

import threading
import time
from collections.abc import Callable
from typing import Self

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from app.db.session import transaction
from app.services import runs
from app.settings import WorkerSettings

log = structlog.get_logger()

JOIN_SECONDS = 5
"""A renewal that hangs longer than that may end by itself: it can only find that the job is over."""


class LeaseKeeper:
    """Renews until closed.

    Args:
        sessions: Where the job's row is.
        claim: What to keep.
        times: Heartbeat, lease and trust.
        claimed_at: When the claim was sent, by the monotonic clock.
    """

    def __init__(
        self, sessions: sessionmaker[Session], claim: runs.Claim, times: WorkerSettings, *, claimed_at: float
    ) -> None:
        self.lease: runs.Lease | None = None
        self.on_renewal: Callable[[], None] = lambda: None
        self._sessions, self._claim, self._times = sessions, claim, times
        self._trusted_until = claimed_at + times.trust_seconds
        self._lost = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join(timeout=JOIN_SECONDS)

    @property
    def trusted(self) -> bool:
        """Whether the job is certainly still this attempt's."""
        return not self._lost and time.monotonic() < self._trusted_until

    def _run(self) -> None:
        while not self._lost and not self._closed.wait(self._times.heartbeat_seconds):
            self._renew()

    def _renew(self) -> None:
        sent_at = time.monotonic()
        try:
            with transaction(self._sessions) as session:
                self.lease = runs.renew(session, self._claim, self._times.lease_seconds)
        except runs.LeaseLost:
            self._lost = True
        except SQLAlchemyError:
            log.warning("lease_not_renewed", job_id=self._claim.job_id, attempt=self._claim.fence, exc_info=True)
        else:
            self._trusted_until = sent_at + self._times.trust_seconds
            self.on_renewal()
