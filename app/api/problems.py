"""Every error a client can get: its status, and one body for two readers.

The body is an RFC 9457 problem and carries the ``error`` member that OpenAI's clients read. The only file with the
statuses of errors.
"""

from http import HTTPStatus

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Scope

from app.api.explanations import cut, explain, verbs_of
from app.domain.errors import (
    Conflict,
    Forbidden,
    InProgress,
    Invalid,
    NotFound,
    PreconditionFailed,
    ServiceError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unprocessable,
    UnsupportedMedia,
)

log = structlog.get_logger()

_STATUSES: dict[type[ServiceError], tuple[int, str, dict[str, str]]] = {
    Invalid: (400, "invalid_request_error", {}),
    Unauthenticated: (401, "authentication_error", {"WWW-Authenticate": "Bearer"}),
    Forbidden: (403, "permission_error", {}),
    NotFound: (404, "not_found_error", {}),
    # OpenAI's clients take 409 for "try again" unless told otherwise.
    Conflict: (409, "conflict_error", {"x-should-retry": "false"}),
    InProgress: (409, "conflict_error", {"Retry-After": "1"}),
    PreconditionFailed: (412, "invalid_request_error", {}),
    TooLarge: (413, "invalid_request_error", {}),
    UnsupportedMedia: (415, "invalid_request_error", {}),
    Unprocessable: (422, "invalid_request_error", {}),
    Unavailable: (503, "server_error", {"Retry-After": "5"}),
}
DATABASE_ERRORS = (PoolTimeout, OperationalError, InternalError)
"""Of these, ``database_error`` says which are no fault of ours."""
_IDLE_IN_TRANSACTION = "25P03"
"""A transaction that waited for too long was ended; for the driver an error of the program, as all of class 25."""
_TRANSPORT_CODES = {404: "unknown_route", 405: "method_not_allowed"}
BUSY = Unavailable("database_busy", "The service cannot reach its database now; try again in a moment.")


def answer(scope: Scope, error: ServiceError) -> JSONResponse:
    """The response to an error that is meant for the client."""
    status, kind, headers = _STATUSES[type(error)]
    return _problem(scope, status, kind, error, headers)


def _problem(
    scope: Scope, status: int, kind: str, error: ServiceError, headers: dict[str, str] | None = None
) -> JSONResponse:
    """The one error body."""
    request_id = scope.get("state", {}).get("request_id")
    about = {
        "message": error.message,
        "type": kind,
        "param": error.param and cut(error.param),
        "code": error.code,
        "errors": error.errors,
        "counts": dict(error.counts),
    }
    body = {
        "type": f"urn:sdft-service:problem:{error.code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": error.message,
        "instance": scope["path"],
        "error": about,
        "request_id": request_id,
    }
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def unsatisfiable(scope: Scope, num_bytes: int) -> JSONResponse:
    """The response to a range that begins after the end of ``num_bytes``."""
    told = ServiceError("range_not_satisfiable", f"The range begins after the end, at {num_bytes} bytes.")
    headers = {"Content-Range": f"bytes */{num_bytes}", "Accept-Ranges": "bytes"}
    return _problem(scope, 416, "invalid_request_error", told, headers)


def bug(scope: Scope) -> JSONResponse:
    """The response to an error of ours: it says nothing of the inside."""
    told = ServiceError("internal_error", "Something went wrong here. Tell the operator the request id.")
    return _problem(scope, 500, "server_error", told)


def database_error(error: Exception) -> Unavailable:
    """What a client is told of one of ``DATABASE_ERRORS``.

    Raises:
        Exception: The error itself, where nothing is gained by trying again.
    """
    if isinstance(error, InternalError) and getattr(error.orig, "sqlstate", None) != _IDLE_IN_TRANSACTION:
        raise error
    log.warning("database_busy", error=type(error).__name__)
    return BUSY


def handle_errors(app: FastAPI) -> None:
    """Replace every handler of the framework, so that no error has another body."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    for kind in DATABASE_ERRORS:
        app.add_exception_handler(kind, _database_error)


async def _service_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)  # noqa: S101 - handlers are registered by class
    return answer(request.scope, error)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    return answer(request.scope, explain(request, error.errors()))


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    """What the framework refuses: no such route, no such verb, and what went wrong while it read a body."""
    assert isinstance(error, HTTPException)  # noqa: S101
    if isinstance(error.__cause__, ServiceError):
        return answer(request.scope, error.__cause__)
    told = {
        404: "There is no such route; /openapi.json has all of them.",
        405: f"This route does not take {request.method}; the Allow header says what it takes.",
    }
    headers = dict(error.headers or {})
    if error.status_code == 405 and (verbs := verbs_of(request)):
        headers["Allow"] = ", ".join(verbs)  # the framework names those of one of the path's routes only
    code = _TRANSPORT_CODES.get(error.status_code, "invalid_request")
    told_error = ServiceError(code, told.get(error.status_code, error.detail))
    kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
    return _problem(request.scope, error.status_code, kind, told_error, headers)


async def _database_error(request: Request, error: Exception) -> JSONResponse:
    return answer(request.scope, database_error(error))
