"""Names that point at one of an adapter's versions. They move when a version passed its gate, or by an override.

Every move locks the adapter's line, so moves of one line come one after the other, and leaves an entry in the audit log
whose id says later whether the alias has moved since.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import Adapter, AdapterVersion, Alias, AuditEntry, Evaluation
from app.domain.errors import Conflict, NotFound, PreconditionFailed
from app.domain.ids import is_id
from app.services import adapters, audit


@dataclass(frozen=True)
class Move:
    """What a client asks for.

    Args:
        version: Number of the version to point at.
        override: Whether to move without a passed gate.
        reason: Why; an override needs one.
    """

    version: int
    override: bool = False
    reason: str | None = None


@dataclass(frozen=True)
class Expected:
    """How a client believes an alias to be.

    Args:
        tags: Moves of which the last one must be; ``*`` stands for any. None if it does not care.
        absent: There must be no such alias yet.
    """

    tags: Collection[str] | None = None
    absent: bool = False

    def holds(self, alias: Alias | None) -> bool:
        """Whether it is so."""
        if self.absent and alias is not None:
            return False
        if self.tags is None:
            return True
        return alias is not None and ("*" in self.tags or alias.moved_by in self.tags)


@dataclass(frozen=True)
class Pointer:
    """An alias with what it points at and its last move."""

    alias: Alias
    version: AdapterVersion
    moved: AuditEntry


def get(session: Session, project_id: str, adapter_name: str, name: str) -> Pointer:
    """One alias.

    Raises:
        NotFound: There is none.
    """
    return _pointer(session, _existing(session, adapters.get(session, project_id, adapter_name), name))


def move(
    session: Session, project_id: str, adapter_name: str, name: str, asked: Move, *, expected: Expected, actor: str
) -> Pointer:
    """Point an alias at a version. Where it points there already, nothing happens.

    Raises:
        NotFound: There is no such version.
        PreconditionFailed: The alias is not as the client believes.
        Conflict: The version did not pass a gate, and no override was asked for.
    """
    adapter = _locked(session, project_id, adapter_name)
    alias = session.get(Alias, (adapter.id, name))
    _check(session, expected, adapter, name, alias)
    version = adapters.get_version(session, project_id, adapter_name, str(asked.version)).version
    adapters.keep(session, version)
    if alias is None or alias.version_id != version.id:
        verdict = _verdict(session, version)
        if verdict != "pass" and not asked.override:
            raise Conflict("gate_not_passed", _refusal(version, verdict))
        details = {"verdict": verdict, "override": asked.override, "reason": asked.reason}
        alias = point(session, adapter, version, name, actor=actor, details=details)
    return _pointer(session, alias)


def point(
    session: Session, adapter: Adapter, version: AdapterVersion, name: str, *, actor: str, details: dict[str, Any]
) -> Alias:
    """Move an alias of a locked line, whatever speaks for or against that, and say so in the audit log."""
    alias = session.get(Alias, (adapter.id, name))
    before = session.get_one(AdapterVersion, alias.version_id).version if alias else None
    entry = audit.record(
        session,
        adapter.project_id,
        actor=actor,
        action="alias.moved",
        subject=f"{adapter.name}@{name}",
        details={"from_version": before, "to_version": version.version, **details},
    )
    if alias is None:
        alias = Alias(adapter_id=adapter.id, name=name)
        session.add(alias)
    alias.version_id, alias.moved_by = version.id, entry.id
    session.flush()
    return alias


def remove(
    session: Session,
    project_id: str,
    adapter_name: str,
    name: str,
    *,
    reason: str | None,
    expected: Expected,
    actor: str,
) -> None:
    """Take an alias away.

    Raises:
        NotFound: There is none.
        PreconditionFailed: It is not as the client believes.
    """
    adapter = _locked(session, project_id, adapter_name)
    alias = _existing(session, adapter, name)
    _check(session, expected, adapter, name, alias)
    pointed_at = session.get_one(AdapterVersion, alias.version_id).version
    details = {"from_version": pointed_at, "to_version": None, "reason": reason}
    subject = f"{adapter.name}@{name}"
    audit.record(session, project_id, actor=actor, action="alias.removed", subject=subject, details=details)
    session.delete(alias)
    session.flush()


def _locked(session: Session, project_id: str, adapter_name: str) -> Adapter:
    adapter = adapters.get(session, project_id, adapter_name)
    session.refresh(adapter, with_for_update={"key_share": True})
    return adapter


def _existing(session: Session, adapter: Adapter, name: str) -> Alias:
    alias = session.get(Alias, (adapter.id, name))
    if alias is None:
        message = "This adapter has no such alias; retrieve the adapter to see which it has."
        raise NotFound("alias_not_found", message)
    return alias


def _check(session: Session, expected: Expected, adapter: Adapter, name: str, alias: Alias | None) -> None:
    if expected.holds(alias):
        return
    called = f"{adapter.name}@{name}"
    if alias is None:
        message = f"{called} does not exist, or no longer; leave If-Match out to make it."
    elif expected.absent:
        number = session.get_one(AdapterVersion, alias.version_id).version
        message = f"{called} exists already and points at version {number}; send its ETag in If-Match instead."
    elif not any(tag == "*" or is_id("audit", tag) for tag in expected.tags or ()):
        message = (
            "If-Match has no ETag of an alias; send the one that a GET of the alias answers, as it is, like "
            '"audit-0123…" with its quotes.'
        )
        raise PreconditionFailed("invalid_etag", message, param="If-Match")
    else:
        message = f"{called} has moved, so it is not as you last saw it; read it again and send the ETag of that."
    raise PreconditionFailed("alias_moved", message)


def _verdict(session: Session, version: AdapterVersion) -> str | None:
    decision = session.scalar(select(Evaluation.gate).where(Evaluation.job_id == version.job_id))
    return None if decision is None else str(decision["verdict"])


def _refusal(version: AdapterVersion, verdict: str | None) -> str:
    judged = f"came out of its gate with {verdict.replace('_', ' ')}" if verdict else "came from a job without a gate"
    return (
        f"{version.label} {judged}, so no alias moves to it by itself; send override true with a "
        "reason to move it all the same, or train with a gate that it passes."
    )


def _pointer(session: Session, alias: Alias) -> Pointer:
    version = session.get_one(AdapterVersion, alias.version_id)
    return Pointer(alias, version, session.get_one(AuditEntry, alias.moved_by))
