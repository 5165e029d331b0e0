"""Lays out the folder of one attempt (see ``app.domain.trainer_protocol``): the order, and every file that it names.

Reads the rows in one short transaction, then copies bytes out of the store without holding any.
"""

import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import Adapter, AdapterFile, AdapterVersion, BaseModel, Blob, Evaluation, File, Job, Project
from app.db.session import transaction
from app.domain.errors import Unavailable
from app.domain.evaluation import EvaluationOptions
from app.domain.lifecycle import FailureCode
from app.domain.trainer_protocol import (
    ORDER_NAME,
    AnyOrder,
    BaseModelRef,
    EarlierSkill,
    EvaluationOrder,
    Order,
    ParentRef,
    SuiteFile,
    Taught,
)
from app.domain.training import SdftHyperparameters, SupervisedHyperparameters, TrainingConfig
from app.resources import Resources
from app.services.blobs import blob_of
from app.services.evaluations import GENERAL
from app.services.lineage import ancestors, past_scores
from app.services.publishing import model_id
from app.services.runs import Claim, begin_anew, held, latest_checkpoint
from app.storage.store import CorruptBlob, MissingBlob, Store, StoredBlob

log = structlog.get_logger()

TRAINING_NAME = "train.jsonl"
VALIDATION_NAME = "validation.jsonl"
VERSION_FOLDER = PurePosixPath("version")
PARENT_FOLDER = PurePosixPath("parent")
EARLIER_FOLDER = PurePosixPath("earlier")
REHEARSAL_NAME = "rehearsal.jsonl"
SUITES_FOLDER = PurePosixPath("suites")
REHEARSAL_FOLDER = PurePosixPath("rehearsal")
HELD_OUT_FOLDER = PurePosixPath("held_out")
RESUME_FOLDER = PurePosixPath("resume")
_RESUME_ARCHIVE = RESUME_FOLDER / "adapter.tar"


class Unprepared(Exception):
    """The attempt cannot start here."""

    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.code: FailureCode = code
        self.message = message


@dataclass
class _Plan:
    """Which blob goes where."""

    files: dict[PurePosixPath, StoredBlob] = field(default_factory=dict)

    def copy(self, session: Session, sha256: str, to: PurePosixPath) -> None:
        blob = session.get_one(Blob, sha256)
        self.files[to] = StoredBlob(blob.sha256, blob.num_bytes)


def prepare(
    resources: Resources,
    claim: Claim,
    folder: Path,
    *,
    answers: Path,
    tasks_folder: Path | None,
    checkpoint_seconds: float,
    device: str,
    num_threads: int | None,
) -> AnyOrder:
    """Fill the attempt's folder; returns the order that lies in it.

    Raises:
        LeaseLost: The job is no longer this attempt's.
        Unprepared: This worker lacks the base model or the room, or stored bytes are damaged.
    """
    plan = _Plan()
    with transaction(resources.sessions) as session:
        job = held(session, claim)
        here: dict[str, Any] = {
            "answers": str(answers),
            "device": device,
            "num_threads": num_threads,
            "tasks_folder": str(tasks_folder) if tasks_folder else None,
        }
        if job.kind == "evaluation":
            evaluation_order = _evaluation_order(session, job, plan, resources.models)
            order: AnyOrder = evaluation_order.model_copy(update=here)
        else:
            training_order = _order(session, job, plan, resources.models)
            order = training_order.model_copy(update=here | {"checkpoint_seconds": checkpoint_seconds})
    to_resume = {path: plan.files.pop(path) for path in list(plan.files) if path.is_relative_to(RESUME_FOLDER)}
    try:
        for path, blob in plan.files.items():
            resources.store.fetch(blob, folder / path)
        if to_resume and not _fetch_checkpoint(resources.store, to_resume, folder):
            order = order.model_copy(update={"resume_step": None})
            with transaction(resources.sessions) as session:
                begin_anew(session, claim, "The last checkpoint is not in the store; this attempt begins anew.")
        (folder / ORDER_NAME).write_text(order.model_dump_json(indent=2), encoding="utf-8")
    except (MissingBlob, Unavailable) as error:
        raise Unprepared("worker_lost", "The worker finds no stored file that this job needs.") from error
    except CorruptBlob as error:
        raise Unprepared("internal_error", "A stored file that this job needs is damaged.") from error
    except OSError as error:
        raise Unprepared("worker_lost", "The worker has no room for the job's files.") from error
    return order


