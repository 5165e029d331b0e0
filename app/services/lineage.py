"""What an adapter was taught, version by version, and what each version still knows of it.

Read from stored reports alone: a version's own report has it on its skill and on those before it, and its starting
point on the same questions; evaluations asked for later fill what is missing. What no report has is null.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session, joinedload

from app.db.models import Adapter, AdapterVersion, Evaluation
from app.domain.lineage import Figures, compute_figures
from app.domain.trainer_protocol import PastScore

COUNTED: Final = "share_right"


@dataclass(frozen=True)
class Cell:
    """A score with its 95 % interval, and the evaluation that has it."""

    score: float
    low: float
    high: float
    evaluation_id: str


@dataclass(frozen=True)
class SkillSuite:
    """The held-out questions of the skill that a version was taught."""

    version: AdapterVersion
    measure: str
    n: int


@dataclass(frozen=True)
class Lineage:
    """The versions of a line and all that they go back to, oldest first.

    Args:
        versions: Rows of ``scores``; also of other lines, and deleted ones, as their scores remain.
        suites: Columns of ``scores``.
        base: What the base scored, by column.
        scores: By row and column.
        evaluation_ids: By version's id, of the report that its own job made.
        judged: The line's latest version, which the figures are of; none if all are deleted.
        measure: Of the suites that the figures go over: of counted ones where there are any, else of free text; none if
            there are no suites.
        figures: Over ``judged`` and its ancestors.
    """

    versions: list[AdapterVersion]
    suites: list[SkillSuite]
    base: list[Cell | None]
    scores: list[list[Cell | None]]
    evaluation_ids: dict[str, str]
    judged: AdapterVersion | None
    measure: str | None
    figures: Figures


def ancestors(session: Session, version_id: str | None) -> list[AdapterVersion]:
    """A version and those that it goes back to, nearest first; none for no version."""
    return _path(_family(session, AdapterVersion.id == version_id), version_id)


def of_adapter(session: Session, adapter: Adapter) -> Lineage:
    """The lineage of one line."""
    members = _family(session, AdapterVersion.adapter_id == adapter.id)
    versions = sorted(members.values(), key=lambda version: (version.created_at, version.version))
    table = _Table(versions, _reports(session, members))
    line = [version for version in versions if version.adapter_id == adapter.id and version.deleted_at is None]
    judged = max(line, key=lambda version: version.version, default=None)
    measure, figures = table.figures(_path(members, judged.id if judged else None)[::-1])
    return Lineage(
        versions=versions,
        suites=table.suites,
        base=table.row(None),
        scores=[table.row(version.id) for version in versions],
        evaluation_ids=table.evaluation_ids,
        judged=judged,
        measure=measure,
        figures=figures,
    )


def past_scores(session: Session, versions: Sequence[AdapterVersion]) -> list[PastScore]:
    """What reports say that the base and these ``ancestors``, in their order, scored on each other's skills."""
    table = _Table(versions, _reports(session, [version.id for version in versions]))
    arms = [("base", None), *((version.label, version.id) for version in versions)]
    return [
        PastScore(version=name, skill=suite.version.label, value=cell.score, low=cell.low, high=cell.high)
        for name, version_id in arms
        for suite, cell in zip(table.suites, table.row(version_id), strict=True)
        if cell
    ]


def _reports(session: Session, version_ids: Collection[str]) -> Sequence[Evaluation]:
    """Evaluations of versions that have a report, oldest first."""
    reported = (Evaluation.version_id.in_(version_ids), Evaluation.report.is_not(None))
    return session.scalars(select(Evaluation).where(*reported).order_by(Evaluation.created_at)).all()


def _family(session: Session, chosen: ColumnElement[bool]) -> dict[str, AdapterVersion]:
    """The chosen versions and all that they go back to, deleted or not, by id."""
    link = select(AdapterVersion.id, AdapterVersion.parent_version_id)
    family = link.where(chosen).cte(recursive=True)
    family = family.union(link.join(family, AdapterVersion.id == family.c.parent_version_id))
    query = select(AdapterVersion).where(AdapterVersion.id.in_(select(family.c.id)))
    return {version.id: version for version in session.scalars(query.options(joinedload(AdapterVersion.adapter)))}


