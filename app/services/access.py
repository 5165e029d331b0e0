"""Projects and their bearer keys: who is asking. A key is shown once; only its SHA-256 is kept."""

import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from app.db.models import ApiKey, Project
from app.domain.errors import Conflict, Invalid, NotFound, Unauthenticated
from app.domain.ids import new_id

_KEY = re.compile(r"(sk-sdft-([0-9a-f]{32})-[A-Za-z0-9_-]{43})-([0-9a-f]{8})")
_PROJECT_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_LAST_USED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True)
class Caller:
    """The owner of a valid key, for the length of a request."""

    project_id: str
    project_name: str
    key_id: str


@dataclass(frozen=True)
class NewKey:
    """A key just made: the only time that ``secret`` exists outside the client."""

    id: str
    secret: str


def create_key(session: Session, *, project: str, name: str, expires_at: datetime | None = None) -> NewKey:
    """Make a key, and its project if it is new.

    Raises:
        Invalid: The project's name cannot be part of a model id.
    """
    if not _PROJECT_NAME.fullmatch(project):
        message = "A project's name has 1 to 63 lower-case letters, digits and hyphens and starts with no hyphen."
        raise Invalid("invalid_value", message, param="project")
    row = session.scalar(select(Project).where(Project.name == project))
    if not row:
        row = Project(id=new_id("proj"), name=project)
        session.add(row)
        session.flush()
    key_id = new_id("key")
    body = f"sk-sdft-{key_id.removeprefix('key-')}-{secrets.token_urlsafe(32)}"
    secret = f"{body}-{_checksum(body)}"
    session.add(ApiKey(id=key_id, project_id=row.id, name=name, sha256=_digest(secret), expires_at=expires_at))
    session.flush()
    return NewKey(key_id, secret)


def list_keys(session: Session) -> Sequence[tuple[ApiKey, Project]]:
    """Every key with its project, oldest first."""
    query = select(ApiKey, Project).join(Project, ApiKey.project_id == Project.id).order_by(ApiKey.created_at)
    return [(key, project) for key, project in session.execute(query)]


def revoke_key(session: Session, key_id: str) -> ApiKey:
    """Refuse a key from now on.

    Raises:
        NotFound: There is no such key.
        Conflict: It is revoked already.
    """
    row = session.get(ApiKey, key_id, with_for_update=True)
    if not row:
        raise NotFound("key_not_found", "There is no key with this id; list them to see which there are.")
    if row.revoked_at:
        raise Conflict("key_revoked", "This key is revoked already.")
    row.revoked_at = datetime.now(UTC)
    session.flush()
    return row


def authenticate(session: Session, presented: str | None) -> Caller:
    """Who holds the key.

    Args:
        session: Also takes note of when the key was last used.
        presented: What came as bearer token, if anything.

    Raises:
        Unauthenticated: Nobody, or not any more.
    """
    if not presented:
        raise Unauthenticated("missing_api_key", "Send your API key in the header: Authorization: Bearer sk-sdft-...")
    match = _KEY.fullmatch(presented)
    if not match or not hmac.compare_digest(_checksum(match[1]), match[3]):
        raise Unauthenticated("invalid_api_key", "This is not an API key of this service; check that it is complete.")
    found = session.execute(
        select(ApiKey, Project.name)
        .join(Project, ApiKey.project_id == Project.id)
        .where(ApiKey.id == f"key-{match[2]}")
    ).one_or_none()
    row, project_name = found or (None, "")
    # Compared even where there is no row, so that an unknown id takes as long as a wrong secret.
    same = hmac.compare_digest(_digest(presented), row.sha256 if row else "0" * 64)
    if not row or not same:
        raise Unauthenticated("invalid_api_key", "There is no such API key; ask the operator for one.")
    if row.revoked_at:
        raise Unauthenticated("revoked_api_key", "This API key is revoked; ask the operator for a new one.")
    if row.expires_at and row.expires_at <= datetime.now(UTC):
        raise Unauthenticated("expired_api_key", "This API key has expired; ask the operator for a new one.")
    _note_use(session, row)
    return Caller(row.project_id, project_name, row.id)


def _note_use(session: Session, row: ApiKey) -> None:
    """At most one write a minute and key, so that reading stays reading."""
    before = datetime.now(UTC) - _LAST_USED_EVERY
    if row.last_used_at is None or row.last_used_at < before:
        session.execute(
            update(ApiKey)
            .where(ApiKey.id == row.id, or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < before))
            .values(last_used_at=func.clock_timestamp())
            .execution_options(synchronize_session=False)
        )


def _checksum(body: str) -> str:
    """Tells a mistyped or cut key without asking the database."""
    return f"{zlib.crc32(body.encode()):08x}"


def _digest(secret: str) -> str:
    # A slow hash is for guessable secrets; 256 random bits are not.
    return hashlib.sha256(secret.encode()).hexdigest()
