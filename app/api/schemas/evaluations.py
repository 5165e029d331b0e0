"""What a version scored."""

from typing import Any, Literal, Self

from app.api.schemas.common import Identified, unix
from app.domain.gate import GateDecision
from app.services.evaluations import Evaluated


class EvaluationSummary(Identified):
    """That a version was evaluated, and how."""

    object: Literal["evaluation"]
    created_at: int
    job_id: str
    adapter: str
    version: int
    scorer: str

    @classmethod
    def of(cls, evaluated: Evaluated) -> Self:
        """An evaluation as clients see it."""
        row = evaluated.evaluation
        return cls(
            id=row.id,
            object="evaluation",
            created_at=unix(row.created_at),
            job_id=row.job_id,
            adapter=evaluated.adapter_name,
            version=evaluated.version,
            scorer=row.scorer,
        )


class EvaluationObject(EvaluationSummary):
    """A version next to its base and its parent; ``report`` is what the job measured."""

    report: dict[str, Any]
    gate: GateDecision | None

    @classmethod
    def having_report(cls, evaluated: Evaluated) -> Self:
        """An evaluation with all that was measured."""
        summary = EvaluationSummary.of(evaluated).model_dump()
        return cls.model_validate(summary | {"report": evaluated.evaluation.report, "gate": evaluated.evaluation.gate})
