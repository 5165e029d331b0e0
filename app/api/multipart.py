"""An upload, taken from the wire as it comes: fields into memory, the file onto the store's own disk.

FastAPI's form parsing would buffer the whole body before an endpoint runs. Nothing is left behind by an upload that
ends in an error.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from python_multipart.exceptions import FormParserError, MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from app.api.explanations import unknown
from app.domain.characters import CONTROLS, is_blank
from app.domain.errors import Invalid, TooLarge, Unavailable, UnsupportedMedia
from app.storage.store import Store

FIELDS: Final = ("purpose",)
_MAX_FIELD_BYTES: Final = 64 * 1024
_WRITE_BYTES: Final = 1024 * 1024
_MAX_FILENAME: Final = 255


@dataclass
class Upload:
    """What has come so far."""

    path: Path
    filename: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    num_bytes: int = 0
    sha256: str = ""


class _Reader:
    """Follows python-multipart's callbacks; file bytes wait in ``pending`` for their way to disk."""

    def __init__(self, boundary: bytes, upload: Upload, max_file_bytes: int) -> None:
        self._upload = upload
        self._max_file_bytes = max_file_bytes
        self._digest = sha256()
        self._names: list[str] = []
        self._headers: dict[bytes, bytes] = {}
        self._header = b""
        self._value = b""
        self._content = bytearray()
        self._is_file = False
        self.pending = bytearray()
        self.is_complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begins,
                    "on_header_field": self._header_name,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_ends,
                    "on_headers_finished": self._headers_end,
                    "on_part_data": self._part_data,
                    "on_part_end": self._part_ends,
                    "on_end": self._ends,
                },
            )
        except FormParserError as error:
            message = "The boundary of the multipart/form-data is too long; let an HTTP library draw it."
            raise Invalid("invalid_multipart", message) from error

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body.

        Raises:
            Invalid: They are not the multipart that was announced, or not the parts that are taken.
            TooLarge: A part is.
        """
        try:
            self._parser.write(chunk)
        except MultipartParseError as error:
            message = "The body is not valid multipart/form-data; let an HTTP library write it."
            raise Invalid("invalid_multipart", message) from error

    def finish(self) -> None:
        """Check that all has come.

        Raises:
            Invalid: Something is missing.
        """
        if not self.is_complete:
            raise Invalid("invalid_multipart", "The body ends before its last boundary; send it again, whole.")
        for name in ("file", *FIELDS):
            if name not in self._names:
                message = f"The part named {name} is missing."
                raise Invalid("missing_required_parameter", message, param=name)
        self._upload.sha256 = self._digest.hexdigest()

    def _part_begins(self) -> None:
        self._headers, self._header, self._value, self._content = {}, b"", b"", bytearray()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = _text(options.get(b"name", b""), "name")
        self._is_file = b"filename" in options
        if name not in FIELDS and name != "file":
            raise Invalid("unknown_parameter", unknown(name, ["file", *FIELDS]), param=name)
        if name in self._names:
            raise Invalid("invalid_value", f"There are two parts named {name}; send one.", param=name)
        if self._is_file != (name == "file"):
            message = "The part named file, and no other, must be sent as a file, with a filename."
            raise Invalid("invalid_value", message, param=name)
        self._names.append(name)
        if self._is_file:
            self._upload.filename = _filename(options[b"filename"])

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._upload.num_bytes += end - start
            if self._upload.num_bytes > self._max_file_bytes:
                raise file_too_large(self._max_file_bytes)
            self._digest.update(data[start:end])
            self.pending += data[start:end]
            return
        self._content += data[start:end]
        if len(self._content) > _MAX_FIELD_BYTES:
            message = f"A field may have {_MAX_FIELD_BYTES} bytes; only the part named file may be longer."
            raise TooLarge("field_too_large", message, param=self._names[-1])

    def _part_ends(self) -> None:
        if not self._is_file:
            self._upload.fields[self._names[-1]] = _text(bytes(self._content), self._names[-1])

    def _ends(self) -> None:
        self.is_complete = True


def file_too_large(limit: int) -> TooLarge:
    """What to say about a file of more bytes than an upload takes."""
    message = f"The file is larger than the {limit} bytes that an upload takes; split it."
    return TooLarge("file_too_large", message, param="file")


@asynccontextmanager
async def received(request: Request, store: Store, *, max_file_bytes: int) -> AsyncIterator[Upload]:
    """Take an upload and keep it for the length of the block.

    Raises:
        Invalid: It is not well formed, or stopped half way.
        TooLarge: The file is.
        Unavailable: The disk does not take it.
    """
    boundary = _boundary(request.headers.get("content-type", ""))
    path = await run_in_threadpool(store.stage)
    try:
        upload = Upload(path)
        reader = _Reader(boundary, upload, max_file_bytes)
        await _take(request, reader, path)
        reader.finish()
        yield upload
    finally:
        path.unlink(missing_ok=True)


async def _take(request: Request, reader: _Reader, path: Path) -> None:
    try:
        with path.open("wb") as target:
            async for chunk in request.stream():
                reader.feed(chunk)
                if len(reader.pending) >= _WRITE_BYTES or not chunk:
                    await run_in_threadpool(target.write, bytes(reader.pending))
                    reader.pending.clear()
    except ClientDisconnect as error:
        raise Invalid("invalid_multipart", "The upload stopped half way; send it again, whole.") from error
    except OSError as error:
        raise Unavailable("storage_unavailable", "The artifact store cannot take this file now.") from error


def _boundary(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        message = "Send multipart/form-data with a part named file and a part named purpose."
        raise UnsupportedMedia("unsupported_media_type", message)
    return options[b"boundary"]


def _filename(raw: bytes) -> str:
    """A name that people can read, whole and in its order."""
    name = _text(raw, "file").replace("%22", '"')  # how browsers and OpenAI's client write a quote (WHATWG, 4.10.22.8)
    if is_blank(name) or len(name) > _MAX_FILENAME or CONTROLS.search(name):
        message = (
            f"A filename has 1 to {_MAX_FILENAME} characters, one that can be seen among them, and none that controls "
            "a terminal or the direction of text."
        )
        raise Invalid("invalid_value", message, param="file")
    return name


def _text(raw: bytes, param: str) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise Invalid("bad_encoding", "The bytes are not valid UTF-8.", param=param) from error
    if "\0" in text:
        raise Invalid("bad_encoding", "There is a NUL character in it; remove it.", param=param)
    return text
