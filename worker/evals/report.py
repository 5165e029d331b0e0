"""From observations to a report: scores with intervals, paired comparisons, what was kept, what it cost.

Knows neither models nor pages. Everything random is seeded, so a report can be computed again to the last digit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean
from typing import Any, Final

from app.domain.proportions import tail, wilson
from worker.evals.behaviour import describe
from worker.evals.differences import SEED, bounds, difference, list_changes
from worker.evals.kept import count_kept, list_flips
from worker.evals.marks import Marks, mark
from worker.evals.matrix import retention_matrix
from worker.evals.replicates import Replicate, agreement, all_seeds, seed_run
from worker.evals.run import ArmName, Measured
from worker.evals.schema import (
    ArmScore,
    Bounds,
    Comparison,
    Cost,
    DriftReport,
    Kept,
    LineageScore,
    Method,
    Replicates,
    Report,
    SeedRun,
    SuiteReport,
    Summary,
    TwinRun,
    Unjudged,
    WeightChange,
)
from worker.evals.scorers import GIVEN_VERSION, NLL, NLL_VERSION, SCORERS, ScorerChoice
from worker.evals.statistics import (
    RESAMPLES,
    Loss,
    conclude,
    conclude_kept,
    holm,
    mcnemar,
    paired_shift,
    shift_p_value,
)
from worker.evals.suites import Split
from worker.evals.summary import caveats, summarize
from worker.evals.supervised import beside_supervised
from worker.evals.unjudged import list_unjudged

MARGIN: Final = 0.1
"""Ten points, or for free text a tenth of a nat per token: smaller changes are called the same."""


def build_report(
    measured: Measured,
    *,
    title: str,
    scorer: ScorerChoice | None,
    split: Split,
    template: str | None,
    cost: Cost,
    provenance: dict[str, Any],
    names: Mapping[ArmName, str] | None = None,
    beside: str | None = None,
    past: Sequence[LineageScore] = (),
    twin: TwinRun | None = None,
    seed: int = 0,
    replicates: Sequence[Replicate] = (),
    notes: Sequence[str] = (),
) -> Report:
    """Judge what was measured.

    Args:
        measured: From ``evaluate``.
        title: What the version is called.
        scorer: How the skill's scorer was chosen; ``None`` where the skill is not asked about.
        split: How the held-out part came to be.
        template: How the teacher was shown demonstrations.
        cost: Of the job so far; the evaluation's own is added.
        provenance: Whatever identifies what was run; shown as it is.
        names: What arms are called as versions of a lineage, where they have a name.
        beside: The version in the parent's place, where the candidate does not go on from it.
        past: What earlier reports have on the lineage, oldest version first.
        twin: What the supervised twin took, where ``measured`` has one.
        seed: Of the version's run.
        replicates: The same under other seeds, where that was asked for.
        notes: What else a reader should not conclude.
    """
    judge = partial(_judge, past=past, names=names or {}, beside=beside)
    judged = judge(measured)
    marked, suites, kept = judged.marked, judged.suites, judged.kept
    seeds = _over_seeds(judged.run(seed), measured, judge, replicates) if replicates else None
    demonstrations = [one.completion for one in split.training]
    return Report(
        title=title,
        summary=judged.summary,
        suites=suites,
        lineage=judged.lineage,
        kept=kept,
        drift=[DriftReport(**vars(drift)) for drift in measured.drift],
        weights=[
            WeightChange(arm=arm, module=kind, norm=added, share=added / of_base)
            for arm, norms in measured.weight_norms.items()
            for kind, (added, of_base) in norms.items()
        ],
        behaviour=[
            describe(
                marks.suite.name,
                arm,
                answers,
                demonstrations,
                entropy=measured.entropy.get((marks.suite.name, arm)),
            )
            for marks in marked
            for arm, answers in marks.answers.items()
            if answers[0].mark is None
        ],
        method=Method(
            scorer=scorer.name if scorer else None,
            scorer_reason=scorer.reason if scorer else None,
            split=split.statement,
            heldout_sha256=split.sha256 if split.heldout else None,
            template=template,
            answers_reused=_reused(measured),
            margin=MARGIN,
            resamples=RESAMPLES,
            seed=SEED,
        ),
        supervised=beside_supervised(marked, suites, twin) if twin else None,
        replicates=seeds,
        caveats=[
            agreement(seeds),
            *caveats(
                suites,
                kept,
                judged.unjudged,
                num_trained={suite.name: suite.num_trained for suite in measured.suites},
                num_repeated={suite.name: suite.num_repeated for suite in measured.suites},
                num_dropped=measured.num_dropped,
                names=names or {},
            ),
            *split.caveats,
            *measured.notes,
            *notes,
        ],
        errors=[error for marks in marked for error in marks.errors],
        cost=_with_evaluation(cost, measured),
        provenance=provenance,
        unjudged=judged.unjudged,
    )


@dataclass(frozen=True)
class _Judged:
    """What one version's observations come to."""

    marked: list[Marks]
    suites: list[SuiteReport]
    lineage: list[LineageScore]
    kept: list[Kept]
    unjudged: list[Unjudged]
    summary: Summary

    def run(self, seed: int) -> SeedRun:
        return seed_run(seed, self.summary.recommendation, self.marked, self.suites)


