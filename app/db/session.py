"""Engine, sessions, and the one place that commits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker

log = structlog.get_logger()

_AFTER_COMMIT = "after_commit"


def make_sessions(url: str, *, pool_size: int, statement_timeout_seconds: float = 30) -> sessionmaker[Session]:
    """Sessions on one pool. ``pool_size`` should equal the number of threads that may ask at once.

    The timeout also ends a transaction that does nothing for so long: a process that was frozen in the middle of one
    must not keep a job's row locked.
    """
    milliseconds = int(statement_timeout_seconds * 1000)
    options = {
        "statement_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
        "timezone": "UTC",
    }
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=5,
        pool_pre_ping=True,
        hide_parameters=True,  # what clients wrote stays out of logs
        connect_args={
            "connect_timeout": 5,
            # A dead network is an error within half a minute, not the kernel's two hours.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
            "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
        },
    )
    return sessionmaker(engine, expire_on_commit=False)


@contextmanager
def transaction(sessions: sessionmaker[Session]) -> Iterator[Session]:
    """One unit of work: commit at the end, roll back on any error, then run what waited for the commit.

    A callback that fails is logged and swallowed: callbacks only ring, and the sweeper rings again.
    """
    with sessions() as session:
        with session.begin():
            yield session
        for callback in session.info.pop(_AFTER_COMMIT, []):
            try:
                callback()
            except Exception:
                log.warning("after_commit_failed", exc_info=True)


def after_commit(session: Session, callback: Callable[[], object]) -> None:
    """Run ``callback`` once the surrounding ``transaction`` has committed; never if it rolls back."""
    session.info.setdefault(_AFTER_COMMIT, []).append(callback)
