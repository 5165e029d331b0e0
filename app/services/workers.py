"""The live worker processes, as they report themselves."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db.clock import NOW
from app.db.models import Worker

LIVE_SECONDS: Final = 60
"""A worker reports itself four times in that time."""


@dataclass(frozen=True)
class WorkerProcess:
    """Who reports."""

    id: str
    host: str
    pid: int
    device: str


def report(session: Session, worker: WorkerProcess, *, draining: bool) -> None:
    """Say that a worker is alive; its first report makes its row."""
    row = insert(Worker).values(id=worker.id, host=worker.host, pid=worker.pid, device=worker.device, draining=draining)
    session.execute(row.on_conflict_do_update(index_elements=["id"], set_={"heartbeat_at": NOW, "draining": draining}))


def count_live(session: Session) -> int:
    """Workers that have reported themselves in the last minute and are not stopping."""
    alive = (Worker.heartbeat_at > NOW - timedelta(seconds=LIVE_SECONDS)) & ~Worker.draining
    return session.scalar(select(func.count()).select_from(Worker).where(alive)) or 0
