"""What versions scored: as their own jobs wrote it down, or asked for later by itself and queued like a job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from app.db.models import AdapterVersion, BaseModel, Blob, Evaluation, File, Job
from app.db.session import after_commit
from app.dispatch import Broker
from app.domain.errors import Conflict, Invalid, NotFound
from app.domain.evaluation import TASK_PREFIX, task_of
from app.domain.ids import is_id, new_id
from app.domain.lifecycle import without_report
from app.services import adapters, base_models, files, lineage, runs
from app.services.pages import Page, PageRequest, page
from app.storage.store import Store, StoredBlob

GENERAL: Final = "general"
LINEAGE: Final = "lineage"
BASE: Final = "base"


@dataclass(frozen=True)
class EvaluationRequest:
    """What a client asks for.

    Args:
        version: The version to judge, by any of its names.
        against: Another one to compare it with, or ``base``; its own starting point if not given.
        suites: ``general``, ``lineage``, versions whose held-out questions are to be asked, files of questions, or
            tasks of lm-evaluation-harness.
    """

    version: str
    against: str | None
    suites: Sequence[str]


@dataclass(frozen=True)
class Evaluated:
    """An evaluation with the version that it is of, the one beside it, and the job that makes it."""

    evaluation: Evaluation
    version: AdapterVersion
    against: AdapterVersion | None
    job: Job

    @property
    def by_itself(self) -> bool:
        """Whether it was asked for by itself."""
        return self.job.kind == "evaluation"


def create(session: Session, broker: Broker, project_id: str, asked: EvaluationRequest) -> Evaluated:
    """Queue an evaluation. A worker hears of it once the transaction has committed.

    Raises:
        Invalid: It names what is not there, or there is nothing to ask.
    """
    version = _named(session, project_id, asked.version, param="version")
    against = _against(session, project_id, version, asked.against)
    suites = _suites(session, project_id, version, asked.suites)
    job = Job(
        id=new_id("ftjob"),
        project_id=project_id,
        kind="evaluation",
        base_model=version.adapter.base_model,
        hyperparameters={},
        seed=0,
        adapter_name=version.adapter.name,
        status="queued",
        phase="waiting",
    )
    session.add(job)
    session.flush()
    evaluation = Evaluation(
        id=new_id("eval"),
        project_id=project_id,
        job_id=job.id,
        version_id=version.id,
        against_version_id=against.id if against else None,
        suites=[{"name": name, **what} for name, what in suites.items()],
    )
    session.add(evaluation)
    session.flush()
    session.refresh(job)
    session.refresh(evaluation)
    runs.note(session, job, f"Evaluation created: {version.label} on {', '.join(suites)}.")
    after_commit(session, lambda: broker.ring(job.id))
    return Evaluated(evaluation, version, against, job)


def list_evaluations(session: Session, project_id: str, request: PageRequest) -> Page[Evaluated]:
    """The project's evaluations."""
    scope = select(Evaluation).where(Evaluation.project_id == project_id)
    found = page(session, scope, request, key=(Evaluation.created_at, Evaluation.id))
    return Page(_evaluated(session, found.rows), found.has_more)


def get(session: Session, project_id: str, evaluation_id: str) -> Evaluated:
    """One evaluation of the project.

    Raises:
        NotFound: There is none.
    """
    row = session.get(Evaluation, evaluation_id) if is_id("eval", evaluation_id) else None
    if row is None or row.project_id != project_id:
        raise NotFound("evaluation_not_found", "There is no evaluation with this id in your project.")
    return _evaluated(session, [row])[0]


def cancel(session: Session, project_id: str, evaluation_id: str) -> Evaluated:
    """End an evaluation that was asked for by itself, or ask its worker to. Twice is once.

    Raises:
        NotFound: There is none.
        Conflict: It has ended otherwise.
    """
    found = get(session, project_id, evaluation_id)
    runs.request_cancel(session, found.job, what="evaluation")
    return found


def html(session: Session, store: Store, evaluated: Evaluated) -> bytes:
    """The same report as a page for people.

    Raises:
        Conflict: There is no report yet, or there will be none.
    """
    if evaluated.evaluation.html_sha256 is None:
        job = evaluated.job
        stands = without_report(job.status, job.phase, job.error_code, job.error_message)
        raise Conflict("report_not_ready", f"This evaluation {stands}")
    blob = session.get_one(Blob, evaluated.evaluation.html_sha256)
    return store.read_bytes(StoredBlob(blob.sha256, blob.num_bytes))


def examples(evaluated: Evaluated) -> list[tuple[str, dict[str, Any]]]:
    """Answers that changed, each with its suite, as the report has them; none before there is one."""
    report = evaluated.evaluation.report or {"suites": []}
    return [(suite["name"], found) for suite in report["suites"] for found in suite.get("flips", ())]


