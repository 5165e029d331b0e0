"""What an adapter was taught, and what each version still knows of it."""

from typing import Literal, Self

from pydantic import BaseModel, Field

from app.api.schemas.common import unix
from app.db.models import Adapter, AdapterVersion
from app.services.lineage import Cell, Lineage, SkillSuite


class LineageVersionObject(BaseModel):
    """A version of the line, or of another one that it goes back to."""

    adapter: str
    version: int
    model: str
    parent: str | None = Field(description='What it started from, like "name:3"; null for the base.')
    job_id: str
    evaluation_id: str | None
    created_at: int
    deleted: bool


class SkillSuiteObject(BaseModel):
    """The questions held out of what a version was taught."""

    adapter: str
    version: int
    measure: str = Field(description="share_right, or negative_nll in nats per token.")
    n: int


class CellObject(BaseModel):
    """A score with its 95 % interval, and the evaluation that has it."""

    score: float
    low: float
    high: float
    evaluation_id: str

    @classmethod
    def of(cls, cell: Cell | None) -> Self | None:
        """A cell, if it was measured."""
        return None if cell is None else cls(**vars(cell))


class FiguresObject(BaseModel):
    """Continual-learning figures; null where a score that they need was not measured."""

    of: str | None = Field(description="The line's latest version, which they judge together with its ancestors.")
    measure: str | None = Field(
        description="share_right, over the skills whose answers are right or wrong, where there are any; else "
        "negative_nll, over those of free text; null, and so is all else, where there is none of either."
    )
    average_accuracy: float | None = Field(description="Mean score over these skills.")
    backward_transfer: float | None = Field(description="Earlier skills: score now less score when taught.")
    forgetting: float | None = Field(description="Earlier skills: best earlier score less score now.")
    forward_transfer: float | None = Field(description="Later skills: score just before teaching less the base's.")


class LineageObject(BaseModel):
    """``scores[i][j]``: score on the questions of ``suites[j]`` after ``versions[i]``; null if not measured."""

    object: Literal["adapter.lineage"]
    adapter: str
    base_model: str
    versions: list[LineageVersionObject]
    suites: list[SkillSuiteObject]
    base: list[CellObject | None]
    scores: list[list[CellObject | None]]
    figures: FiguresObject

    @classmethod
    def of(cls, adapter: Adapter, lineage: Lineage) -> Self:
        """A lineage as clients see it."""
        labels = {version.id: version.label for version in lineage.versions}
        return cls(
            object="adapter.lineage",
            adapter=adapter.name,
            base_model=adapter.base_model,
            versions=[_version(version, lineage, labels) for version in lineage.versions],
            suites=[_suite(suite) for suite in lineage.suites],
            base=[CellObject.of(cell) for cell in lineage.base],
            scores=[[CellObject.of(cell) for cell in row] for row in lineage.scores],
            figures=FiguresObject(
                of=lineage.judged.label if lineage.judged else None,
                measure=lineage.measure,
                **vars(lineage.figures),
            ),
        )


def _version(version: AdapterVersion, lineage: Lineage, labels: dict[str, str]) -> LineageVersionObject:
    return LineageVersionObject(
        adapter=version.adapter.name,
        version=version.version,
        model=version.model_id,
        parent=labels[version.parent_version_id] if version.parent_version_id else None,
        job_id=version.job_id,
        evaluation_id=lineage.evaluation_ids.get(version.id),
        created_at=unix(version.created_at),
        deleted=version.deleted_at is not None,
    )


def _suite(suite: SkillSuite) -> SkillSuiteObject:
    version = suite.version
    return SkillSuiteObject(adapter=version.adapter.name, version=version.version, measure=suite.measure, n=suite.n)
