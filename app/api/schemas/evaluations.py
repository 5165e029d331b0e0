"""What versions scored, and requests to ask them more."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field

from app.api.schemas.common import Identified, Strict, unix, unix_or_none
from app.api.schemas.jobs import JobErrorObject
from app.domain.evaluation import MAX_SUITES, task_of
from app.domain.gate import GateDecision
from app.domain.ids import is_id
from app.services.evaluations import Evaluated, EvaluationRequest


def _once(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        msg = "a suite is named twice; name each once."
        raise ValueError(msg)
    return names


def _few(names: list[str]) -> list[str]:
    """As many files and tasks as a job may name."""
    if sum(is_id("file", name) or task_of(name) is not None for name in names) > MAX_SUITES:
        msg = f"more than {MAX_SUITES} files and tasks are named; ask the others in another evaluation."
        raise ValueError(msg)
    return names


Flip = Literal["lost", "gained"]
SuiteName = Annotated[str, Field(min_length=1, max_length=400)]


class CreateEvaluation(Strict):
    """A version to ask, what to ask it, and whom to compare it with besides the base."""

    version: str = Field(min_length=1, max_length=400, description='"name:3", "name@alias" or an ft: model id.')
    against: str | None = Field(
        None, min_length=1, max_length=400, description='Another version, or "base"; what it started from if left out.'
    )
    suites: Annotated[list[SuiteName], AfterValidator(_once), AfterValidator(_few)] = Field(
        ["lineage", "general"],
        min_length=1,
        max_length=50,
        description='"lineage": what was held out of its own skill and of those before it; "general"; a version: '
        "what was held out of its skill; the id of a file of purpose evals: its questions; or a task of "
        "lm-evaluation-harness as lm_eval:NAME, where the worker has it and its data.",
    )

    def understood(self) -> EvaluationRequest:
        """The request for the service."""
        return EvaluationRequest(version=self.version, against=self.against, suites=self.suites)


class EvaluationProgressObject(BaseModel):
    """How many questions of how many are done."""

    done: int | None
    total: int | None


class EvaluationSummary(Identified):
    """That a version is or was evaluated, and how."""

    object: Literal["evaluation"]
    created_at: int
    finished_at: int | None
    status: str
    phase: str
    progress: EvaluationProgressObject
    error: JobErrorObject | None
    job_id: str | None = Field(description="The job that made it with its version; null if asked for by itself.")
    adapter: str
    version: int
    against: str | None
    suites: list[str] | None = Field(description="As asked for; null of what a job made with its version.")
    scorer: str | None

    @classmethod
    def of(cls, evaluated: Evaluated) -> Self:
        """An evaluation as clients see it."""
        row, job = evaluated.evaluation, evaluated.job
        return cls(
            id=row.id,
            object="evaluation",
            created_at=unix(row.created_at),
            finished_at=unix_or_none(job.finished_at),
            status=job.status,
            phase=job.phase,
            progress=EvaluationProgressObject(done=job.phase_done, total=job.phase_total),
            error=JobErrorObject.of(job),
            job_id=None if evaluated.by_itself else row.job_id,
            adapter=evaluated.version.adapter.name,
            version=evaluated.version.version,
            against=evaluated.against.label if evaluated.against else None,
            suites=None if row.suites is None else [suite["name"] for suite in row.suites],
            scorer=row.scorer,
        )


class EvaluationObject(EvaluationSummary):
    """A version next to its base and another version; ``report`` is what was measured, once it was."""

    report: dict[str, Any] | None
    gate: GateDecision | None

    @classmethod
    def having_report(cls, evaluated: Evaluated) -> Self:
        """An evaluation with all that was measured."""
        row = evaluated.evaluation
        summary = EvaluationSummary.of(evaluated).model_dump()
        return cls.model_validate(summary | {"report": row.report, "gate": row.gate})


class ExampleObject(Identified):
    """A question whose answer was gained or lost.

    Attributes:
        id: The suite and the item in it.
        against: Those before the version of which that holds: base, parent or both.
        answers: What each arm said.
    """

    object: Literal["evaluation.example"]
    suite: str
    kind: str
    flip: Flip
    against: list[str]
    prompt: str
    expected: list[str]
    answers: dict[str, str]

    @classmethod
    def of(cls, suite: str, found: Mapping[str, Any]) -> Self:
        """As a report has it."""
        told = {name: found[name] for name in ("kind", "against", "prompt", "expected", "answers")}
        return cls(
            id=f"{suite}/{found['item']}", object="evaluation.example", suite=suite, flip=found["change"], **told
        )
