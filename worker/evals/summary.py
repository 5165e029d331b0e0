"""What the numbers allow one to say, in sentences: three questions, a recommendation, and what not to conclude."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final

from worker.evals.differences import difference
from worker.evals.marks import Marks
from worker.evals.schema import (
    Bounds,
    CeilingQuestion,
    Comparison,
    Kept,
    Question,
    Recommendation,
    SuiteReport,
    Summary,
    Unjudged,
)
from worker.evals.statistics import Verdict, paired_ratio, wilson
from worker.evals.suites import GENERAL_NAME

RATIO_SEED: Final = 0
ENOUGH: Final = 97
"""Items that bring a rate's half-width down to ten points."""
ENOUGH_TO_FORGET: Final = 50

_GRAVEST: Final[tuple[Verdict, ...]] = ("worse", "insufficient_evidence", "same", "better")


def summarize(
    marked: Sequence[Marks],
    suites: Sequence[SuiteReport],
    kept: Sequence[Kept],
    unjudged: Sequence[Unjudged],
    *,
    margin: float,
) -> Summary:
    """Answer the three questions."""
    skill = next((suite for suite in suites if suite.role == "skill" and suite.n), None)
    marks = next((one for one in marked if one.suite.role == "skill" and one.items), None)
    arrived = _arrived(skill, [one for one in unjudged if one.role == "skill"])
    left = _left(suites, kept, [one for one in unjudged if one.role != "skill"])
    recommendation = _recommend(arrived.verdict, left.verdict)
    return Summary(
        recommendation=recommendation,
        headline=_headline(recommendation, skill, arrived.verdict, left.verdict, unjudged, margin=margin),
        skill=arrived,
        retention=left,
        ceiling=_ceiling(marks),
    )


