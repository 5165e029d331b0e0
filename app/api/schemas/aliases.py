"""Names that point at versions, and the record of their moves."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from app.api.schemas.common import Identified, Strict, unix
from app.db.models import AuditEntry
from app.domain.characters import is_blank
from app.services.aliases import Move, Pointer


def _visible(reason: str) -> str:
    if is_blank(reason):
        msg = "reason has no text in it; write why, for who reads the audit log later."
        raise ValueError(msg)
    return reason


Reason = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_visible)]


class MoveAlias(Strict):
    """Where to point an alias."""

    version: int = Field(ge=1, le=999_999_999, description="Number of a version of this adapter.")
    override: bool = Field(default=False, description="Move although the version did not pass a gate.")
    reason: Reason | None = Field(None, description="For the audit log.")

    @model_validator(mode="after")
    def _override_has_a_reason(self) -> Self:
        if self.override and not self.reason:
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
