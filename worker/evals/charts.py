"""The page's smaller charts as numbers: the heat map of a lineage, lengths of answers, where the time went."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from worker.evals.matrix import skills_in_order
from worker.evals.schema import Behaviour, LineageScore, Measure, Report, SuiteReport

MAX_BINS: Final = 32


@dataclass(frozen=True)
class Cell:
    """A score and how good that is, from 0, the worst, to 1."""

    score: LineageScore
    share: float


@dataclass(frozen=True)
class HeatMap:
    """Versions by skills, in the order in which they came; null where nobody asked."""

    skills: list[SuiteReport]
    rows: dict[str, list[Cell | None]]


def heat_map(report: Report) -> HeatMap | None:
    """The retention matrix, where there are earlier skills."""
    if not report.lineage:
        return None
    skills = skills_in_order(report.suites)
    measures = {skill.name: skill.measure for skill in skills}
    cells = {(one.version, one.suite): _cell(report, one, measures[one.suite]) for one in report.lineage}
    versions = dict.fromkeys(one.version for one in report.lineage)
    return HeatMap(skills, {name: [cells.get((name, skill.name)) for skill in skills] for name in versions})


def _cell(report: Report, one: LineageScore, measure: Measure) -> Cell:
    """Shares as they are; likelihoods between the lowest and the highest of their skill."""
    if measure == "share_right":
        return Cell(one, one.score.value)
    column = [other.score.value for other in report.lineage if other.suite == one.suite]
    return Cell(one, (one.score.value - min(column)) / ((max(column) - min(column)) or 1.0))


@dataclass(frozen=True)
class Histogram:
    """How long an arm's answers to a suite are.

    Args:
        row: Where it is from.
        bins: Share of answers in each, relative to the fullest of all arms.
        median: Tokens.
    """

    row: Behaviour
    bins: list[float]
    median: int


@dataclass(frozen=True)
class Lengths:
    """Histograms of one suite, on one scale.

    Args:
        suite: Its name.
        width: Tokens in a bin.
        longest: Tokens of the longest answer.
        arms: One a arm.
    """

    suite: str
    width: int
    longest: int
    arms: list[Histogram]


def lengths(report: Report) -> Iterator[Lengths]:
    """By suite, for all arms that were asked."""
    for suite in report.suites:
        if rows := [row for row in report.behaviour if row.suite == suite.name]:
            yield _lengths(suite, rows)


def _lengths(suite: SuiteReport, rows: Sequence[Behaviour]) -> Lengths:
    longest = max(row.lengths[-1] for row in rows)
    width = math.ceil((longest + 1) / MAX_BINS)
    num_bins = longest // width + 1
    counts = [[0] * num_bins for _ in rows]
    for count, row in zip(counts, rows, strict=True):
        for length in row.lengths:
            count[length // width] += 1
    fullest = max(max(count) for count in counts)
    return Lengths(
        suite.name,
        width,
        longest,
        [
            Histogram(row, [one / fullest for one in count], row.lengths[len(row.lengths) // 2])
            for row, count in zip(rows, counts, strict=True)
        ],
    )


@dataclass(frozen=True)
class Phase:
    """Part of a job's time.

    Args:
        start: Seconds before it, of phases that are no part of another.
        parts: Whose seconds are among its own.
    """

    name: str
    seconds: float
    start: float
    parts: dict[str, float]


def phases(seconds: dict[str, float]) -> list[Phase]:
    """What the time went on, one phase after the other; the evaluation's parts are told inside it."""
    parts = {name: value for name, value in seconds.items() if name.startswith("evaluation_")}
    found: list[Phase] = []
    for name, value in seconds.items():
        if name not in parts:
            start = found[-1].start + found[-1].seconds if found else 0.0
            found.append(Phase(name, value, start, parts if name == "evaluating" else {}))
    return found
