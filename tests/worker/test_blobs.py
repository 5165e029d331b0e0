"""Bytes stay while anything refers to them, and go when nothing has for a while."""

import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from app.db import models
from app.domain.errors import NotFound
from app.services import blobs
from app.storage.store import Store, StoredBlob
from tests import factories

YESTERDAY = datetime.now(UTC) - timedelta(days=2)


def age(session: Session) -> None:
    session.execute(update(models.Blob).values(last_referenced_at=YESTERDAY))


def stored(store: Store) -> set[str]:
    return {path.name for path in (store.staging.parent / "blobs").rglob("*") if path.is_file()}


def put(session: Session, store: Store, tmp_path: Path, content: bytes) -> StoredBlob:
    path = tmp_path / "content"
    path.write_bytes(content)
    return blobs.put(session, store, path)


def test_what_nothing_refers_to_goes_after_a_day(session: Session, store: Store, tmp_path: Path) -> None:
    blob = put(session, store, tmp_path, b"orphan")
    assert blobs.collect_garbage(session, store) == 0
    age(session)
    assert blobs.collect_garbage(session, store) == 1
    assert stored(store) == set()
    assert session.get(models.Blob, blob.sha256) is None


def test_every_kind_of_reference_keeps_bytes(session: Session, store: Store) -> None:
    factories.make_version(session, store=store, heldout=b"held out")
    factories.make_checkpoint(session, factories.make_job(session, "running"), 3, store=store)
    age(session)
    known = set(session.scalars(select(models.Blob.sha256)))
    assert blobs.collect_garbage(session, store) == 0
    assert set(session.scalars(select(models.Blob.sha256))) == known


def test_storing_the_same_bytes_again_gives_them_another_day(session: Session, store: Store, tmp_path: Path) -> None:
    put(session, store, tmp_path, b"same")
    age(session)
    put(session, store, tmp_path, b"same")
    assert blobs.collect_garbage(session, store) == 0


def test_a_deleted_file_loses_its_bytes_and_its_row_once_no_job_names_it(session: Session, store: Store) -> None:
    used, unused, kept = (
        factories.make_file(session, content=name, store=store) for name in (b"used", b"unused", b"kept")
    )
    job = factories.make_job(session, "succeeded", training_file=used)
    used.deleted_at = unused.deleted_at = YESTERDAY
    session.flush()
    age(session)
    blobs.collect_garbage(session, store)
    session.expire_all()
    assert stored(store) == {kept.sha256}
    assert set(session.scalars(select(models.File.id))) == {used.id, kept.id}
    assert job.training_file_id == used.id
    with pytest.raises(NotFound, match="has been deleted"):
        blobs.blob_of(used)


def test_a_file_that_was_just_deleted_has_another_day(session: Session, store: Store) -> None:
    """Someone may be reading it: a download, or a job whose post came first."""
    file = factories.make_file(session, content=b"read", store=store)
    factories.make_job(session, "succeeded", training_file=file)
    file.deleted_at = datetime.now(UTC)
    session.flush()
    age(session)
    assert blobs.collect_garbage(session, store) == 0
    assert blobs.blob_of(file).sha256 in stored(store)


def test_an_abandoned_upload_leaves_the_staging_folder(session: Session, store: Store) -> None:
    old, new = store.stage(), store.stage()
    os.utime(old, (0, 0))
    blobs.collect_garbage(session, store)
    assert list(store.staging.iterdir()) == [new]


def test_what_a_killed_process_was_writing_is_removed(session: Session, store: Store, tmp_path: Path) -> None:
    """obstore writes beside the blob and renames."""
    blob = put(session, store, tmp_path, b"whole")
    half = store.staging.parent / "blobs" / blob.sha256[:2] / f"{blob.sha256}#1"
    half.write_bytes(b"who")
    blobs.collect_garbage(session, store)
    assert half.exists()
    os.utime(half, (0, 0))
    blobs.collect_garbage(session, store)
    assert not half.exists()
    assert store.read_bytes(blob) == b"whole"


def test_dropping_leaves_what_is_still_referred_to(session: Session, store: Store, tmp_path: Path) -> None:
    file = factories.make_file(session, content=b"wanted", store=store)
    blob = put(session, store, tmp_path, b"unwanted")
    blobs.drop(session, store, [file.sha256, blob.sha256])
    assert stored(store) == {file.sha256}


def test_collection_in_a_loop_never_takes_what_is_being_published(
    committed_sessions: sessionmaker[Session], store: Store, tmp_path: Path
) -> None:
    """Contents repeat, so that most are garbage of an earlier round when they are wanted again."""
    done = threading.Event()
    removed = [0]

    def collect() -> None:
        while not done.is_set():
            with committed_sessions.begin() as session:
                removed[0] += blobs.collect_garbage(session, store, grace_seconds=1.0)

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        with committed_sessions.begin() as session:
            project = factories.make_project(session)
        for number in range(150):
            with committed_sessions.begin() as session:
                blob = put(session, store, tmp_path, f"content {number % 7}".encode())
            with committed_sessions.begin() as session:
                file = models.File(
                    id=f"file-{number}",
                    project_id=project.id,
                    filename="f",
                    purpose="fine-tune",
                    sha256=blob.sha256,
                    num_bytes=blob.num_bytes,
                    status="processed",
                )
                session.add(file)
            assert store.read(blob)
            with committed_sessions.begin() as session:
                session.delete(session.get_one(models.File, file.id))
            time.sleep(0.01 * (number % 5 == 0) + 1.2 * (number % 50 == 49))
    finally:
        done.set()
        collector.join()
    assert removed[0] > 0


def test_a_row_in_use_cannot_be_removed_under_its_user(committed_sessions: sessionmaker[Session], store: Store) -> None:
    with committed_sessions.begin() as session:
        file = factories.make_file(session, store=store)
    with pytest.raises(IntegrityError), committed_sessions.begin() as session:
        session.delete(session.get_one(models.Blob, file.sha256))
