"""Takes what a trainer wrote out of the attempt's folder: into the store first, then into rows under the fence."""

import json
from pathlib import Path

from app.db.session import transaction
from app.domain.trainer_protocol import CheckpointWritten, Finished
from app.resources import Resources
from app.services import blobs, records
from app.services.publishing import EvaluationResults, Results
from app.storage.store import StoredBlob, hash_file

OUT_FOLDER = "out"


def store_file(resources: Resources, path: Path) -> StoredBlob:
    """Put one file into the store. Its row is committed first, so that its bytes cannot be collected as garbage.

    Raises:
        Unavailable: The store does not take it.
    """
    with transaction(resources.sessions) as session:
        blobs.record(session, hash_file(path))
    return resources.store.put_file(path)


def store_checkpoint(resources: Resources, folder: Path, written: CheckpointWritten) -> tuple[StoredBlob, StoredBlob]:
    """The adapter's tar and the state of a checkpoint, in the store."""
    place = folder / written.path
    return store_file(resources, place / "adapter.tar"), store_file(resources, place / "state.safetensors")


def store_results(resources: Resources, job_id: str, folder: Path, finished: Finished) -> Results:
    """All that a finished attempt leaves, in the store; and the metrics of all attempts, which only rows know."""
    out = folder / OUT_FOLDER
    with transaction(resources.sessions) as session:
        (out / "metrics.csv").write_text(records.metrics_csv(session, job_id), encoding="utf-8")
    adapter, heldout = out / "adapter", out / "heldout.jsonl"

    def store(path: Path) -> StoredBlob:
        return store_file(resources, path)

    paths = sorted(path for path in adapter.rglob("*") if path.is_file())
    stored = {path.relative_to(adapter).as_posix(): store(path) for path in paths}
    return Results(
        folder=stored,
        manifest_sha256=stored["SHA256SUMS"].sha256,
        archive=store(out / "adapter.tar"),
        metrics=store(out / "metrics.csv"),
        report=json.loads((out / "report.json").read_bytes()),
        report_json=store(out / "report.json"),
        report_html=store(out / "report.html"),
        heldout=store(heldout) if heldout.exists() else None,
        scorer=finished.scorer,
        max_completion_tokens=finished.max_completion_tokens,
        trained_tokens=finished.trained_tokens,
    )


def store_report(resources: Resources, folder: Path) -> EvaluationResults:
    """All that a finished evaluation leaves, in the store."""
    out = folder / OUT_FOLDER
    return EvaluationResults(
        report=json.loads((out / "report.json").read_bytes()),
        report_json=store_file(resources, out / "report.json"),
        report_html=store_file(resources, out / "report.html"),
    )