def caveats(
    suites: Sequence[SuiteReport],
    kept: Sequence[Kept],
    unjudged: Sequence[Unjudged],
    *,
    num_trained: Mapping[str, int],
    num_dropped: int,
) -> list[str]:
    """What a reader should not conclude."""
    notes = []
    if not any(one.role == "skill" for one in (*suites, *unjudged)):
        notes.append("No questions were held out, so this report cannot say whether the skill arrived.")
    for suite in suites:
        if suite.measure == "share_right" and 0 < suite.n < ENOUGH:
            half = (wilson(suite.n // 2, suite.n).high - wilson(suite.n // 2, suite.n).low) / 2
            notes.append(f"{suite.name}: {suite.n} questions tell a rate to within {100 * half:.0f} points at worst.")
        if suite.measure == "negative_nll":
            notes.append(f"{suite.name}: free text is compared by likelihood, not by what a reader would think of it.")
    notes.extend(
        f"The {row.reference} had only {row.num_had} general questions right: little could be lost."
        for row in kept
        if row.suite == GENERAL_NAME and row.group == "all" and row.num_had < ENOUGH_TO_FORGET
    )
    notes.append(
        "The general suite is easy and short. Kinds of which there are rehearsal prompts too are listed apart: only "
        "the other kinds show whether retention reaches beyond what is rehearsed."
    )
    notes.extend(
        f"{name}: the prompts of {count} questions are in the training file too, so it flatters this version."
        for name, count in num_trained.items()
        if count
    )
    if num_dropped:
        notes.append(f"{num_dropped} questions did not fit the context of the base model and were asked of nobody.")
    return notes


def _arrived(skill: SuiteReport | None, unjudged: Sequence[Unjudged]) -> Question:
    if skill is None:
        return _answer([], [], unjudged, nothing="There was no held-out question to ask.")
    arms = {score.arm: score for score in skill.arms}
    start = _starting_point(skill.comparisons)
    candidate = arms["candidate"]
    if skill.measure == "share_right":
        before = ", ".join(f"{arm} {score.num_right}" for arm, score in arms.items() if arm in {"base", "parent"})
        right = f"{candidate.num_right} of {skill.n} held-out questions right"
        sentence = f"{right} ({_percent(candidate.score)}); before: {before}."
    else:
        sentence = (
            f"Log-likelihood of {skill.n} held-out demonstrations, nats per token: {candidate.score.value:.2f}; "
            f"{start.against} {arms[start.against].score.value:.2f} (difference {_signed(start.difference)})."
        )
    return _answer([start.verdict], [sentence], unjudged)


def _left(suites: Sequence[SuiteReport], kept: Sequence[Kept], unjudged: Sequence[Unjudged]) -> Question:
    """The gravest verdict over general ability, against the base, and earlier skills, against the parent."""
    verdicts = [
        comparison.verdict
        for suite in suites
        for comparison in suite.comparisons
        if comparison.against != "supervised"
        and (suite.role in {"general", "client"} or (suite.role, comparison.against) == ("earlier", "parent"))
    ]
    sentences = [
        f"{row.suite}, right for the {row.reference}: {row.num_kept} of {row.num_had} kept"
        + (f" ({_percent(row.share)})" if row.share else "")
        + f", {row.num_gained} gained."
        for row in kept
        if row.group == "all"
    ]
    return _answer(verdicts, sentences, unjudged, nothing="Nothing else was tested.")


def _answer(
    verdicts: Sequence[Verdict], sentences: Sequence[str], unjudged: Sequence[Unjudged], *, nothing: str = ""
) -> Question:
    """The gravest verdict, in doubt where something was to be asked and could not be judged."""
    verdicts = [*verdicts, *("insufficient_evidence" for _ in unjudged)]
    sentences = [*sentences, *(one.sentence for one in unjudged)]
    if not verdicts:
        return Question(verdict="insufficient_evidence", sentence=nothing)
    return Question(verdict=min(verdicts, key=_GRAVEST.index), sentence="\n".join(sentences))


def _ceiling(marks: Marks | None) -> CeilingQuestion:
    """The candidate's share of what its teacher scores: of the score, or for free text of the gain."""
    if marks is None or "ceiling" not in marks.scores:
        return CeilingQuestion(share=None, sentence="No teacher was asked, so there is no ceiling to compare with.")
    candidate, ceiling = marks.scores["candidate"], marks.scores["ceiling"]
    if not marks.suite.judged:
        start = marks.scores[marks.reference]
        candidate = [after - before for after, before in zip(candidate, start, strict=True)]
        ceiling = [after - before for after, before in zip(ceiling, start, strict=True)]
    ratio = paired_ratio(candidate, ceiling, seed=RATIO_SEED)
    if ratio is None:
        return CeilingQuestion(share=None, sentence=_without_share(marks))
    share = Bounds(value=ratio.value, low=ratio.interval.low, high=ratio.interval.high)
    shown = (
        f"{sum(marks.right('ceiling'))} of {len(marks.items)} right" if marks.suite.judged else "its gain in likelihood"
    )
    return CeilingQuestion(
        share=share,
        sentence=f"{_percent(share)} of what the teacher, with the demonstration before its eyes, reaches ({shown}).",
    )


def _without_share(marks: Marks) -> str:
    """What can be said of a teacher that is not safely above zero: that it knows no more, or how little was seen."""
    if difference(marks, "ceiling", marks.reference).interval.high <= 0:
        return "With the demonstration in its context the model is no better: nothing to distil."
    if marks.suite.judged:
        what = f"Right of {len(marks.items)} questions"
        shown = {arm: str(sum(marks.right(arm))) for arm in marks.scores}
    else:
        what = f"Log-likelihood of {len(marks.items)} demonstrations, nats per token"
        shown = {arm: f"{fmean(scores):.2f}" for arm, scores in marks.scores.items()}
    return (
        f"{what}: the teacher {shown['ceiling']}, this version {shown['candidate']}; before: {marks.reference} "
        f"{shown[marks.reference]}. Too few questions to give a share."
    )


def _starting_point(comparisons: Sequence[Comparison]) -> Comparison:
    """The comparison with what the job started from; arms come with the base first."""
    return [comparison for comparison in comparisons if comparison.against != "supervised"][-1]


def _recommend(arrived: Verdict, left: Verdict) -> Recommendation:
    if left == "worse" or arrived in {"same", "worse"}:
        return "do_not_ship"
    return "ship" if arrived == "better" and left in {"same", "better"} else "look_closer"


def _headline(
    recommendation: Recommendation,
    skill: SuiteReport | None,
    arrived: Verdict,
    left: Verdict,
    unjudged: Sequence[Unjudged],
    *,
    margin: float,
) -> str:
    came = _came(skill, arrived, [one for one in unjudged if one.role == "skill"])
    if recommendation == "ship":
        return f"Ship it: {came}, and what else was tested stayed within {100 * margin:.0f} points."
    if recommendation == "do_not_ship":
        return f"Do not ship it: {came}{', and other abilities were lost' if left == 'worse' else ''}."
    doubt = f", but {_doubt([one for one in unjudged if one.role != 'skill'])}" if arrived == "better" else ""
    return f"Look closer: {came}{doubt}."


def _came(skill: SuiteReport | None, arrived: Verdict, unjudged: Sequence[Unjudged]) -> str:
    if unjudged and arrived == "insufficient_evidence":
        return _not_enough(unjudged)
    if skill is None:
        return "no questions were held out to show that the skill arrived"
    if arrived == "insufficient_evidence":
        return "too few questions were held out to say whether the skill arrived"
    if arrived != "better":
        return "the skill did not arrive"
    num_right = next(score.num_right for score in skill.arms if score.arm == "candidate")
    return "the skill arrived" if num_right is None else f"the skill arrived ({num_right} of {skill.n} right)"


def _doubt(unjudged: Sequence[Unjudged]) -> str:
    return _not_enough(unjudged) if unjudged else "too few questions were asked to say that nothing was lost"


def _not_enough(unjudged: Sequence[Unjudged]) -> str:
    return f"not enough of {' and '.join(one.suite for one in unjudged)} could be judged"


def _percent(bounds: Bounds) -> str:
    return f"{100 * bounds.value:.0f}\u00a0%, 95\u00a0% interval {100 * bounds.low:.0f} to {100 * bounds.high:.0f}"


def _signed(bounds: Bounds) -> str:
    return f"{bounds.value:+.2f}, 95\u00a0% interval {bounds.low:+.2f} to {bounds.high:+.2f}"
