"""Jobs, their events and their checkpoints, in OpenAI's shapes with our additions."""

import time
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from app.api.schemas.common import Identified, unix, unix_or_none
from app.api.schemas.job_requests import LimitsRequest
from app.db.models import Checkpoint, Job, JobEvent
from app.domain.comparison import SupervisedTwin
from app.domain.evaluation import EvaluationOptions
from app.domain.gate import Criterion, GateRule, GateVerdict
from app.domain.lifecycle import RETRYABLE
from app.services.standings import Standing


class JobErrorObject(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    param: str | None
    retryable: bool

    @classmethod
    def of(cls, job: Job) -> Self | None:
        """What went wrong, if something did."""
        if job.error_code is None:
            return None
        return cls(
            code=job.error_code,
            message=job.error_message or "",
            param=job.error_param,
            retryable=job.error_code in RETRYABLE,
        )


class ProgressObject(BaseModel):
    """How far a job is: optimizer steps, and a phase's own count where it has no steps."""

    step: int
    total_steps: int | None
    percent: float | None
    phase_done: int | None
    phase_total: int | None
    seconds_remaining: float | None
    queue_position: int | None


class JobAdapterObject(BaseModel):
    """The line that the job's version joins, and its number once it is published."""

    name: str
    version: int | None


class GateObject(GateRule):
    """What the job's version has to show, and what came of it once there is a report."""

    verdict: GateVerdict | None
    criteria: list[Criterion]


class JobObject(Identified):
    """A job. ``hyperparameters`` are as asked until a worker has given every "auto" its value.

    LoRA rank and alpha are a parent's from the start.
    """

    object: Literal["fine_tuning.job"]
    created_at: int
    finished_at: int | None
    model: str
    fine_tuned_model: str | None
    status: str
    error: JobErrorObject | None
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    training_file: str
    validation_file: str | None
    result_files: list[str]
    seed: int
    trained_tokens: int | None
    organization_id: str
    estimated_finish: int | None
    metadata: dict[str, str] | None
    integrations: list[Any]
    user_provided_suffix: str | None
    phase: str
    progress: ProgressObject
    attempt: int
    adapter: JobAdapterObject
    parent_adapter: str | None = Field(description='The version that the job starts from, as "name:3".')
    limits: LimitsRequest | None
    evaluation_id: str | None
    gate: GateObject | None
    evaluation: EvaluationOptions | None
    compare: list[SupervisedTwin] | None

    @classmethod
    def of(cls, standing: Standing) -> Self:
        """A job as clients see it."""
        job, remaining = standing.job, standing.seconds_remaining
        numbers = _numbers(job)
        return cls(
            id=job.id,
            object="fine_tuning.job",
            created_at=unix(job.created_at),
            finished_at=unix_or_none(job.finished_at),
            model=job.base_model,
            fine_tuned_model=standing.fine_tuned_model,
            status=job.status,
            error=JobErrorObject.of(job),
            hyperparameters=numbers,
            method={"type": job.method, job.method: {"hyperparameters": numbers}},
            training_file=job.training_file_id,
            validation_file=job.validation_file_id,
            result_files=[result["file_id"] for result in job.result_file_ids],
            seed=job.seed,
            trained_tokens=job.trained_tokens,
            organization_id=job.project_id,
            estimated_finish=None if remaining is None else int(time.time() + remaining),
            metadata=job.client_metadata or None,
            integrations=[],
            user_provided_suffix=job.suffix,
            phase=job.phase,
            progress=_progress(standing),
            attempt=job.fence,
            adapter=JobAdapterObject(name=job.adapter_name, version=standing.version),
            parent_adapter=standing.parent,
            limits=None if job.max_seconds is None else LimitsRequest(max_seconds=job.max_seconds),
            evaluation_id=standing.evaluation_id,
            gate=_gate(standing),
            evaluation=EvaluationOptions.model_validate(job.evaluation) if job.evaluation else None,
            compare=[SupervisedTwin.model_validate(job.compare)] if job.compare else None,
        )


class EventObject(Identified):
    """Something that happened to a job."""

    object: Literal["fine_tuning.job.event"]
    created_at: int
    level: str
    message: str
    type: str
    data: dict[str, Any]

    @classmethod
    def of(cls, event: JobEvent) -> Self:
        """An event as clients see it."""
        return cls(
            id=event.id,
            object="fine_tuning.job.event",
            created_at=unix(event.created_at),
            level=event.level,
            message=event.message,
            type=event.type,
            data=event.payload,
        )


class CheckpointObject(Identified):
    """The adapter as it was after a step; ``file_id`` is its archive."""

    object: Literal["fine_tuning.job.checkpoint"]
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, float]
    step_number: int
    file_id: str

    @classmethod
    def of(cls, checkpoint: Checkpoint, model_id: str) -> Self:
        """A checkpoint of the job that makes ``model_id``, as clients see it."""
        return cls(
            id=checkpoint.id,
            object="fine_tuning.job.checkpoint",
            created_at=unix(checkpoint.created_at),
            fine_tuned_model_checkpoint=f"{model_id}:ckpt-step-{checkpoint.step}",
            fine_tuning_job_id=checkpoint.job_id,
            metrics={"step": checkpoint.step} | checkpoint.metrics,
            step_number=checkpoint.step,
            file_id=checkpoint.adapter_file_id,
        )


def _numbers(job: Job) -> dict[str, Any]:
    """Hyperparameters under the names that clients use; once they are fixed, what the trainer really runs with.

    They can be posted again: what means nothing to the chosen kind is left out, as a request has to.
    """
    asked, resolved = job.hyperparameters, job.resolved
    if resolved is None:
        return asked
    multiplier = 1.0 if asked["learning_rate_multiplier"] == "auto" else asked["learning_rate_multiplier"]
    rate = resolved["learning_rate"] / multiplier if asked["learning_rate"] == "auto" else asked["learning_rate"]
    became = resolved | {
        "n_epochs": resolved["num_epochs"],
        "learning_rate_multiplier": multiplier,
        "learning_rate": rate,
    }
    for group in ("objective", "teacher"):
        if group in resolved:
            became[group] = {name: value for name, value in resolved[group].items() if value is not None}
    if "teacher" in became and became["teacher"]["kind"] == "hard_sync":
        del became["teacher"]["rate"]  # all the way is what the kind says
    if "rehearsal" in asked:
        became["rehearsal"] = asked["rehearsal"] | {"share": resolved["rehearsal_share"]}
    return {name: became.get(name, value) for name, value in asked.items()}


def _gate(standing: Standing) -> GateObject | None:
    if standing.job.gate is None:
        return None
    decided = standing.gate or {"verdict": None, "criteria": []}
    return GateObject.model_validate(
        standing.job.gate | {"verdict": decided["verdict"], "criteria": decided["criteria"]}
    )


def _progress(standing: Standing) -> ProgressObject:
    job = standing.job
    return ProgressObject(
        step=job.progress_step,
        total_steps=job.total_steps,
        percent=round(100 * job.progress_step / job.total_steps, 1) if job.total_steps else None,
        phase_done=job.phase_done,
        phase_total=job.phase_total,
        seconds_remaining=standing.seconds_remaining,
        queue_position=standing.queue_position,
    )
