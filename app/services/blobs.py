"""Which bytes the store must keep: a row for each blob, and the removal of those that nothing refers to.

A file that a client deleted loses its bytes too, though jobs that have ended go on naming it.

The row comes first. ``record`` marks it as wanted, which keeps its bytes for a day; only then are bytes stored and
referred to. Removal locks the row first too, so that nobody can be told "we have it" while it goes.
"""

import time
from datetime import timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import ColumnElement, delete, exists, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import DeclarativeBase, Session

from app.db.clock import NOW
from app.db.models import Base, Blob, File
from app.domain.errors import NotFound
from app.storage.store import Store, StoredBlob, hash_file

GRACE_SECONDS: Final = 24 * 3600.0
PAGE: Final = 100


def record(session: Session, blob: StoredBlob) -> None:
    """Say that these bytes are wanted, for a day even if nothing refers to them yet."""
    row = insert(Blob).values(sha256=blob.sha256, num_bytes=blob.num_bytes)
    session.execute(row.on_conflict_do_update(index_elements=["sha256"], set_={"last_referenced_at": NOW}))


def put(session: Session, store: Store, path: Path) -> StoredBlob:
    """Store a local file: recorded first, so that no removal of the same bytes can come in between.

    Raises:
        Unavailable: The store does not take it.
    """
    record(session, hash_file(path))
    return store.put_file(path)


def blob_of(file: File) -> StoredBlob:
    """Where a file's bytes are.

    Raises:
        NotFound: It was deleted, and they are gone.
    """
    if file.sha256 is None:
        raise NotFound("file_not_found", f"{file.filename} has been deleted.")
    return StoredBlob(file.sha256, file.num_bytes)


def collect_garbage(session: Session, store: Store, *, grace_seconds: float = GRACE_SECONDS) -> int:
    """Remove one page of what nothing has referred to for a while.

    Returns:
        Number of blobs removed; call again, in a new transaction, while it is not 0.
    """
    before = NOW - timedelta(seconds=grace_seconds)
    session.execute(delete(File).where(File.deleted_at < before, ~_is_referred_to(File)))
    session.execute(update(File).where(File.deleted_at < before, File.sha256.is_not(None)).values(sha256=None))
    store.sweep(before=time.time() - grace_seconds)
    return _remove(session, store, Blob.last_referenced_at < before)


def drop(session: Session, store: Store, sha256s: list[str]) -> None:
    """Remove blobs now that only their owner knew, e.g. a state that a newer one replaced."""
    _remove(session, store, Blob.sha256.in_(sha256s))


def _remove(session: Session, store: Store, *chosen: ColumnElement[bool]) -> int:
    """Rows first: a foreign key stops what is still in use. The locks are held until the bytes are gone.

    However long that takes: else someone could be told meanwhile that they are there.
    """
    session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    unused = select(Blob).where(*chosen, ~_is_referred_to(Blob)).limit(PAGE).with_for_update(skip_locked=True)
    blobs = session.scalars(unused).all()
    for blob in blobs:
        session.delete(blob)
    session.flush()
    for blob in blobs:
        store.delete(blob.sha256)
    return len(blobs)


def _is_referred_to(target: type[DeclarativeBase]) -> ColumnElement[bool]:
    """Whether any foreign key of any table, now or later, points at a row of ``target``."""
    return or_(
        *(
            exists().where(column == key.column)
            for table in Base.metadata.tables.values()
            for column in table.columns
            for key in column.foreign_keys
            if key.column.table is target.__table__
        )
    )
