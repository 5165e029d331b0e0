"""Stages of a run that several tests start from."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.services.publishing import Results
from app.storage.store import StoredBlob
from tests import factories


def results(
    session: Session,
    content: bytes = b"weights",
    *,
    suites: Sequence[dict[str, Any]] = (),
    unjudged: Sequence[dict[str, Any]] = (),
    lineage: Sequence[dict[str, Any]] = (),
) -> Results:
    """What an attempt would have left in the store; rows only."""

    def blob(text: bytes) -> StoredBlob:
        row = factories.make_blob(session, text)
        return StoredBlob(row.sha256, row.num_bytes)

    return Results(
        folder={"adapter_model.safetensors": blob(content)},
        manifest_sha256="0" * 64,
        archive=blob(b"tar of " + content),
        metrics=blob(b"step\n"),
        report={"suites": list(suites), "unjudged": list(unjudged), "lineage": list(lineage)},
        report_json=blob(b"{}"),
        report_html=blob(b"<!doctype html>"),
        heldout=None,
        scorer="exact",
        max_completion_tokens=8,
        trained_tokens=10,
    )


def bounds(value: float) -> dict[str, float]:
    """A value, give or take 0.05."""
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def suite(role: str, value: float) -> dict[str, Any]:
    """A suite of many questions on which the candidate differs from the base by ``value``, all of it one way."""
    lost, gained = (round(max(0.0, change) * 400) for change in (-value, value))
    changed = {"num_lost": lost, "num_gained": gained, "p_value": 0.001}
    comparison = {"against": "base", "difference": bounds(value), **changed}
    base = {"arm": "base", "num_right": 200}
    return {"name": role, "role": role, "measure": "share_right", "n": 400, "comparisons": [comparison], "arms": [base]}
