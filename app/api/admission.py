"""The way in, before anything of a body is read: an id for the request, a valid key, a limit for the body.

Plain ASGI, because a framework's dependencies run after the body was parsed.
"""

import secrets
import time
from typing import Final

import structlog
from sqlalchemy.orm import Session, sessionmaker
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import problems
from app.api.multipart import file_too_large
from app.db.session import transaction
from app.domain.errors import Invalid, ServiceError, TooLarge, UnsupportedMedia
from app.services.access import Caller, authenticate

log = structlog.get_logger()

OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", "/openapi.json", "/docs"})
UPLOAD: Final = ("POST", "/v1/files")
_FRAMING_BYTES: Final = 1024 * 1024
"""What multipart may add to the bytes of a file: fields, headers, boundaries."""


class Admission:
    """Lets requests through to what is behind it, or answers them itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(16)}"
        scope.setdefault("state", {})["request_id"] = request_id
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            stamp = _Stamp(scope, send, request_id)
            try:
                await self._serve(scope, receive, stamp)
            except Exception:
                log.exception("unhandled_error")
                if stamp.has_begun:  # all that is left is to break it off, or half an answer would look whole
                    raise
                await problems.bug(scope)(scope, receive, stamp)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            limit = await _admit(scope)
        except ServiceError as refusal:
            response = problems.answer(scope, refusal)
        except problems.DATABASE_ERRORS as error:
            response = problems.answer(scope, problems.database_error(error))
        else:
            await self._app(scope, _limited(receive, limit, scope), send)
            return
        response.headers["Connection"] = "close"  # or the server would read the body only to drop it
        await response(scope, receive, send)


async def _admit(scope: Scope) -> int:
    """Check what stands before the body.

    Returns:
        How many bytes the body may have.
    """
    headers, state = Headers(scope=scope), scope["app"].state
    if scope["path"] not in OPEN_PATHS and not scope["path"].startswith("/docs/"):
        scheme, _, token = headers.get("authorization", "").partition(" ")
        presented = token.strip() if scheme.lower() == "bearer" else None
        scope["state"]["caller"] = await run_in_threadpool(_authenticate, state.resources.sessions, presented)
    if "\0" in scope["path"] or b"%00" in scope["query_string"]:
        raise Invalid("bad_encoding", "The address contains a NUL character; remove it.")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMedia("unsupported_content_encoding", "Send the body as it is, without Content-Encoding.")
    limits = state.settings.limits
    limit: int = limits.upload_bytes + _FRAMING_BYTES if _is_upload(scope) else limits.json_bytes
    if int(headers.get("content-length", 0)) > limit:
        raise _too_large(scope, limit)
    return limit


def _authenticate(sessions: sessionmaker[Session], presented: str | None) -> Caller:
    with transaction(sessions) as session:
        return authenticate(session, presented)


def _limited(receive: Receive, limit: int, scope: Scope) -> Receive:
    """Count what comes, as a body without a length may be of any."""
    num_bytes = 0

    async def counted() -> Message:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if num_bytes > limit:
            raise _too_large(scope, limit)
        return message

    return counted


class _Stamp:
    """Sends, with the headers that every answer has, and a line in the log for each."""

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self._scope = scope
        self._send = send
        self._request_id = request_id
        self._started = time.monotonic()
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._request_id
            headers.setdefault("X-Content-Type-Options", "nosniff")
            headers.setdefault("Cache-Control", "no-store")
            self._log(message["status"])
        await self._send(message)

    def _log(self, status: int) -> None:
        seconds = round(time.monotonic() - self._started, 4)
        log.info("request", method=self._scope["method"], path=self._scope["path"], status=status, seconds=seconds)


def _is_upload(scope: Scope) -> bool:
    return (scope["method"], scope["path"]) == UPLOAD


def _too_large(scope: Scope, limit: int) -> TooLarge:
    """Whoever sends so much for an upload sends a file that is too large: nothing else of it may be long."""
    if _is_upload(scope):
        return file_too_large(limit - _FRAMING_BYTES)
    return TooLarge("body_too_large", f"The body is larger than the {limit} bytes that this route takes.")
