"""What a job would take, before it is posted: counted in its files, and timed by finished jobs on the same base.

Finished jobs of every project count: how fast this deployment is belongs to nobody. Nothing is written.
"""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.orm import Session, sessionmaker

from app.db.clock import NOW
from app.db.models import Evaluation, File, Job, JobMetric
from app.db.session import transaction
from app.domain import estimates
from app.domain.estimates import Finished, Lengths, Peak, Size, Spread, Work
from app.domain.evaluation import TASK_PREFIX, EvaluationOptions, count_decoded, task_of
from app.domain.training import TrainingConfig
from app.services import configs, jobs, lineage
from app.services.base_models import TokenCounter
from app.services.jobs import Checked, JobRequest
from app.services.lengths import FileLengths, measure
from app.services.workers import count_live
from app.storage.store import Store

MAX_CALIBRATED: Final = 10
"""Newest finished jobs that are looked at: the machine that they ran on is the one that will run the next."""
_BESIDES: Final = ("replicating", "evaluation_tasks")
"""Phases that a job has only if it asks for them, and that tell nothing of another."""


@dataclass(frozen=True)
class Queue:
    """Who is before a job that would be posted now. ``wait_seconds`` is None where nothing tells it."""

    num_waiting: int
    num_workers: int
    wait_seconds: float | None


@dataclass(frozen=True)
class Estimate:
    """What a job would take.

    Args:
        base_model: To train on.
        config: Every hyperparameter as far as it is known before the run.
        num_examples: In the training file.
        num_heldout: Of them, or of the validation file, kept for the evaluation.
        prompt_tokens: Of the training part, once.
        demonstration_tokens: Of the training part, once.
        document_tokens: Of the training part, once; 0 where no teacher reads them.
        trained_tokens: With loss, over all steps.
        cut_lines: Examples whose demonstration is longer than a rollout may be, of those that were counted.
        num_counted: Examples that these are of: all, or a sample of a large file.
        not_counted: Suites whose questions are known to the worker alone; their time comes on top.
        seconds: From claim to end; None where no finished job tells it.
        peak_memory: Of the trainer; likewise.
        queue: As it stands.
        hardware: Where the jobs ran that this was calibrated on.
        calibrated_on: How many there were.
    """

    base_model: str
    config: TrainingConfig
    num_examples: int
    num_heldout: int
    prompt_tokens: int
    demonstration_tokens: int
    document_tokens: int
    trained_tokens: int
    cut_lines: list[int]
    num_counted: int
    not_counted: list[str]
    seconds: Spread | None
    peak_memory: Peak | None
    queue: Queue
    hardware: Mapping[str, Any] | None
    calibrated_on: int


def estimate(sessions: sessionmaker[Session], store: Store, project_id: str, asked: JobRequest) -> Estimate:
    """What a job would take. Files are read and counted between two short transactions.

    Raises:
        Invalid: It could not be posted either.
    """
    with transaction(sessions) as session:
        checked = jobs.check(session, store, project_id, asked)
    jobs.check_lengths(store, checked)
    counter = checked.counter
    training = measure(counter, store, checked.training)
    validation = measure(counter, store, checked.validation) if checked.validation else None
    num_heldout, num_trained = configs.parts(checked.training, checked.validation)
    config = configs.config(asked, checked, training, num_trained=num_trained)

    with transaction(sessions) as session:
        past = _Past.of(session, checked.row, config)
        queue = _queue(session)
    finished = past.finished(store, counter)
    # A demonstration that is the rollout is as long as it is; only what the student says has a length of its own.
    said = [] if config.offline_share == 1 else finished
    answer_share = _median([one.answer_share for one in said], default=1.0)
    lengths = replace(training.means, answer=min(config.max_completion_tokens, training.means.answer * answer_share))
    measured = asked.evaluation or EvaluationOptions()
    seeds = measured.seeds
    judged = measured.scorer != "nll" if measured.scorer else (validation or training).judged
    work = Work(
        seeds * estimates.count_tokens(config, lengths),
        past.answers(
            checked,
            skill=count_decoded(num_heldout, judged=judged),
            client=sum(
                count_decoded(_num_questions(file), judged=measure(counter, store, file).judged)
                for file in checked.suites
            ),
            seeds=seeds,
        ),
        seeds * _twin_tokens(checked.row, config, lengths),
    )
    trained_share = _median([one.trained_share for one in finished], default=1.0)
    return Estimate(
        base_model=checked.base.name,
        config=config,
        num_examples=training.num_examples,
        num_heldout=num_heldout,
        prompt_tokens=round(training.means.prompt * num_trained),
        demonstration_tokens=round(training.means.demonstration * num_trained),
        document_tokens=round(training.means.document * num_trained) if asked.method == "sdft" else 0,
        trained_tokens=round(estimates.count_trained(config, lengths) * trained_share),
        cut_lines=training.longer_than(config.max_completion_tokens) if asked.method == "sdft" else [],
        num_counted=len(training.lines),
        not_counted=[TASK_PREFIX + task for task in measured.tasks],
        seconds=estimates.predict(finished, work),
        peak_memory=estimates.predict_memory(finished, _size(config, training)),
        queue=queue,
        hardware=past.hardware,
        calibrated_on=len(finished),
    )


