"""The first line of a report: whether to ship the version, and why, in one sentence."""

from collections.abc import Sequence
from typing import Final

from app.domain.arms import starting_point
from worker.evals.schema import Comparison, Measure, Recommendation, SuiteReport, Unjudged
from worker.evals.statistics import Verdict

UNITS: Final[dict[Measure, tuple[int, str]]] = {
    "share_right": (100, "points"),
    "negative_nll": (1, "nats per token"),
}
"""What a margin is multiplied by, and what it then counts."""


def recommend(
    suites: Sequence[SuiteReport],
    unjudged: Sequence[Unjudged],
    *,
    learned: Verdict,
    left: Verdict,
    margin: float,
    beside: str | None = None,
) -> tuple[Recommendation, str]:
    """What to do with a version, and the sentence that says so.

    Args:
        suites: All that was judged.
        unjudged: What was to be judged besides.
        learned: Of the skill.
        left: Of everything else.
        margin: Changes within it are called the same.
        beside: The version that it is compared with, where it does not go on from that one.
    """
    skill = next((suite for suite in suites if suite.role == "skill" and suite.n), None)
    rest = [suite for suite in suites if suite.role != "skill" and suite.n]
    known = _known(skill, margin, beside) if skill and learned == "same" else None
    came = known or _came(skill, learned, [one for one in unjudged if one.role == "skill"], beside)
    if left == "worse":
        return "do_not_ship", f"Do not ship it: {came}, and {_lost(rest, beside)}."
    if learned in {"same", "worse"} and not known:
        return "do_not_ship", f"Do not ship it: {came}."
    if learned == "better" and left in {"same", "better"}:
        kept = f"nothing else that was tested lost more than {limit(rest, margin)}"
        if skill and _falls_short(skill):
            return "look_closer", f"Look closer: {came}, and {kept}. More epochs may bring the rest."
        return "ship", f"Ship it: {came}, and {kept}."
    doubt = (
        f", but {_doubt(rest, [one for one in unjudged if one.role != 'skill'], margin)}" if learned == "better" else ""
    )
    return "look_closer", f"Look closer: {came}{doubt}."


def since_start(suite: SuiteReport) -> Comparison:
    """The comparison with what the job started from."""
    compared = {comparison.against: comparison for comparison in suite.comparisons}
    return compared[starting_point(compared)]


def limit(suites: Sequence[SuiteReport], margin: float) -> str:
    """A margin in the units of these suites."""
    measures = {suite.measure for suite in suites}
    return " or ".join(
        f"{factor * margin:g} {unit}" for measure, (factor, unit) in UNITS.items() if measure in measures
    )


def _known(skill: SuiteReport, margin: float, beside: str | None) -> str | None:
    """Why nothing was gained, where that is no fault of the version's: no room for it, or one beside it is as good."""
    arms, start = {score.arm: score for score in skill.arms}, since_start(skill).against
    if beside and not _is_as_the_base(skill):
        return f"at the skill it is no better than {beside}{_beside(skill)}"
    if skill.measure != "share_right" or arms[start].score.value < 1 - margin:
        return None
    before, now = arms[start].num_right, arms["candidate"].num_right
    counts = f"{start} {before} of {skill.n} right, this version {now}"
    return f"the skill was there before ({counts}), so nothing was gained"


def _lost(rest: Sequence[SuiteReport], beside: str | None) -> str:
    """What is worse: what a version that it does not go on from has, or was taught, this one cannot have lost."""
    worse = [
        (suite, one.against)
        for suite in rest
        for one in suite.comparisons
        if one.against != "supervised" and one.verdict == "worse"
    ]
    if beside and {against for _, against in worse} == {"parent"}:
        return f"it is worse than {beside} in {' and '.join(suite.name for suite, _ in worse)}"
    if {suite.role for suite, _ in worse} == {"other"}:
        return "it is worse at what another version was taught"
    return "other abilities were lost"


def _is_as_the_base(skill: SuiteReport) -> bool:
    """Whether it is shown that nothing was learned."""
    return any(one.against == "base" and one.verdict in {"same", "worse"} for one in skill.comparisons)


def _beside(skill: SuiteReport) -> str:
    """How many both have right, where answers are counted."""
    right = {score.arm: score.num_right for score in skill.arms}
    return (
        f" ({right['candidate']} of {skill.n} right, that one {right['parent']})"
        if skill.measure == "share_right"
        else ""
    )


def _came(skill: SuiteReport | None, learned: Verdict, unjudged: Sequence[Unjudged], beside: str | None) -> str:
    if unjudged and learned == "insufficient_evidence":
        return _not_enough(unjudged)
    if skill is None:
        return "no held-out questions were asked to show that the skill was learned"
    if learned == "insufficient_evidence":
        asked = f"it is better at the skill than {beside}" if beside else "the skill was learned"
        return f"too few questions were held out to say whether {asked}"
    if learned == "worse" and beside:
        return f"at the skill it is worse than {beside}{_beside(skill)}"
    if learned != "better":
        return "the skill was not learned"
    return _how_much(skill)


def _how_much(skill: SuiteReport) -> str:
    """Of a skill that was learned: all that could be distilled, or surely less than its teacher shows."""
    arms = {score.arm: score for score in skill.arms}
    if arms["candidate"].num_right is None:
        return "the skill was learned"
    right = f"{arms['candidate'].num_right} of {skill.n} right"
    if "ceiling" not in arms:
        return f"the skill was learned ({right}; no teacher was asked)"
    if _falls_short(skill):
        return f"a part of the skill was learned ({right}, its teacher {arms['ceiling'].num_right})"
    return f"the skill was learned ({right})"


def _falls_short(skill: SuiteReport) -> bool:
    """Whether it is surely less than its teacher shows; of free text there is no telling how much is missing."""
    arms = {score.arm: score.score for score in skill.arms}
    counted = skill.measure == "share_right"
    return counted and "ceiling" in arms and arms["candidate"].high < arms["ceiling"].low


def _doubt(rest: Sequence[SuiteReport], unjudged: Sequence[Unjudged], margin: float) -> str:
    """What stands in the way of saying that nothing was lost: what may have been, before what was asked too little."""
    if unjudged:
        return _not_enough(unjudged)
    if not rest:
        return "nothing else was tested"
    doubted = [
        (suite, one)
        for suite in rest
        for one in suite.comparisons
        if one.against != "supervised" and one.verdict == "insufficient_evidence"
    ]
    if not doubted:
        return f"an earlier skill may have lost more than {limit(rest, margin)} since its best version"
    lost = [
        (one.num_lost / had, f"{one.num_lost} of {had} answers that the {one.against} had right in {suite.name}")
        for suite, one in doubted
        if one.num_lost and (had := _num_right(suite, one.against))
    ]
    share, counts = max(lost, default=(0.0, ""))
    if share > margin:
        return f"{counts} were lost, more than {100 * margin:g}\u00a0%, which may be chance"
    return f"too few questions were asked to say that nothing else lost more than {limit(rest, margin)}"


def _num_right(suite: SuiteReport, arm: str) -> int:
    """Of a suite of answers that are right or wrong."""
    return next(score.num_right or 0 for score in suite.arms if score.arm == arm)


def _not_enough(unjudged: Sequence[Unjudged]) -> str:
    return f"not enough of {' and '.join(one.suite for one in unjudged)} could be judged"
