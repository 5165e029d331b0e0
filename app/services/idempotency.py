"""A POST that is sent again gets the first answer and has no second effect.

Two ways to ask again: the same ``Idempotency-Key`` within a day, or the unmodified OpenAI client repeating a request
by itself (it counts its retries, but sends no key) with the same body within ten minutes. Only a key says for certain
that the two are one request: without, what was deleted or cancelled since is made anew. That a first request is still
being served is told by a lock, which dies with its holder: nothing is ever left "in flight".
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.orm import Session

from app.db.models import IdempotencyKey
from app.domain.errors import InProgress, Unprocessable

Stands = Callable[[str], bool]
"""Whether what was made, by its id, is neither deleted nor cancelled."""
_KEY_LIFETIME = timedelta(hours=24)
_RETRY_LIFETIME = timedelta(minutes=10)


@dataclass(frozen=True)
class Sending:
    """One try of a client to have something done."""

    project_id: str
    route: str
    api_key_id: str
    idempotency_key: str | None
    retries: int
    """How often the client's library has sent it before, as far as it says."""

    def name(self, body_sha256: str) -> tuple[str, str, str]:
        """What its answer is kept under."""
        return self.project_id, self.route, self.idempotency_key or f"sdk:{self.api_key_id}:{body_sha256}"

    @property
    def may_repeat(self) -> bool:
        """Whether it can be one that was sent before."""
        return self.idempotency_key is not None or self.retries > 0


@dataclass(frozen=True)
class Answer:
    """The body of the answer, and whether it is a repetition."""

    body: dict[str, Any]
    replayed: bool


def first_answer(session: Session, sending: Sending, body_sha256: str, *, stands: Stands) -> Answer | None:
    """What this very request was answered before, if it was; else it is this transaction's to answer.

    Raises:
        InProgress: The first request is still being served.
        Unprocessable: The key was used for another body.
    """
    name = sending.name(body_sha256)
    _lock(session, name, wait=not sending.may_repeat)
    row = session.get(IdempotencyKey, name)
    if row is None or row.expires_at <= datetime.now(UTC) or not sending.may_repeat:
        return None
    if row.body_sha256 != body_sha256:
        message = "This Idempotency-Key was used for another request; send a new key with a new request."
        raise Unprocessable("idempotency_key_reused", message)
    if sending.idempotency_key is None and not stands(row.body["id"]):
        return None
    return Answer(row.body, replayed=True)


def answer_once(
    session: Session, sending: Sending, body_sha256: str, act: Callable[[], dict[str, Any]], *, stands: Stands
) -> Answer:
    """Act, unless this very request was answered before; effect and answer are committed together.

    An error leaves nothing behind: asking again after one acts.

    Raises:
        InProgress: The first request is still being served.
        Unprocessable: The key was used for another body.
    """
    if answer := first_answer(session, sending, body_sha256, stands=stands):
        return answer
    body = act()
    now = datetime.now(UTC)
    project_id, route, key = sending.name(body_sha256)
    session.merge(
        IdempotencyKey(
            project_id=project_id,
            route=route,
            key=key,
            body_sha256=body_sha256,
            body=body,
            created_at=now,
            expires_at=now + (_KEY_LIFETIME if sending.idempotency_key else _RETRY_LIFETIME),
        )
    )
    _forget_expired(session, now)
    return Answer(body, replayed=False)


def _lock(session: Session, name: tuple[str, ...], *, wait: bool) -> None:
    """Hold the name until the transaction ends."""
    number = int.from_bytes(hashlib.sha256("\n".join(name).encode()).digest()[:8], signed=True)
    if wait:
        session.execute(select(func.pg_advisory_xact_lock(number)))
    elif not session.scalar(select(func.pg_try_advisory_xact_lock(number))):
        raise InProgress("request_in_progress", "The first request is still being served; ask again in a second.")


def _forget_expired(session: Session, now: datetime) -> None:
    """A few rows at a time, none that another request is at."""
    key = (IdempotencyKey.project_id, IdempotencyKey.route, IdempotencyKey.key)
    old = select(*key).where(IdempotencyKey.expires_at < now).limit(100).with_for_update(skip_locked=True)
    session.execute(delete(IdempotencyKey).where(tuple_(*key).in_(old)).execution_options(synchronize_session=False))