def _judge(
    measured: Measured, *, past: Sequence[LineageScore], names: Mapping[ArmName, str], beside: str | None
) -> _Judged:
    marked = [mark(measured, suite) for suite in measured.suites if suite.items]
    comparisons = _compare(marked)
    suites = [_suite_report(marks, comparisons[marks.suite.name]) for marks in marked]
    kept = [row for marks in marked if marks.suite.judged and marks.suite.role != "skill" for row in count_kept(marks)]
    unjudged = list(list_unjudged(measured, marked))
    outside = {"parent"} if beside else set()
    lineage = retention_matrix(suites, past, names, unjudged={one.suite for one in unjudged}, outside=outside)
    summary = summarize(marked, suites, lineage, kept, unjudged, margin=MARGIN, beside=beside)
    return _Judged(marked, suites, lineage, kept, unjudged, summary)


def _over_seeds(
    version: SeedRun, measured: Measured, judge: Callable[[Measured], _Judged], replicates: Sequence[Replicate]
) -> Replicates:
    """Each seed's version is judged as if it were the one, and is no better for what only it was not asked."""
    others = [
        judge(_as_asked(one.measured, measured)).run(one.seed)
        if one.measured
        else SeedRun(seed=one.seed, recommendation=None, scores=[])
        for one in replicates
    ]
    return all_seeds([version, *others])


def _as_asked(measured: Measured, version: Measured) -> Measured:
    """One seed's observations with what the version was to be asked and that seed was not."""
    asked = {suite.name for suite in measured.suites}
    missing = {suite.name: "it failed for this seed." for suite in version.suites if suite.name not in asked}
    return replace(measured, unasked=missing | version.unasked | measured.unasked)


def _suite_report(marks: Marks, comparisons: list[Comparison]) -> SuiteReport:
    names = dict.fromkeys(item.scorer for item in marks.suite.items)
    return SuiteReport(
        name=marks.suite.name,
        role=marks.suite.role,
        measure="share_right" if marks.suite.judged else "negative_nll",
        scorers={name: _version(name) for name in names},
        n=len(marks.items),
        arms=[_arm_score(marks, arm) for arm in marks.scores],
        comparisons=comparisons,
        changes=list(list_changes(marks)),
        flips=list_flips(marks),
    )


def _version(scorer: str) -> int:
    if scorer == NLL:
        return NLL_VERSION
    return SCORERS[scorer].version if scorer in SCORERS else GIVEN_VERSION


