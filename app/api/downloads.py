"""Answers that need not be sent twice.

Bytes go whole or in part, named by their digest, so that a cut download can go on; JSON is not sent to a poller that
has it already.
"""

import re
from hashlib import sha256
from urllib.parse import quote

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app.api import problems
from app.domain.errors import PreconditionFailed
from app.storage.store import Store, StoredBlob

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


class Unsatisfiable(Exception):
    """The range begins after the end."""


def download(request: Request, store: Store, blob: StoredBlob, *, filename: str, media_type: str) -> Response:
    """A blob, or what the request's headers ask of it.

    RFC 9110: If-Match, If-None-Match, If-Range, Range; GET and HEAD.

    Raises:
        PreconditionFailed: It is another one than the client has begun with.
    """
    etag = f'"sha256:{blob.sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}",
    }
    expected = _tags(request, "if-match")
    if expected and not expected & {etag, "*"}:  # strong comparison: a weak tag matches nothing
        message = f"These bytes have the ETag {etag}, which If-Match does not name; begin the download anew."
        raise PreconditionFailed("content_changed", message, param="If-Match")
    if _has(request, etag):
        return Response(status_code=304, headers=headers)
    try:
        part = _range(request, etag, blob.num_bytes)
    except Unsatisfiable:
        return problems.unsatisfiable(request.scope, blob.num_bytes)
    start, end = part or (0, blob.num_bytes)
    headers["Content-Length"] = str(end - start)
    if part:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{blob.num_bytes}"
    status = 206 if part else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    return StreamingResponse(store.read(blob, start, end), status, headers, media_type)


def revalidated(request: Request, answer: BaseModel) -> Response:
    """A JSON answer, or 304 where the client has the same one."""
    body = answer.model_dump_json().encode()
    etag = f'W/"{sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if _has(request, etag):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


def _has(request: Request, etag: str) -> bool:
    """Whether the client has it already: weak comparison, as If-None-Match asks for."""
    named = {tag.removeprefix("W/") for tag in _tags(request, "if-none-match")}
    return "*" in named or etag.removeprefix("W/") in named


def _tags(request: Request, header: str) -> set[str]:
    """What a header names, over all its lines."""
    lines = request.headers.getlist(header)
    return {tag for line in lines for part in line.split(",") if (tag := part.strip())}


def _range(request: Request, etag: str, num_bytes: int) -> tuple[int, int] | None:
    """The part asked for.

    Returns:
        Its start and its end, exclusive. Null means the whole: also where the client's part is of another file, where
        several ranges are asked for, which need not be served, and where the header is none.

    Raises:
        Unsatisfiable: There are no such bytes.
    """
    asked = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if request.method != "GET" or not asked or request.headers.get("if-range", etag) != etag:
        return None
    first, last = asked.groups()
    if not first and not last:
        return None
    if not first:
        start, end = max(0, num_bytes - int(last)), num_bytes
    else:
        start, end = int(first), min(num_bytes, int(last) + 1 if last else num_bytes)
        if last and int(last) < start:
            return None
    if start >= num_bytes:
        raise Unsatisfiable
    return start, end