class _Suite(BaseModel):
    name: str
    role: str
    n: int
    measure: str = "share_right"
    arms: list[Any]

    @property
    def num_decoded(self) -> int:
        """Answers that one arm gave."""
        return count_decoded(self.n, judged=self.measure != "negative_nll")


class _Cost(BaseModel):
    seconds: dict[str, float]
    trained_tokens: int
    peak_memory_bytes: int | None


class _Method(BaseModel):
    answers_reused: dict[str, list[str]] = {}


class _Provenance(BaseModel):
    hardware: dict[str, Any]


class _Report(BaseModel):
    """What is read of a report here."""

    suites: list[_Suite]
    method: _Method
    cost: _Cost
    provenance: _Provenance

    @property
    def num_answers(self) -> int:
        """That were asked for, not remembered; what the harness asks has seconds of its own."""
        reused = self.method.answers_reused
        asked = [suite for suite in self.suites if task_of(suite.name) is None]
        return sum(suite.num_decoded * (len(suite.arms) - len(reused.get(suite.name, ()))) for suite in asked)

    def num_items(self, role: str) -> int:
        return sum(suite.n for suite in self.suites if suite.role == role)


@dataclass(frozen=True)
class _Run:
    """A finished job, what it trained on and with, and what it reported.

    ``answer`` is how long the student's answers were; None if untold.
    """

    job: Job
    file: File
    config: TrainingConfig
    report: _Report
    answer: float | None


@dataclass(frozen=True)
class _Past:
    """What finished jobs tell.

    Args:
        runs: Jobs of the same kind on the newest one's hardware.
        hardware: That.
        general: Items that the newest was asked of general ability.
        earlier: Held-out items that are decoded of the skills that the new job has to keep.
    """

    runs: list[_Run]
    hardware: Mapping[str, Any] | None
    general: int
    earlier: int

    @classmethod
    def of(cls, session: Session, row: Job, config: TrainingConfig) -> "_Past":
        """Read the newest jobs that did on the row's base what it will do, and went through in one attempt.

        Those that sampled as many of their rollouts tell best, for sampling takes longer than reading; where there are
        none, others do.
        """
        query = (
            select(Job, File, Evaluation.report)
            .join(File, File.id == Job.training_file_id)
            .join(Evaluation, Evaluation.job_id == Job.id)
            .where(Job.base_model == row.base_model, Job.method == row.method, Job.status == "succeeded")
            .where(Job.fence == 1, _is_of_kind(config), File.deleted_at.is_(None))
            .order_by(Job.finished_at.desc())
            .limit(MAX_CALIBRATED)
        )
        same = func.coalesce(Job.resolved["offline_share"].as_float(), 0.0) == config.offline_share
        rows = session.execute(query.where(same)).all() or session.execute(query).all()
        runs = []
        for job, file, report in rows:
            with suppress(ValidationError):  # of a version that measured less
                ran_with = TrainingConfig.model_validate(job.resolved)
                runs.append(_Run(job, file, ran_with, _Report.model_validate(report), _said(session, job)))
        earlier = _num_earlier(session, row.parent_version_id)
        if not runs:
            return cls([], None, 0, earlier)
        newest = runs[0].report
        hardware = newest.provenance.hardware
        alike = [run for run in runs if run.report.provenance.hardware == hardware]
        return cls(alike, hardware, newest.num_items("general"), earlier)

    def finished(self, store: Store, counter: TokenCounter) -> list[Finished]:
        """What each took; reads their files."""
        found = (_finished(run, measure(counter, store, run.file)) for run in self.runs)
        return [one for one in found if one]

    def answers(self, checked: Checked, *, skill: int, client: int, seeds: int) -> int:
        """Answers that a job's evaluation will ask for; ``skill`` and ``client`` are items that are decoded."""
        return estimates.count_answers(
            general=self.general,
            skill=skill,
            earlier=self.earlier,
            client=client,
            has_parent=checked.parent is not None,
            has_ceiling=checked.row.method == "sdft",
            has_twin=checked.row.compare is not None,
            seeds=seeds,
        )