def _fetch_checkpoint(store: Store, files: Mapping[PurePosixPath, StoredBlob], folder: Path) -> bool:
    """Whether the last checkpoint is there whole. Without it the job begins anew, as before its first one.

    A backup that was made while the job trained may name one that a newer one had replaced.
    """
    try:
        for path, blob in files.items():
            store.fetch(blob, folder / path)
    except CorruptBlob:
        log.warning("checkpoint_lost", exc_info=True)
        return False
    with tarfile.open(folder / _RESUME_ARCHIVE) as archive:
        archive.extractall(folder / RESUME_FOLDER / "adapter", filter="data")
    return True


def _evaluation_order(session: Session, job: Job, plan: _Plan, models: Path) -> EvaluationOrder:
    asked = session.scalars(select(Evaluation).where(Evaluation.job_id == job.id)).one()
    suites = asked.suites or []
    named = [session.get_one(AdapterVersion, suite["version_id"]) for suite in suites if suite["version_id"]]
    file_ids = [suite["file_id"] for suite in suites if "file_id" in suite]
    version, against = session.get_one(AdapterVersion, asked.version_id), asked.against_version_id
    lineage, of_against = ancestors(session, version.id), ancestors(session, against)
    skills = [one for one in lineage if one in named] + [one for one in named if one not in lineage]
    general = any(suite["name"] == GENERAL for suite in suites)
    looked_up = bool(general or skills or file_ids)  # the questions of the harness are not
    return EvaluationOrder(
        job_id=job.id,
        attempt=job.fence,
        base=_base(session, job, models),
        version=_version(session, asked.version_id, VERSION_FOLDER, plan),
        against=_version(session, against, PARENT_FOLDER, plan) if against else None,
        goes_on=against in {one.id for one in lineage},
        skills=_earlier(session, skills, plan, lineage),
        past=past_scores(session, lineage[:0:-1]),
        general=general,
        rehearsed=_rehearsed_shipped(session, lineage),
        suites=_suites(session, file_ids, plan),
        taught=_taught(session, lineage if looked_up else [], plan),
        against_taught=_taught(session, of_against if looked_up else [], plan),
        tasks=[suite["task"] for suite in suites if "task" in suite],
    )


def _rehearsed_shipped(session: Session, lineage: list[AdapterVersion]) -> bool:
    """Whether a job that made one of these versions had the prompts that ship with the project among its own."""
    configs = [session.get_one(Job, version.job_id).resolved for version in lineage]
    return any(TrainingConfig.model_validate(config).rehearses_shipped for config in configs if config)


def _order(session: Session, job: Job, plan: _Plan, models: Path) -> Order:
    kind = SupervisedHyperparameters if job.method == "supervised" else SdftHyperparameters
    asked = kind.model_validate(job.hyperparameters)
    rehearsal_file = asked.rehearsal.file if isinstance(asked, SdftHyperparameters) else None
    measured = EvaluationOptions.model_validate(job.evaluation or {})
    parent_id = job.parent_version_id
    lineage = ancestors(session, parent_id)
    checkpoint = latest_checkpoint(session, job.id)
    if checkpoint:
        plan.copy(session, blob_of(session.get_one(File, checkpoint.adapter_file_id)).sha256, _RESUME_ARCHIVE)
        plan.copy(session, str(checkpoint.state_sha256), RESUME_FOLDER / "state.safetensors")
    return Order.model_validate(
        {
            "job_id": job.id,
            "attempt": job.fence,
            "method": job.method,
            "hyperparameters": asked,
            "seed": job.seed,
            "resolved": TrainingConfig.model_validate(job.resolved) if job.resolved else None,
            "base": _base(session, job, models),
            "adapter": job.adapter_name,
            "version_name": model_id(job, session.get_one(Project, job.project_id)),
            "training_sha256": _data(session, job.training_file_id, TRAINING_NAME, plan),
            "validation_sha256": _data(session, job.validation_file_id, VALIDATION_NAME, plan),
            "parent": _version(session, parent_id, PARENT_FOLDER, plan) if parent_id else None,
            "earlier": _earlier(session, lineage, plan, lineage),
            "past": past_scores(session, lineage[::-1]),
            "scorer": measured.scorer,
            "tolerance": measured.tolerance,
            "suites": _suites(session, measured.files.values(), plan),
            "tasks": measured.tasks,
            "compare": job.compare,
            "gate": job.gate,
            "seeds": measured.seeds,
            "rehearsal": _training_files(session, lineage, plan),
            "deleted": _deleted(session, lineage),
            "rehearsed": _rehearsed_shipped(session, lineage),
            "rehearsal_file": REHEARSAL_NAME if _data(session, rehearsal_file, REHEARSAL_NAME, plan) else None,
            "resume_step": checkpoint.step if checkpoint else None,
        }
    )