def _named(session: Session, project_id: str, reference: str, *, param: str) -> AdapterVersion:
    found = adapters.resolve(session, project_id, reference)
    if found is None:
        message = (
            f"There is no version {reference} in your project; name one like "
            '"my-adapter:3", "my-adapter@production" or by its ft: model id.'
        )
        raise Invalid("version_not_found", message, param=param)
    return found.version


def _against(
    session: Session, project_id: str, version: AdapterVersion, reference: str | None
) -> AdapterVersion | None:
    """The version beside it; None where the base is enough."""
    if reference == BASE:
        return None
    if reference is None:
        return next(iter(lineage.ancestors(session, version.parent_version_id)), None)
    against = _named(session, project_id, reference, param="against")
    if against.adapter.base_model != version.adapter.base_model:
        message = f"{against.label} lies over {against.adapter.base_model}; name a version over the same base."
        raise Invalid("against_over_another_base", message, param="against")
    if against.id == version.id:
        message = "A version cannot be compared with itself; name another one, or base."
        raise Invalid("invalid_value", message, param="against")
    return against


def _suites(
    session: Session, project_id: str, version: AdapterVersion, asked: Sequence[str]
) -> Mapping[str, Mapping[str, str | None]]:
    """Each suite once, with the version whose held-out questions it is, or the file or the task that has them."""
    chosen: dict[str, Mapping[str, str | None]] = {}
    for index, name in enumerate(asked):
        param = f"suites[{index}]"
        if name == GENERAL:
            chosen[GENERAL] = {"version_id": None}
        elif name == LINEAGE:
            members = lineage.ancestors(session, version.id)
            asked_of = _having_questions(session, members)
            chosen |= {member.label: {"version_id": member.id} for member in members if member.id in asked_of}
        elif task := task_of(name):
            chosen[name] = {"version_id": None, "task": task}
        elif is_id("file", name):
            file = files.for_job(session, project_id, name, purpose=files.SUITE_PURPOSE, param=param)
            base_models.check_roles(session.get_one(BaseModel, version.adapter.base_model), file, param=param)
            chosen[name] = {"version_id": None, "file_id": file.id}
        else:
            member = _suite_of(session, project_id, name, param=param)
            if member.adapter.base_model != version.adapter.base_model:
                made_by = session.get_one(Job, member.job_id)
                file = session.get_one(File, made_by.validation_file_id or made_by.training_file_id)
                base_models.check_roles(session.get_one(BaseModel, version.adapter.base_model), file, param=param)
            chosen[member.label] = {"version_id": member.id}
    if not chosen:
        message = "Nothing was held out of what this version and its ancestors were taught; ask the suite general too."
        raise Invalid("nothing_to_ask", message, param="suites")
    return chosen


def _suite_of(session: Session, project_id: str, name: str, *, param: str) -> AdapterVersion:
    found = adapters.resolve(session, project_id, name)
    if found is None:
        message = (
            f'There is no suite {name}; name "general", "lineage", a version, like "my-adapter:3", the id of a file '
            f"that was uploaded with purpose {files.SUITE_PURPOSE}, or a task, like {TASK_PREFIX}arc_easy."
        )
        raise Invalid("suite_not_found", message, param=param)
    if not _having_questions(session, [found.version]):
        message = f"Nothing was held out of what {name} was taught, so there is nothing to ask; name another suite."
        raise Invalid("nothing_to_ask", message, param=param)
    return found.version


def _having_questions(session: Session, versions: Sequence[AdapterVersion]) -> set[str]:
    """Ids of those of which something was held out when they were made."""
    made_by = {version.job_id: version.id for version in versions}
    query = select(Evaluation.job_id).where(Evaluation.job_id.in_(made_by), Evaluation.heldout_sha256.is_not(None))
    return {made_by[job_id] for job_id in session.scalars(query)}


def _evaluated(session: Session, rows: Sequence[Evaluation]) -> list[Evaluated]:
    """What belongs to evaluations, in as many queries for a page as for one."""
    named = {version_id for row in rows for version_id in (row.version_id, row.against_version_id)}
    query = select(AdapterVersion).where(AdapterVersion.id.in_(named)).options(joinedload(AdapterVersion.adapter))
    versions = {version.id: version for version in session.scalars(query)}
    jobs = {job.id: job for job in session.scalars(select(Job).where(Job.id.in_([row.job_id for row in rows])))}
    return [
        Evaluated(
            row,
            versions[row.version_id],
            versions[row.against_version_id] if row.against_version_id else None,
            jobs[row.job_id],
        )
        for row in rows
    ]
