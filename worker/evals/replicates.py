"""The same configuration under other seeds: what each scored and kept, and whether all come to the same verdict."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from app.domain.arms import TRAINED
from worker.evals.kept import count_kept
from worker.evals.marks import Marks
from worker.evals.run import Measured
from worker.evals.schema import Range, Recommendation, Replicates, SeedRun, SeedScore, SeedSpread, SuiteReport

ONE_RUN = "One training run: another seed may come out differently."


@dataclass(frozen=True)
class Replicate:
    """A job's configuration, trained and asked under another seed; ``measured`` is None where training diverged."""

    seed: int
    measured: Measured | None


def seed_run(
    seed: int, recommendation: Recommendation, marked: Sequence[Marks], suites: Sequence[SuiteReport]
) -> SeedRun:
    """What came of one seed.

    Args:
        seed: Of its run.
        recommendation: As if it were the version.
        marked: What it was asked, marked.
        suites: The same, reported.
    """
    scores = [row for marks, suite in zip(marked, suites, strict=True) for row in _scores(marks, suite)]
    return SeedRun(seed=seed, recommendation=recommendation, scores=scores)


def _scores(marks: Marks, suite: SuiteReport) -> Iterator[SeedScore]:
    for one in suite.arms:
        if one.arm in TRAINED and suite.n:
            rows = count_kept(marks, one.arm) if marks.suite.judged and marks.suite.role != "skill" else ()
            kept = next((row for row in rows if (row.reference, row.group) == (marks.reference, "all")), None)
            yield SeedScore(suite=suite.name, measure=suite.measure, arm=one.arm, n=suite.n, score=one.score, kept=kept)


def all_seeds(runs: Sequence[SeedRun]) -> Replicates:
    """All seeds, the version's first, with mean and range of what each came to."""
    found: dict[tuple[str, str], list[SeedScore]] = {}
    for run in runs:
        for row in run.scores:
            found.setdefault((row.suite, row.arm), []).append(row)
    return Replicates(runs=list(runs), spread=[_spread(rows) for rows in found.values()])


def _spread(rows: Sequence[SeedScore]) -> SeedSpread:
    kept = [row.kept.share.value for row in rows if row.kept and row.kept.share]
    return SeedSpread(
        suite=rows[0].suite,
        measure=rows[0].measure,
        arm=rows[0].arm,
        num_seeds=len(rows),
        score=_range([row.score.value for row in rows]),
        kept=_range(kept) if kept else None,
    )


def _range(values: Sequence[float]) -> Range:
    return Range(mean=mean(values), low=min(values), high=max(values))


def agreement(replicates: Replicates | None) -> str:
    """What the seeds allow one to conclude of the verdict."""
    if replicates is None:
        return ONE_RUN
    version, *others = replicates.runs
    said = {run.seed: (run.recommendation or "diverged").replace("_", " ") for run in replicates.runs}
    differing = {run.seed: said[run.seed] for run in others if run.recommendation != version.recommendation}
    if differing:
        return f"Seeds disagree: this version (seed {version.seed}), {said[version.seed]}; {_listed(differing)}."
    return f"{len(said)} seeds come to the same verdict, {said[version.seed]}; so few show no rare outcome."


def _listed(said: Mapping[int, str]) -> str:
    return "; ".join(f"seed {seed}, {verdict}" for seed, verdict in said.items())
