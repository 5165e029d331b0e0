"""From stored files to a version: one transaction, so that a version is there whole and its job has succeeded, or not.

The bytes are in the store before; what a refused publication leaves there is garbage and collected as such.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db.models import Adapter, AdapterFile, AdapterVersion, Alias, Evaluation, Job, Project
from app.domain.errors import Conflict
from app.domain.gate import GateDecision, GateRule, decide
from app.domain.ids import new_id, short
from app.services import aliases
from app.services.lineage import ancestors
from app.services.records import result_file
from app.services.runs import Claim, Level, held, note, succeed
from app.storage.store import StoredBlob


class CancelRequested(Exception):
    """The client was faster: nothing is published."""


@dataclass(frozen=True)
class Results:
    """What an attempt leaves in the store.

    Args:
        folder: Path -> blob of the PEFT folder.
        manifest_sha256: Digest of the folder's SHA256SUMS.
        archive: The same folder as a tar.
        metrics: CSV, a line a step.
        report: The evaluation, as stored in ``report_json``.
        heldout: Held-out demonstrations, if any were set aside.
    """

    folder: dict[str, StoredBlob]
    manifest_sha256: str
    archive: StoredBlob
    metrics: StoredBlob
    report: dict[str, Any]
    report_json: StoredBlob
    report_html: StoredBlob
    heldout: StoredBlob | None
    scorer: str
    max_completion_tokens: int
    trained_tokens: int


@dataclass(frozen=True)
class EvaluationResults:
    """What an attempt at an evaluation leaves in the store; ``report`` is what ``report_json`` holds."""

    report: dict[str, Any]
    report_json: StoredBlob
    report_html: StoredBlob


def model_id(job: Job, project: Project) -> str:
    """What clients call the version that a job makes; known before it exists."""
    return f"ft:{job.base_model}:{project.name}:{job.adapter_name}:{short(job.id)}"


def publish(session: Session, claim: Claim, results: Results) -> AdapterVersion:
    """Make the next version of the job's line and end the job.

    Raises:
        LeaseLost: The job is no longer this attempt's.
        CancelRequested: The client asked for its end.
        Conflict: The line's name was taken over another base in the meantime.
    """
    job = held(session, claim)
    if job.cancel_requested_at is not None:
        raise CancelRequested(job.id)
    version = _add_version(session, job, results)
    decision = _decide(job, results.report)
    _add_evaluation(session, job, version, results, decision)
    if decision:
        _heed(session, job, version, decision)
    name = f"{job.adapter_name}-v{version.version}"
    files = [
        {"kind": "metrics", "file_id": result_file(session, job, f"{name}-metrics.csv", results.metrics).id},
        {"kind": "report", "file_id": result_file(session, job, f"{name}-report.json", results.report_json).id},
        {"kind": "adapter", "file_id": version.archive_file_id},
    ]
    message = f"New fine-tuned model created: {version.model_id}"
    succeed(session, job, message, trained_tokens=results.trained_tokens, result_file_ids=files)
    return version


def publish_evaluation(session: Session, claim: Claim, results: EvaluationResults) -> None:
    """Give an evaluation its report and end the job.

    Raises:
        LeaseLost: The job is no longer this attempt's.
        CancelRequested: The client asked for its end.
    """
    job = held(session, claim)
    if job.cancel_requested_at is not None:
        raise CancelRequested(job.id)
    evaluation = session.scalars(select(Evaluation).where(Evaluation.job_id == job.id)).one()
    evaluation.report, evaluation.html_sha256 = results.report, results.report_html.sha256
    file = result_file(session, job, f"{evaluation.id}-report.json", results.report_json)
    succeed(session, job, "The evaluation is done.", result_file_ids=[{"kind": "report", "file_id": file.id}])


def _add_version(session: Session, job: Job, results: Results) -> AdapterVersion:
    adapter = _line(session, job)
    last = select(func.max(AdapterVersion.version)).where(AdapterVersion.adapter_id == adapter.id)
    number = (session.scalar(last) or 0) + 1
    version = AdapterVersion(
        id=new_id("version"),
        adapter_id=adapter.id,
        version=number,
        job_id=job.id,
        parent_version_id=job.parent_version_id,
        model_id=model_id(job, session.get_one(Project, job.project_id)),
        manifest_sha256=results.manifest_sha256,
        archive_file_id=result_file(session, job, f"{adapter.name}-v{number}.tar", results.archive).id,
    )
    session.add(version)
    session.flush()
    session.add_all(
        AdapterFile(version_id=version.id, path=path, sha256=blob.sha256, num_bytes=blob.num_bytes)
        for path, blob in results.folder.items()
    )
    session.flush()
    return version


def _line(session: Session, job: Job) -> Adapter:
    """The job's adapter line, locked, so that two jobs of one line get two numbers."""
    named = {"project_id": job.project_id, "name": job.adapter_name}
    new = insert(Adapter).values(id=new_id("adapter"), base_model=job.base_model, **named)
    session.execute(new.on_conflict_do_nothing())
    adapter = session.scalars(select(Adapter).filter_by(**named).with_for_update(key_share=True)).one()
    if adapter.base_model != job.base_model:
        raise Conflict(
            "adapter_over_another_base",
            f"The adapter {adapter.name} was made over {adapter.base_model} while this job ran over {job.base_model}.",
        )
    return adapter


def _decide(job: Job, report: dict[str, Any]) -> GateDecision | None:
    if job.gate is None:
        return None
    rule = GateRule.model_validate(job.gate)
    return decide(rule, report["suites"], report.get("unjudged", ()), report.get("lineage", ()))


def _heed(session: Session, job: Job, version: AdapterVersion, decision: GateDecision) -> None:
    """Tell the client what its gate says, and move the alias that waited for a pass.

    But not away from a version that this one does not go back to: nothing was compared with what that one knows.
    """
    sentences = " ".join(criterion.sentence for criterion in decision.criteria)
    level: Level = "info" if decision.verdict == "pass" else "warn"
    payload = {"verdict": decision.verdict}
    note(session, job, f"Gate: {decision.verdict.replace('_', ' ')}. {sentences}", level=level, payload=payload)
    name = decision.rule.on_pass
    if name and decision.verdict == "pass":
        adapter = session.get_one(Adapter, version.adapter_id)
        alias = session.get(Alias, (adapter.id, name))
        if alias and alias.version_id not in {one.id for one in ancestors(session, version.parent_version_id)}:
            other = session.get_one(AdapterVersion, alias.version_id).version
            message = (
                f"{adapter.name}@{name} stays at version {other}: version {version.version} does not go on from it, so "
                "what that one knows was not asked. Compare the two, and move the alias if you want it moved."
            )
            note(session, job, message, level="warn")
            return
        details = {"verdict": decision.verdict, "override": False, "reason": None}
        aliases.point(session, adapter, version, name, actor=job.id, details=details)
        note(session, job, f"{adapter.name}@{name} points at version {version.version} now.")


def _add_evaluation(
    session: Session, job: Job, version: AdapterVersion, results: Results, decision: GateDecision | None
) -> None:
    session.add(
        Evaluation(
            id=new_id("eval"),
            project_id=job.project_id,
            job_id=job.id,
            version_id=version.id,
            against_version_id=version.parent_version_id,
            report=results.report,
            html_sha256=results.report_html.sha256,
            heldout_sha256=results.heldout.sha256 if results.heldout else None,
            scorer=results.scorer,
            max_completion_tokens=results.max_completion_tokens,
            gate=decision.model_dump(mode="json") if decision else None,
        )
    )
    session.flush()
