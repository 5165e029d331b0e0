"""The live worker processes, as they report themselves."""

from dataclasses import dataclass

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db.clock import NOW
from app.db.models import Worker


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