def _arm_score(marks: Marks, arm: ArmName) -> ArmScore:
    scores = marks.scores[arm]
    if marks.suite.judged:
        num_right, interval = sum(marks.right(arm)), wilson(sum(marks.right(arm)), len(scores))
    else:
        num_right, interval = None, paired_shift(scores, [0.0] * len(scores), seed=SEED).interval
    return ArmScore(
        arm=arm,
        num_right=num_right,
        score=Bounds(value=mean(scores) if scores else 0.0, low=interval.low, high=interval.high),
        nll=marks.nll.get(arm),
        field_f1=marks.field_f1.get(arm),
        num_trained=marks.suite.num_trained.get(arm, 0),
    )


def _compare(marked: Sequence[Marks]) -> dict[str, list[Comparison]]:
    """The candidate against base, parent and twin on every suite.

    P-values that test for loss are one family, those of the shares lost another, and those against the twin a third: a
    version is judged alike, compared or not.
    """
    pairs = [
        (marks, arm) for marks in marked if marks.items for arm in marks.scores if arm not in {"candidate", "ceiling"}
    ]
    p_values = [_p_value(marks, arm) for marks, arm in pairs]
    not_taught = [place for place, (marks, _) in enumerate(pairs) if marks.suite.role != "skill"]
    twins = [place for place in not_taught if pairs[place][1] == "supervised"]
    kept = [place for place in not_taught if place not in twins]
    for family in (kept, twins):
        for place, adjusted in zip(family, holm([p_values[place] for place in family]), strict=True):
            p_values[place] = adjusted
    found: dict[str, list[Comparison]] = {marks.suite.name: [] for marks in marked}
    losses = _losses({place: pairs[place] for place in kept})
    for place, ((marks, arm), p_value) in enumerate(zip(pairs, p_values, strict=True)):
        found[marks.suite.name].append(_comparison(marks, arm, p_value, losses.get(place), is_kept=place in kept))
    return found


def _losses(pairs: Mapping[int, tuple[Marks, ArmName]]) -> dict[int, Loss]:
    """Of what an arm had right, by the pair's place; nothing of likelihoods."""
    counts = {
        place: (marks.changed("candidate", arm)[0], sum(marks.right(arm)))
        for place, (marks, arm) in pairs.items()
        if marks.suite.judged
    }
    p_values = holm([tail(lost, had, MARGIN) for lost, had in counts.values()])
    return {place: Loss(*count, p_value) for (place, count), p_value in zip(counts.items(), p_values, strict=True)}


def _p_value(marks: Marks, arm: ArmName) -> float:
    if marks.suite.judged:
        return mcnemar(*marks.changed("candidate", arm))
    return shift_p_value(marks.scores["candidate"], marks.scores[arm], seed=SEED)


def _comparison(marks: Marks, arm: ArmName, p_value: float, loss: Loss | None, *, is_kept: bool) -> Comparison:
    """Of what was there before the job, only a loss counts."""
    estimate = difference(marks, "candidate", arm)
    lost, gained = marks.changed("candidate", arm) if marks.suite.judged else (None, None)
    if is_kept:
        verdict = conclude_kept(estimate, loss, margin=MARGIN, p_value=p_value)
    else:
        verdict = conclude(estimate, margin=MARGIN, p_value=p_value, counted=marks.suite.judged)
    return Comparison(
        against=arm,
        difference=bounds(estimate),
        num_lost=lost,
        num_gained=gained,
        p_value=p_value,
        loss_p_value=loss.p_value if loss else None,
        verdict=verdict,
    )


def _reused(measured: Measured) -> dict[str, list[ArmName]]:
    """By suite, the arms whose answers an earlier job had already asked for."""
    return {
        suite.name: arms
        for suite in measured.suites
        if (arms := [arm for arm in measured.arms(suite) if (suite.name, arm) in measured.reused])
    }


def _with_evaluation(cost: Cost, measured: Measured) -> Cost:
    seconds = cost.seconds | {f"evaluation_{phase}": value for phase, value in measured.seconds.items()}
    asked = [answers for key, answers in measured.answers.items() if key not in measured.reused]
    generated = sum(len(one.ids) for answers in asked for one in answers)
    return cost.model_copy(update={"seconds": seconds, "generated_tokens": cost.generated_tokens + generated})