def _base(session: Session, job: Job, models: Path) -> BaseModelRef:
    base = session.get_one(BaseModel, job.base_model)
    folder = models / base.path
    if not folder.is_dir():
        raise Unprepared("base_model_unavailable", f"The worker does not have the base model {base.name}.")
    return BaseModelRef(
        name=base.name,
        path=str(folder),
        source=base.source,
        revision=base.revision,
        weights_sha256=base.weights_sha256,
        tokenizer_sha256=base.tokenizer_sha256,
        chat_template_sha256=base.chat_template_sha256,
        license=base.license,
        context_tokens=base.context_tokens,
        num_parameters=base.num_parameters,
    )


def _data(session: Session, file_id: str | None, name: str, plan: _Plan) -> str | None:
    if file_id is None:
        return None
    sha256 = blob_of(session.get_one(File, file_id)).sha256
    plan.copy(session, sha256, PurePosixPath(name))
    return sha256


def _version(session: Session, version_id: str, folder: PurePosixPath, plan: _Plan) -> ParentRef:
    version = session.get_one(AdapterVersion, version_id)
    for file in session.scalars(select(AdapterFile).where(AdapterFile.version_id == version.id)):
        plan.copy(session, file.sha256, folder / file.path)
    line = session.get_one(Adapter, version.adapter_id)
    return ParentRef(adapter=line.name, version=version.version, model_id=version.model_id)


def _earlier(
    session: Session, versions: list[AdapterVersion], plan: _Plan, lineage: list[AdapterVersion]
) -> list[EarlierSkill]:
    """What each version's skill was measured on."""
    skills: list[EarlierSkill] = []
    for version in versions:
        evaluation = session.scalar(select(Evaluation).where(Evaluation.job_id == version.job_id))
        if evaluation is None or evaluation.heldout_sha256 is None:
            continue
        path = EARLIER_FOLDER / f"{len(skills)}.jsonl"
        plan.copy(session, evaluation.heldout_sha256, path)
        made_by = session.get_one(Job, version.job_id)
        asked = {
            "scorer": evaluation.scorer,
            "tolerance": (made_by.evaluation or {}).get("tolerance"),
            "max_completion_tokens": evaluation.max_completion_tokens,
            "inherited": version in lineage,
        }
        line = session.get_one(Adapter, version.adapter_id)
        skill = {"adapter": line.name, "version": version.version}
        held_out = {"path": str(path), "sha256": evaluation.heldout_sha256}
        skills.append(EarlierSkill.model_validate(skill | held_out | asked))
    return skills


def _suites(session: Session, file_ids: Iterable[str], plan: _Plan) -> list[SuiteFile]:
    """Named by what the client called the files; of two with one name the second is told by its id."""
    suites: list[SuiteFile] = []
    for file_id in file_ids:
        file, path = session.get_one(File, file_id), SUITES_FOLDER / f"{len(suites)}.jsonl"
        taken, blob = any(suite.name == _suite_name(file) for suite in suites), blob_of(file)
        suites.append(
            SuiteFile(
                name=f"{_suite_name(file)} ({file.id})" if taken else _suite_name(file),
                path=str(path),
                sha256=blob.sha256,
            )
        )
        plan.copy(session, blob.sha256, path)
    return suites


def _suite_name(file: File) -> str:
    """With a space, which no adapter's name may have: suites are told apart by name."""
    return f"file {file.filename}"


def _taught(session: Session, lineage: list[AdapterVersion], plan: _Plan) -> Taught:
    return Taught(
        versions=[version.label for version in lineage],
        files=_training_files(session, lineage, plan),
        held_out=_held_out(session, lineage, plan),
        deleted=_deleted(session, lineage),
    )


def _held_out(session: Session, lineage: list[AdapterVersion], plan: _Plan) -> list[str]:
    """What was held out when each of these versions was made."""
    paths: list[str] = []
    for version in lineage:
        sha256 = session.scalar(select(Evaluation.heldout_sha256).where(Evaluation.job_id == version.job_id))
        if sha256 is not None:
            path = HELD_OUT_FOLDER / f"{version.id}.jsonl"
            plan.copy(session, sha256, path)
            paths.append(str(path))
    return paths


def _training_files(session: Session, lineage: list[AdapterVersion], plan: _Plan) -> list[str]:
    """What each of these versions was trained on; a file that its owner has deleted is not used again."""
    paths: list[str] = []
    for version in lineage:
        file = _training_file(session, version)
        if file.deleted_at is None:
            path = REHEARSAL_FOLDER / f"{version.id}.jsonl"
            plan.copy(session, blob_of(file).sha256, path)
            paths.append(str(path))
    return paths


def _deleted(session: Session, lineage: list[AdapterVersion]) -> list[str]:
    """Those of which that is so."""
    return [version.label for version in lineage if _training_file(session, version).deleted_at is not None]


def _training_file(session: Session, version: AdapterVersion) -> File:
    return session.get_one(File, session.get_one(Job, version.job_id).training_file_id)
