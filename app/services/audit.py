"""Who changed what others rely on, and why; written in the transaction of the change itself."""

from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import AuditEntry
from app.domain.ids import new_id
from app.services.pages import Page, PageRequest, page

Action = Literal["alias.moved", "alias.removed"]


def record(
    session: Session, project_id: str, *, actor: str, action: Action, subject: str, details: dict[str, Any]
) -> AuditEntry:
    """Write one entry."""
    entry = AuditEntry(
        id=new_id("audit"), project_id=project_id, actor=actor, action=action, subject=subject, details=details
    )
    session.add(entry)
    session.flush()
    return entry


def list_entries(session: Session, project_id: str, request: PageRequest) -> Page[AuditEntry]:
    """The project's entries."""
    scope = select(AuditEntry).where(AuditEntry.project_id == project_id)
    return page(session, scope, request, key=(AuditEntry.created_at, AuditEntry.id))
