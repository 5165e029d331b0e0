"""Stages of a run that several tests start from."""

from sqlalchemy.orm import Session

from app.services.publishing import Results
from app.storage.store import StoredBlob
from tests import factories


def results(session: Session, content: bytes = b"weights") -> Results:
    """What an attempt would have left in the store; rows only."""

    def blob(text: bytes) -> StoredBlob:
        row = factories.make_blob(session, text)
        return StoredBlob(row.sha256, row.num_bytes)

    return Results(
        folder={"adapter_model.safetensors": blob(content)},
        manifest_sha256="0" * 64,
        archive=blob(b"tar of " + content),
        metrics=blob(b"step\n"),
        report={"suites": []},
        report_json=blob(b"{}"),
        report_html=blob(b"<!doctype html>"),
        heldout=None,
        scorer="exact",
        max_completion_tokens=8,
        trained_tokens=10,
    )
