"""What clients uploaded and what jobs left for them: kept whole, never changed, deleted only when nothing needs it."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from app.db.models import AdapterVersion, Checkpoint, Evaluation, File, Job
from app.domain.errors import Conflict, Invalid, NotFound, Unprocessable
from app.domain.ids import is_id, new_id
from app.domain.lifecycle import TERMINAL
from app.domain.validation import MAX_REPORTED, Report, validate, validate_suite
from app.services import blobs
from app.services.lineage import ancestors
from app.services.pages import Page, PageRequest, page
from app.storage.store import StoredBlob

TRAINING_PURPOSE = "fine-tune"
SUITE_PURPOSE = "evals"
_CHECKS = {TRAINING_PURPOSE: validate, SUITE_PURPOSE: validate_suite}


def check_purpose(purpose: str) -> None:
    """Refuse what is meant for another service.

    Raises:
        Invalid: Clients upload files to train on or to measure with.
    """
    if purpose not in _CHECKS:
        message = (
            f'purpose must be "{TRAINING_PURPOSE}", for demonstrations to train on, or "{SUITE_PURPOSE}", for '
            "questions to measure with."
        )
        raise Invalid("invalid_value", message, param="purpose")


def check(path: Path, purpose: str) -> Report:
    """Validate an upload before anything is kept; reads the whole file, so hold no session meanwhile.

    Raises:
        Unprocessable: No job could use it; ``errors`` has the first hundred findings of each kind, ``counts`` all.
    """
    report = _CHECKS[purpose](path)
    if not report.valid:
        first, counts = report.errors[0], {one.code: report.counts[one.code] for one in report.errors}
        total, where = sum(counts.values()), f"Line {first.line}: " if first.line else ""
        listed = "listed in errors"
        if total > len(report.errors):
            listed = f"the first {MAX_REPORTED} of each kind listed in errors, and all counted in counts"
        more = f" There are {total} findings in all, {listed}." if total > 1 else ""
        message = f"{where}{first.message} {first.hint}{more}"
        found = [asdict(finding) for finding in report.errors]
        raise Unprocessable("invalid_file", message, param="file", errors=found, counts=counts)
    return report


def create(session: Session, project_id: str, *, filename: str, purpose: str, blob: StoredBlob, report: Report) -> File:
    """Keep a file whose bytes are in the store."""
    blobs.record(session, blob)
    file = File(
        id=new_id("file"),
        project_id=project_id,
        filename=filename,
        purpose=purpose,
        sha256=blob.sha256,
        num_bytes=blob.num_bytes,
        status="processed",
        validation=_as_json(report),
    )
    session.add(file)
    session.flush()
    session.refresh(file)
    return file


def get(session: Session, project_id: str, file_id: str) -> File:
    """A file of the project.

    Raises:
        NotFound: There is none.
    """
    return _insist_on(session.get(File, file_id) if is_id("file", file_id) else None, project_id)


def exists(session: Session, project_id: str, file_id: str) -> bool:
    """Whether the project has such a file, and has not deleted it."""
    query = select(File.id).where(File.id == file_id, File.project_id == project_id, File.deleted_at.is_(None))
    return session.scalar(query) is not None


def list_files(session: Session, project_id: str, request: PageRequest, *, purpose: str | None) -> Page[File]:
    """The project's files."""
    shown = and_(File.deleted_at.is_(None), *([File.purpose == purpose] if purpose else []))
    scope = select(File).where(File.project_id == project_id)
    return page(session, scope, request, key=(File.created_at, File.id), shown=shown)


def delete(session: Session, project_id: str, file_id: str) -> None:
    """Take a file away; its bytes go once nothing else is made of them.

    Raises:
        NotFound: There is none.
        Conflict: A job or a version still needs it.
    """
    file = get(session, project_id, file_id)
    session.refresh(file, with_for_update=True)  # a job that is being posted with it waits, or is seen here
    _insist_on(file, project_id)  # of several who delete it at once, one does
    if reason := next(_reasons_to_keep(session, project_id, file_id), None):
        raise Conflict("file_in_use", reason)
    file.deleted_at = datetime.now(UTC)
    session.flush()


def for_job(session: Session, project_id: str, file_id: str, *, purpose: str, param: str) -> File:
    """A file that a job is about to use, which nobody can delete until the transaction ends.

    Raises:
        Invalid: There is none, or it was uploaded for something else.
    """
    query = select(File).where(File.id == file_id, File.project_id == project_id, File.deleted_at.is_(None))
    file = session.scalar(query.with_for_update(read=True))
    if file is None:
        message = f"There is no file with this id in your project; upload it first with purpose {purpose}."
        raise Invalid("file_not_found", message, param=param)
    if file.purpose != purpose:
        message = f"The file has the purpose {file.purpose}; what is named here is uploaded with purpose {purpose}."
        raise Invalid("invalid_file_purpose", message, param=param)
    return file


def _insist_on(file: File | None, project_id: str) -> File:
    if file is None or file.project_id != project_id or file.deleted_at:
        raise NotFound("file_not_found", "There is no file with this id in your project; list the files to see them.")
    return file


def _reasons_to_keep(session: Session, project_id: str, file_id: str) -> Iterator[str]:
    unfinished = Job.status.not_in(TERMINAL)
    rehearsed = Job.hyperparameters["rehearsal"]["file"].astext == file_id
    asked = Job.evaluation["suites"].contains([file_id])
    used = (Job.training_file_id == file_id) | (Job.validation_file_id == file_id) | rehearsed | asked
    if job_id := session.scalar(select(Job.id).where(used, unfinished).limit(1)):
        yield f"The job {job_id} still needs this file; cancel the job or wait for its end."
    evaluating = select(Evaluation.id).join(Job, Job.id == Evaluation.job_id).where(unfinished)
    if evaluation_id := session.scalar(evaluating.where(Evaluation.suites.contains([{"file_id": file_id}])).limit(1)):
        yield f"The evaluation {evaluation_id} still needs this file; cancel it or wait for its end."
    going_on = select(Job.id, Job.parent_version_id).where(unfinished, Job.parent_version_id.is_not(None))
    for job_id, parent_id in session.execute(going_on.where(Job.project_id == project_id)):
        made_by = [version.job_id for version in ancestors(session, parent_id)]
        if session.scalar(select(Job.id).where(Job.id.in_(made_by), Job.training_file_id == file_id).limit(1)):
            yield f"The job {job_id} rehearses this file, which an earlier version was trained on; wait for its end."
    of_checkpoint = select(Job.id).join(Checkpoint, Checkpoint.job_id == Job.id)
    if job_id := session.scalar(of_checkpoint.where(Checkpoint.adapter_file_id == file_id, unfinished).limit(1)):
        yield f"The job {job_id} may have to go on from this checkpoint; wait for its end."
    published = AdapterVersion.archive_file_id == file_id
    if model_id := session.scalar(
        select(AdapterVersion.model_id).where(published, AdapterVersion.deleted_at.is_(None))
    ):
        yield f"This is the archive of the model {model_id}; delete the model first."


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "n_examples": report.n_examples,
        "warnings": [asdict(finding) for finding in report.warnings],
        "counts": dict(report.counts),
        "stats": {
            "prompt_bytes_max": report.prompt_bytes_max,
            "completion_bytes_max": report.completion_bytes_max,
            "document_bytes_max": report.document_bytes_max,
            "messages_max": report.messages_max,
            "prompts": report.num_prompts,
            "roles": sorted(report.roles),
        },
    }
