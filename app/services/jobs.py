"""Jobs as clients post and read them. What happens to a posted job is in ``app.services.runs``."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import (
    Adapter,
    AdapterVersion,
    BaseModel,
    Checkpoint,
    File,
    Job,
    JobEvent,
    Project,
)
from app.db.session import after_commit
from app.dispatch import Broker
from app.domain.comparison import SupervisedTwin
from app.domain.errors import Invalid, NotFound
from app.domain.evaluation import EvaluationOptions, unmeasured
from app.domain.gate import GateRule
from app.domain.ids import is_id, new_id, short
from app.domain.lifecycle import TERMINAL
from app.domain.training import (
    MAX_SEED,
    MIN_TO_SPLIT,
    Hyperparameters,
    Method,
    SdftHyperparameters,
    SupervisedHyperparameters,
    count_heldout,
)
from app.services import adapters, base_models, files, lengths, publishing, runs
from app.services.base_models import TokenCounter
from app.services.pages import Page, PageRequest, page
from app.storage.store import Store

ALWAYS_ASKED: Final = ("general", "lineage")
"""Suites that an evaluation asked for by itself has to name."""


@dataclass(frozen=True)
class JobRequest:
    """What a client asks for, checked as far as that needs no database.

    ``hyperparameters_at`` is the field that they came in, for errors that name one of them.
    """

    model: str
    training_file: str
    method: Method
    hyperparameters: Hyperparameters
    hyperparameters_at: str
    method_is_default: bool = False
    validation_file: str | None = None
    seed: int | None = None
    suffix: str | None = None
    parent_adapter: str | None = None
    max_seconds: int | None = None
    gate: GateRule | None = None
    evaluation: EvaluationOptions | None = None
    compare: SupervisedTwin | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Examples:
    """A file that a job reads, the field that names it, and what each of its examples has to leave room for."""

    file: File
    param: str
    hyperparameters: Hyperparameters


@dataclass(frozen=True)
class Checked:
    """A request that can be queued: the row that it would become, and what it names.

    ``hyperparameters`` are as asked, but for what the parent has decided.
    """

    row: Job
    hyperparameters: Hyperparameters
    base: BaseModel
    counter: TokenCounter
    examples: list[Examples]
    suites: list[File]
    parent: AdapterVersion | None

    @property
    def training(self) -> File:
        """The training file."""
        return self.examples[0].file

    @property
    def validation(self) -> File | None:
        """The validation file, if the request names one."""
        return next((one.file for one in self.examples if one.param == "validation_file"), None)


def check(session: Session, store: Store, project_id: str, asked: JobRequest) -> Checked:
    """Whether a job can be queued, as far as rows tell: ``check_lengths`` reads its files. Writes nothing.

    Raises:
        Invalid: It names what is not there, or what does not go together.
    """
    base = base_models.required(session, asked.model)
    examples = _examples(session, project_id, base, asked)
    suites = _suites(session, project_id, base, asked)
    parent = _parent(session, project_id, base, asked.parent_adapter)
    hyperparameters = _going_on(session, asked, parent)
    row = _row(project_id, base, asked, hyperparameters, parent)
    _check_line(session, project_id, row.adapter_name, base)
    counter = base_models.counter(session, store, base)
    return Checked(row, hyperparameters, base, counter, examples, suites, parent)


def check_lengths(store: Store, checked: Checked) -> None:
    """Whether every example fits the base and can be scored as asked. May take minutes, so hold no session meanwhile.

    Files never change, so what holds now holds when the job is queued, if its files are still there.

    Raises:
        Invalid: Some do not; ``errors`` has their lines.
    """
    if scorer := (checked.row.evaluation or {}).get("scorer"):
        lengths.check_scorer(store, checked.validation or checked.training, scorer)
    base = checked.base
    for one in checked.examples:
        if lengths.may_not_fit(base, one.file, one.hyperparameters):
            lengths.check_fit(checked.counter, store, base, one.file, one.hyperparameters, param=one.param)


def create(session: Session, store: Store, broker: Broker, project_id: str, asked: JobRequest) -> Job:
    """Queue a job whose lengths were checked. A worker hears of it once the transaction has committed.

    Raises:
        Invalid: As ``check``, e.g. if a file was deleted since.
    """
    checked = check(session, store, project_id, asked)
    job = checked.row
    session.add(job)
    session.flush()
    session.refresh(job)
    runs.note(session, job, _created(asked, checked.training, job, checked.parent), payload={"method": asked.method})
    if doubt := _doubt(asked, checked):
        runs.note(session, job, doubt, level="warn")
    after_commit(session, lambda: broker.ring(job.id))
    return job


def get(session: Session, project_id: str, job_id: str) -> Job:
    """A job of the project.

    Raises:
        NotFound: There is none.
    """
    job = session.get(Job, job_id) if is_id("ftjob", job_id) else None
    if job is None or job.project_id != project_id or job.kind != "training":
        raise NotFound("job_not_found", "There is no job with this id in your project; list the jobs to see them.")
    return job


def list_jobs(
    session: Session, project_id: str, request: PageRequest, *, metadata: Mapping[str, str] | None
) -> Page[Job]:
    """The project's jobs.

    Args:
        session: To read with.
        project_id: Whose.
        request: Which page.
        metadata: Pairs that a job must have; null for jobs without any.
    """
    pairs = Job.client_metadata
    shown = pairs == {} if metadata is None else pairs.contains(dict(metadata))
    return page(
        session,
        select(Job).where(Job.project_id == project_id, Job.kind == "training"),
        request,
        key=(Job.created_at, Job.id),
        shown=shown,
    )


def cancel(session: Session, project_id: str, job_id: str) -> Job:
    """End a job, or ask its worker to. Twice is once.

    Raises:
        NotFound: There is none.
        Conflict: It has ended otherwise.
    """
    job = get(session, project_id, job_id)
    runs.request_cancel(session, job)
    return job


def list_events(session: Session, job: Job, request: PageRequest) -> Page[JobEvent]:
    """What happened to a job."""
    return page(session, select(JobEvent).where(JobEvent.job_id == job.id), request, key=(JobEvent.seq,))


def list_checkpoints(session: Session, job: Job, request: PageRequest) -> Page[Checkpoint]:
    """The states that a job has left on its way."""
    scope = select(Checkpoint).where(Checkpoint.job_id == job.id)
    return page(session, scope, request, key=(Checkpoint.created_at, Checkpoint.id))


def model_id(session: Session, job: Job) -> str:
    """What the version that a job makes is or will be called."""
    return publishing.model_id(job, session.get_one(Project, job.project_id))


def _row(
    project_id: str,
    base: BaseModel,
    asked: JobRequest,
    hyperparameters: Hyperparameters,
    parent: AdapterVersion | None,
) -> Job:
    job_id = new_id("ftjob")
    return Job(
        id=job_id,
        project_id=project_id,
        base_model=base.name,
        training_file_id=asked.training_file,
        validation_file_id=asked.validation_file,
        method=asked.method,
        hyperparameters=hyperparameters.model_dump(mode="json"),
        seed=secrets.randbelow(MAX_SEED + 1) if asked.seed is None else asked.seed,
        adapter_name=asked.suffix or (parent.adapter.name if parent else f"adapter-{short(job_id)}"),
        suffix=asked.suffix,
        parent_version_id=parent.id if parent else None,
        client_metadata=dict(asked.metadata),
        max_seconds=asked.max_seconds,
        gate=asked.gate.model_dump(mode="json") if asked.gate else None,
        evaluation=asked.evaluation.model_dump(mode="json") if asked.evaluation else None,
        compare=asked.compare.fixed(num_parameters=base.num_parameters).model_dump() if asked.compare else None,
        status="queued",
        phase="waiting",
    )


def _examples(session: Session, project_id: str, base: BaseModel, asked: JobRequest) -> list[Examples]:
    """The files of examples that a request names, the training file first; nobody deletes them meanwhile."""
    named = [("training_file", asked.training_file, asked.hyperparameters)]
    if asked.validation_file:
        named.append(("validation_file", asked.validation_file, asked.hyperparameters))
    sdft = asked.hyperparameters
    if isinstance(sdft, SdftHyperparameters) and sdft.rehearsal.file:
        # Nobody is shown the answers of the client's own prompts, so that each must fit as for plain training.
        param = f"{asked.hyperparameters_at}.rehearsal.file"
        named.append((param, sdft.rehearsal.file, SupervisedHyperparameters()))
    found: list[Examples] = []
    for param, file_id, hyperparameters in named:
        file = files.for_job(session, project_id, file_id, purpose=files.TRAINING_PURPOSE, param=param)
        base_models.check_roles(base, file, param=param)
        if param == "validation_file" and file.sha256 == found[0].file.sha256:
            message = (
                "The validation file is the training file, and what is trained on measures nothing; leave it out, and "
                "a tenth of the training file is held out, or name a file of other prompts."
            )
            raise Invalid("invalid_value", message, param=param)
        found.append(Examples(file, param, hyperparameters))
    return found


def _suites(session: Session, project_id: str, base: BaseModel, asked: JobRequest) -> list[File]:
    """The files of questions that a request names; nobody deletes them meanwhile."""
    found = []
    for index, file_id in asked.evaluation.files.items() if asked.evaluation else ():
        param = f"evaluation.suites[{index}]"
        if file_id in ALWAYS_ASKED:
            message = f"Every job is asked {' and '.join(ALWAYS_ASKED)}; leave it out, and name files by id."
            raise Invalid("invalid_value", message, param=param)
        file = files.for_job(session, project_id, file_id, purpose=files.SUITE_PURPOSE, param=param)
        base_models.check_roles(base, file, param=param)
        found.append(file)
    return found


def _parent(session: Session, project_id: str, base: BaseModel, reference: str | None) -> AdapterVersion | None:
    if reference is None:
        return None
    found = adapters.resolve(session, project_id, reference)
    if found:  # from here on nobody deletes it until the job is there
        session.refresh(found.version, ["deleted_at"], with_for_update={"read": True})
    if found is None or found.version.deleted_at:
        message = (
            'There is no such version in your project; name it like "my-adapter:3", "my-adapter@production" or by its '
            "ft: model id."
        )
        raise Invalid("parent_not_found", message, param="parent_adapter")
    if found.version.adapter.base_model != base.name:
        message = f"This version was trained over {found.version.adapter.base_model}; set model to that."
        raise Invalid("parent_over_another_base", message, param="parent_adapter")
    return found.version


def _going_on(session: Session, asked: JobRequest, parent: AdapterVersion | None) -> Hyperparameters:
    """What is asked for, with the rank and the alpha of a parent's LoRA matrices: the same ones are trained on.

    Raises:
        Invalid: Another number is asked for.
    """
    resolved = parent and session.get_one(Job, parent.job_id).resolved
    if not parent or not resolved:
        return asked.hyperparameters
    decided = {name: resolved[name] for name in ("lora_rank", "lora_alpha")}
    for name, value in decided.items():
        if getattr(asked.hyperparameters, name) not in {"auto", value}:
            message = (
                f"{parent.label} has {name} {value}, and a job that starts from it trains the "
                f"same matrices on; remove {name} or set it to {value}."
            )
            raise Invalid("invalid_value", message, param=f"{asked.hyperparameters_at}.{name}")
    return asked.hyperparameters.model_copy(update=decided)


def _check_line(session: Session, project_id: str, name: str, base: BaseModel) -> None:
    """An adapter's versions all lie over one base: those that are there, and the first of those under way."""
    query = select(Adapter.base_model).where(Adapter.project_id == project_id, Adapter.name == name)
    line_base = session.scalar(query)
    if line_base not in {None, base.name}:
        message = f"The adapter {name} lies over {line_base}; choose another suffix, or {line_base} as model."
        raise Invalid("adapter_over_another_base", message, param="suffix")
    others = (Job.kind == "training", Job.status.not_in(TERMINAL), Job.base_model != base.name)
    mine = select(Job).where(Job.project_id == project_id, Job.adapter_name == name, *others)
    if line_base is None and (other := session.scalar(mine.limit(1))):
        message = (
            f"The job {other.id} is making {name} over {other.base_model}; choose another suffix, or "
            f"{other.base_model} as model."
        )
        raise Invalid("adapter_over_another_base", message, param="suffix")


def _doubt(asked: JobRequest, checked: Checked) -> str:
    """What to say if nothing of the training file will be held out; of a validation file the worker knows."""
    found: dict[str, Any] = checked.training.validation or {}
    num_prompts = found["stats"].get("prompts", found["n_examples"])
    if checked.validation or count_heldout(num_prompts, of_validation=False):
        return ""
    return (
        f"Nothing of {num_prompts} different prompts is held out. {unmeasured(has_gate=asked.gate is not None)} It "
        f"takes {MIN_TO_SPLIT} different prompts, or a validation file."
    )


def _created(asked: JobRequest, training: File, job: Job, parent: AdapterVersion | None) -> str:
    """The first event: what was understood."""
    chosen = " (the default, as the request named none)" if asked.method_is_default else ""
    start = f" from {parent.label}" if parent else ""
    examples = (training.validation or {})["n_examples"]
    return f"Job created: method {asked.method}{chosen}, {examples} examples, adapter {job.adapter_name}{start}."