def _num_questions(file: File) -> int:
    """Of a client's file: equal prompts are asked once."""
    found = file.validation or {}
    return int(found["n_examples"] - found["counts"].get("duplicate_example", 0))


def _said(session: Session, job: Job) -> float | None:
    """Tokens of the student's own answers, on average."""
    said = JobMetric.values["completion_tokens_mean"].as_float()
    return session.scalar(select(func.avg(said)).where(JobMetric.job_id == job.id))


def _is_of_kind(config: TrainingConfig) -> ColumnElement[bool]:
    """Jobs that are alike in what makes a step cost more or less than its tokens say."""
    kind = {"objective": {"kind": config.objective.kind}, "teacher": {"kind": config.teacher.kind}}
    is_anchored = Job.resolved["anchor_weight"].as_float() > 0
    return and_(Job.resolved.contains(kind), is_anchored if config.anchor_weight > 0 else ~is_anchored)


def _size(config: TrainingConfig, counted: FileLengths) -> Size:
    return estimates.size_of(config, longest=counted.longest, means=counted.means, num_examples=counted.num_examples)


def _finished(run: _Run, counted: FileLengths) -> Finished | None:
    """What one job took; None if its report lacks a part."""
    job, config, report = run.job, run.config, run.report
    seconds, means = report.cost.seconds, counted.means
    if job.started_at is None or job.finished_at is None or not {"training", "evaluation_answers"} <= seconds.keys():
        return None
    answer = run.answer or means.answer
    lengths = replace(means, answer=answer)
    total = (job.finished_at - job.started_at).total_seconds()
    told = seconds["training"], seconds["evaluation_answers"], seconds.get("comparing", 0.0)
    return Finished(
        work=Work(
            estimates.count_tokens(config, lengths), max(1, report.num_answers), _twin_tokens(job, config, lengths)
        ),
        size=_size(config, counted),
        seconds_training=told[0],
        seconds_answering=told[1],
        seconds_comparing=told[2],
        seconds_other=max(0.0, total - sum(told) - sum(seconds.get(phase, 0.0) for phase in _BESIDES)),
        peak_memory_bytes=report.cost.peak_memory_bytes,
        answer_share=answer / means.answer,
        trained_share=report.cost.trained_tokens / max(1.0, estimates.count_trained(config, lengths)),
    )


def _twin_tokens(job: Job, config: TrainingConfig, lengths: Lengths) -> float:
    """Of the supervised twin that a job asks for: as many steps of as many examples, nothing sampled or rehearsed."""
    if job.compare is None:
        return 0.0
    return estimates.count_tokens(config.model_copy(update={"method": "supervised"}), lengths)


def _num_earlier(session: Session, parent_version_id: str | None) -> int:
    """Held-out items that are decoded of all skills that a job has to keep."""
    made_by = [version.job_id for version in lineage.ancestors(session, parent_version_id)]
    reports = session.scalars(select(Evaluation.report).where(Evaluation.job_id.in_(made_by)))
    skills = [suite for report in reports if report for suite in report["suites"] if suite["role"] == "skill"]
    return sum(count_decoded(suite["n"], judged=suite.get("measure") != "negative_nll") for suite in skills)


def _queue(session: Session) -> Queue:
    """How long a job posted now would wait, if each one before it takes as long as its kind usually does."""
    num_workers = count_live(session)
    waiting = session.scalars(select(Job.kind).where(Job.status == "queued")).all()
    passed = func.extract("epoch", NOW - Job.started_at)
    running = session.execute(select(Job.kind, passed).where(Job.status == "running")).all()
    if num_workers > len(waiting) + len(running):
        return Queue(len(waiting), num_workers, 0.0)
    usual = {kind: _usual_seconds(session, kind) for kind in {*waiting, *(kind for kind, _ in running)}}
    if not num_workers or not all(usual.values()):
        return Queue(len(waiting), num_workers, None)
    left = sum(max(0.0, usual[kind] - float(seconds or 0)) for kind, seconds in running)
    return Queue(len(waiting), num_workers, (left + sum(usual[kind] for kind in waiting)) / num_workers)


def _usual_seconds(session: Session, kind: str) -> float:
    """What the newest jobs of a kind took; 0 if there is none."""
    took = func.extract("epoch", Job.finished_at - Job.started_at)
    succeeded = select(took).where(Job.kind == kind, Job.status == "succeeded", Job.started_at.is_not(None))
    newest = succeeded.order_by(Job.finished_at.desc()).limit(MAX_CALIBRATED)
    return _median([float(seconds) for seconds in session.scalars(newest)], default=0.0)


def _median(values: Sequence[float], *, default: float) -> float:
    return statistics.median(values) if values else default
