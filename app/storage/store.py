"""Blobs named by their sha256, over obstore: a local folder today, a bucket with the same calls.

Blobs are written whole or not at all, are never changed, and are hashed again on the way out when read from the
first byte to the last, so that corruption is an error and never a wrong answer.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import obstore
from obstore.store import LocalStore

from app.domain.errors import Unavailable

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class StoredBlob:
    """What the store knows of a blob."""

    sha256: str
    num_bytes: int


class CorruptBlob(Exception):
    """A blob's bytes are cut short, or do not hash to its name."""


class MissingBlob(CorruptBlob):
    """A blob is not there; so may be the disk that holds them all."""


def hash_file(path: Path) -> StoredBlob:
    """Digest and size of a local file, in one pass."""
    digest, num_bytes = hashlib.sha256(), 0
    with path.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            num_bytes += len(chunk)
    return StoredBlob(digest.hexdigest(), num_bytes)


class Store:
    """Content-addressed blobs under one root.

    Args:
        root: Folder that holds the blobs; made if missing.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.staging = root / "staging"
        self.staging.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._objects = LocalStore(root, mkdir=True)

    def stage(self, suffix: str = "") -> Path:
        """A new empty file on the store's own disk, for bytes on their way in. The caller removes it."""
        handle, name = tempfile.mkstemp(dir=self.staging, suffix=suffix)
        os.close(handle)
        return Path(name)

    def put_file(self, path: Path) -> StoredBlob:
        """Store a local file.

        Raises:
            Unavailable: The disk is full or the store does not answer; nothing visible is left behind.
        """
        blob = hash_file(path)
        if self._size(blob) == blob.num_bytes:
            return blob
        try:
            obstore.put(self._objects, _key(blob.sha256), path, max_concurrency=2)  # each holds a part in memory
            self._sync(blob.sha256)
        except (OSError, obstore.exceptions.BaseError) as error:
            raise Unavailable("storage_unavailable", "The artifact store cannot take this file now.") from error
        return blob

    def read(self, blob: StoredBlob, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Bytes ``start`` to ``end`` (exclusive), in chunks.

        Raises:
            MissingBlob: There is none.
            CorruptBlob: Before the first byte if it has another size; at the end of a whole read if its bytes do not
                hash to its name.
            Unavailable: The store does not answer.
        """
        size = self._size(blob)
        if size is None:
            raise MissingBlob(blob.sha256)
        if size != blob.num_bytes:
            raise CorruptBlob(blob.sha256)
        return self._chunks(blob, start, blob.num_bytes if end is None else end)

    def read_bytes(self, blob: StoredBlob) -> bytes:
        """A small blob, whole and checked."""
        return b"".join(self.read(blob))

    def fetch(self, blob: StoredBlob, to: Path) -> None:
        """Copy a blob to a local file, checked."""
        to.parent.mkdir(parents=True, exist_ok=True)
        with to.open("wb") as target:
            for chunk in self.read(blob):
                target.write(chunk)

    def delete(self, sha256: str) -> None:
        """Forget a blob; no error if it is not there."""
        try:
            obstore.delete(self._objects, _key(sha256))
        except FileNotFoundError:
            return

    def sweep(self, before: float) -> None:
        """Remove what was on its way in and never came: last changed before so many seconds since the epoch."""
        for path in [*self.staging.iterdir(), *self._root.glob("blobs/*/*#*")]:  # obstore writes beside, then renames
            with suppress(FileNotFoundError):  # it came after all, or went
                if path.stat().st_mtime < before:
                    path.unlink()

    def check(self) -> None:
        """Raise ``OSError`` if the store cannot be written."""
        probe = self.stage()
        probe.write_bytes(b"ok")
        probe.unlink()

    def _size(self, blob: StoredBlob) -> int | None:
        """Bytes that are there; None if there is no such blob."""
        try:
            size: int = obstore.head(self._objects, _key(blob.sha256))["size"]
        except FileNotFoundError:
            return None
        except obstore.exceptions.BaseError as error:
            raise Unavailable("storage_unavailable", "The artifact store does not answer now.") from error
        return size

    def _chunks(self, blob: StoredBlob, start: int, end: int) -> Iterator[bytes]:
        whole = start == 0 and end == blob.num_bytes
        digest = hashlib.sha256()
        for position in range(start, end, CHUNK_BYTES):
            chunk = bytes(
                obstore.get_range(
                    self._objects, _key(blob.sha256), start=position, end=min(position + CHUNK_BYTES, end)
                )
            )
            digest.update(chunk)
            if whole and position + CHUNK_BYTES >= end and digest.hexdigest() != blob.sha256:
                raise CorruptBlob(blob.sha256)
            yield chunk

    def _sync(self, sha256: str) -> None:
        """A committed row must never name bytes that a power cut can still take."""
        path = self._root / _key(sha256)
        folders = ((path.parent, os.O_RDONLY), (path.parent.parent, os.O_RDONLY))
        for target, flags in ((path, os.O_RDWR), *folders):
            handle = os.open(target, flags)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _key(sha256: str) -> str:
    return f"blobs/{sha256[:2]}/{sha256}"
