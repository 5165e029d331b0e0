"""Names that point at versions, and the record of their moves."""

from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from app.api.schemas.common import Identified, Strict, unix
from app.db.models import AuditEntry
from app.services.aliases import Move, Pointer


class MoveAlias(Strict):
    """Where to point an alias."""

    version: int = Field(ge=1, le=999_999_999, description="Number of a version of this adapter.")
    override: bool = Field(default=False, description="Move although the version did not pass a gate.")
    reason: str | None = Field(None, min_length=1, max_length=500, description="For the audit log.")

    @model_validator(mode="after")
    def _override_has_a_reason(self) -> Self:
        if self.override and not (self.reason and self.reason.strip()):
            msg = "an override needs a reason, which the audit log keeps; add reason."
            raise ValueError(msg)
        return self

    def understood(self) -> Move:
        """The request for the service."""
        return Move(version=self.version, override=self.override, reason=self.reason)


class AliasObject(BaseModel):
    """An alias and what it points at."""

    object: Literal["adapter.alias"]
    adapter: str
    alias: str
    version: int
    model: str
    moved_at: int
    audit_log_id: str

    @classmethod
    def of(cls, adapter: str, pointer: Pointer) -> Self:
        """An alias as clients see it."""
        return cls(
            object="adapter.alias",
            adapter=adapter,
            alias=pointer.alias.name,
            version=pointer.version.version,
            model=pointer.version.model_id,
            moved_at=unix(pointer.moved.created_at),
            audit_log_id=pointer.moved.id,
        )


class AuditEntryObject(Identified):
    """That something others rely on was changed, by whom and why."""

    object: Literal["audit_log"]
    created_at: int
    actor: str
    action: str
    subject: str
    details: dict[str, Any]

    @classmethod
    def of(cls, entry: AuditEntry) -> Self:
        """An entry as clients see it."""
        return cls(
            id=entry.id,
            object="audit_log",
            created_at=unix(entry.created_at),
            actor=entry.actor,
            action=entry.action,
            subject=entry.subject,
            details=entry.details,
        )