def _path(members: Mapping[str, AdapterVersion], version_id: str | None) -> list[AdapterVersion]:
    path: list[AdapterVersion] = []
    while version_id is not None:
        path.append(members[version_id])
        version_id = path[-1].parent_version_id
    return path


class _Table:
    """Scores by version, null for the base, and by the version whose skill was asked."""

    def __init__(self, versions: Sequence[AdapterVersion], evaluations: Sequence[Evaluation]) -> None:
        self._versions = {version.id: version for version in versions}
        self._labels = {version.label: version.id for version in versions}
        self._cells: dict[tuple[str | None, str], Cell] = {}
        self.evaluation_ids = {one.version_id: one.id for one in evaluations if self._is_own(one)}
        skills = {}
        for evaluation in evaluations:
            for skill_id, suite in self._asked(evaluation):
                if suite["role"] == "skill":
                    skills[skill_id] = SkillSuite(self._versions[skill_id], suite["measure"], suite["n"])
        self.suites = [skills[version.id] for version in versions if version.id in skills]
        # What a version's own evaluation says of it, its first one, goes before what it scored beside another one.
        for arm in ("candidate", "parent", "base"):
            for evaluation in evaluations:
                self._enter(evaluation, arm)

    def row(self, version_id: str | None) -> list[Cell | None]:
        """What a version, or the base, scored on each suite."""
        return [self._cells.get((version_id, suite.version.id)) for suite in self.suites]

    def figures(self, path: Sequence[AdapterVersion]) -> tuple[str | None, Figures]:
        """The measure and the figures of the last of these versions, each of which started from the one before."""
        rows = {version.id: index for index, version in enumerate(path)}
        asked = [suite for suite in self.suites if suite.version.id in rows]
        # Shares and nats have no mean: where some skills are counted, the figures are theirs.
        suites = [suite for suite in asked if suite.measure == COUNTED] or asked
        if not suites:
            return None, Figures(None, None, None, None)
        arms = [None, *(version.id for version in path)]
        cells = [[self._cells.get((arm, suite.version.id)) for suite in suites] for arm in arms]
        base, *scores = [[cell.score if cell else None for cell in row] for row in cells]
        return suites[0].measure, compute_figures(scores, base, [rows[suite.version.id] for suite in suites])

    def _is_own(self, evaluation: Evaluation) -> bool:
        """Whether the version's own job made it."""
        return evaluation.job_id == self._versions[evaluation.version_id].job_id

    def _asked(self, evaluation: Evaluation) -> Iterator[tuple[str, dict[str, Any]]]:
        """The suites of a report that are some version's skill, with that version's id."""
        for suite in (evaluation.report or {"suites": []})["suites"]:
            if suite["role"] == "skill":
                yield evaluation.version_id, suite
            elif suite["role"] in {"earlier", "other"} and suite["name"] in self._labels:
                yield self._labels[suite["name"]], suite

    def _enter(self, evaluation: Evaluation, arm: str) -> None:
        arms = {"candidate": evaluation.version_id, "parent": evaluation.against_version_id, "base": None}
        version_id = arms[arm]
        unjudged = {one["suite"] for one in (evaluation.report or {}).get("unjudged", ())}
        for skill_id, suite in self._asked(evaluation):
            if not suite["n"] or suite["name"] in unjudged:
                continue  # the score is of nothing, or of what is no fair sample
            for asked in suite["arms"]:
                # What an arm was trained on shows nothing of what it can do; null is not known.
                if asked["arm"] == arm and asked.get("num_trained", 0) == 0:
                    bounds = asked["score"]
                    cell = Cell(bounds["value"], bounds["low"], bounds["high"], evaluation.id)
                    self._cells.setdefault((version_id, skill_id), cell)
