"""What the numbers allow one to say, in sentences: three questions, a recommendation, and what not to conclude."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final

from app.domain.forgetting import Score, since_best
from app.domain.proportions import MIN_LIKELIHOODS, Interval, num_to_show, wilson
from worker.evals.differences import difference
from worker.evals.headline import UNITS, limit, recommend, since_start
from worker.evals.marks import Marks
from worker.evals.run import ArmName
from worker.evals.schema import (
    Bounds,
    CeilingQuestion,
    Kept,
    LineageScore,
    Question,
    SuiteReport,
    Summary,
    Unjudged,
)
from worker.evals.statistics import GRAVEST, Verdict, paired_ratio, shift_ratio
from worker.evals.suites import GENERAL_NAME

ENOUGH: Final = 97
"""Items that bring a rate's half-width down to ten points."""
ENOUGH_TO_FORGET: Final = 50

_MISSING: Final[Verdict] = "insufficient_evidence"
_LESS_LIKELY: Final[Mapping[Verdict, str]] = {"worse": "worse", "insufficient_evidence": "in doubt"}
"""What is said of free text, which has no answers to count."""


def summarize(
    marked: Sequence[Marks],
    suites: Sequence[SuiteReport],
    lineage: Sequence[LineageScore],
    kept: Sequence[Kept],
    unjudged: Sequence[Unjudged],
    *,
    margin: float,
    beside: str | None = None,
) -> Summary:
    """Answer the three questions; ``beside`` as ``recommend`` has it."""
    skill = next((suite for suite in suites if suite.role == "skill" and suite.n), None)
    marks = next((one for one in marked if one.suite.role == "skill" and one.items), None)
    learned = _learned(skill, [one for one in unjudged if one.role == "skill"])
    left = _left(suites, lineage, kept, [one for one in unjudged if one.role != "skill"], margin=margin)
    recommendation, headline = recommend(
        suites, unjudged, learned=learned.verdict, left=left.verdict, margin=margin, beside=beside
    )
    return Summary(
        recommendation=recommendation,
        headline=headline,
        skill=learned,
        retention=left,
        ceiling=_ceiling(marks),
    )


def caveats(
    suites: Sequence[SuiteReport],
    kept: Sequence[Kept],
    unjudged: Sequence[Unjudged],
    *,
    num_trained: Mapping[str, Mapping[str, int | None]],
    num_repeated: Mapping[str, int],
    num_dropped: int,
    names: Mapping[ArmName, str],
) -> list[str]:
    """What a reader should not conclude."""
    notes = []
    if "skill" not in {suite.role for suite in suites} | {one.role for one in unjudged}:
        notes.append("No held-out questions were asked, so this report cannot say whether the skill was learned.")
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
    notes.extend(
        f"The general suite is easy and short. {_reach(suites, kept)}" for one in suites if one.role == "general"
    )
    called = {"candidate": "this version", "parent": names.get("parent", "the starting point")}
    notes.extend(
        f"{name}: {who}, or one that it goes on from, was trained on the prompts of {count} questions, so this suite "
        "flatters it."
        for name, counts in num_trained.items()
        for arm, who in called.items()
        if (count := counts.get(arm))
    )
    notes.extend(
        f"{name}: {count} lines repeat the prompt of another one and were not asked."
        for name, count in num_repeated.items()
        if count
    )
    if num_dropped:
        notes.append(f"{num_dropped} questions did not fit the context of the base model and were asked of nobody.")
    return notes


def _reach(suites: Sequence[SuiteReport], kept: Sequence[Kept]) -> str:
    """What kinds show of retention beyond what was rehearsed: of the shipped prompts alone the kinds are known."""
    if not any(row.num_rehearsed_kinds for row in kept if row.suite == GENERAL_NAME):
        return (
            "None of the shipped prompts was rehearsed, so no kind counts as rehearsed. A file's prompts, those that "
            "the starting point made up and those of earlier skills may be of any kind: where training had some, no "
            "kind shows for certain whether retention reaches beyond them."
        )
    said = (
        "Kinds of which there are rehearsal prompts too are listed apart: only the other kinds show whether retention "
        "reaches beyond what is rehearsed"
    )
    if "earlier" in {suite.role for suite in suites}:
        return f"{said}, and of these only such as no earlier skill is of, for its prompts are rehearsed too."
    return f"{said}."


def _learned(skill: SuiteReport | None, unjudged: Sequence[Unjudged]) -> Question:
    if skill is None:
        return _answer([], [], unjudged, nothing="No held-out questions were asked.")
    arms = {score.arm: score for score in skill.arms}
    start = since_start(skill)
    candidate = arms["candidate"]
    if skill.measure == "share_right":
        before = ", ".join(f"{arm} {score.num_right}" for arm, score in arms.items() if arm in {"base", "parent"})
        right = f"{candidate.num_right} of {skill.n} held-out questions right"
        sentence = f"{right} ({_percent(candidate.score)}); {before}."
    else:
        sentence = (
            f"Log-likelihood of {skill.n} held-out demonstrations, nats per token: {candidate.score.value:.2f}; "
            f"{start.against} {arms[start.against].score.value:.2f} (difference {_signed(start.difference)})."
        )
    return _answer([start.verdict], [sentence], unjudged)


def _left(
    suites: Sequence[SuiteReport],
    lineage: Sequence[LineageScore],
    kept: Sequence[Kept],
    unjudged: Sequence[Unjudged],
    *,
    margin: float,
) -> Question:
    """The gravest verdict over all but the skill, against what was there before.

    Of an earlier skill that is the starting point, which may be the base, and the best that the lineage has scored.
    """
    rest = [suite for suite in suites if suite.role != "skill"]
    compared = [(suite, one) for suite in rest for one in suite.comparisons if one.against != "supervised"]
    doubted = {(suite.name, one.against) for suite, one in compared if one.verdict == _MISSING}
    sentences = [
        _kept(row, margin=margin, doubted=(row.suite, row.reference) in doubted) for row in kept if row.group == "all"
    ]
    sentences += [
        f"{suite.name}, log-likelihood against the {one.against}: {_LESS_LIKELY[one.verdict]} "
        f"({_signed(one.difference)})."
        for suite, one in compared
        if suite.measure == "negative_nll" and one.verdict in _LESS_LIKELY
    ]
    if compared and not sentences:
        sentences = [f"Free text lost no more than {limit(rest, margin)}."]
    doubtful = {one.suite for one in unjudged}
    judged = [suite for suite in rest if suite.n and suite.name not in doubtful]
    fallen = [found for suite in judged if (found := _fallen(suite, lineage, margin=margin))]
    verdicts = [*(one.verdict for _, one in compared), *(verdict for verdict, _ in fallen)]
    sentences += [sentence for _, sentence in fallen]
    return _answer(verdicts, sentences, unjudged, nothing="Nothing else was tested.")


def _kept(row: Kept, *, margin: float, doubted: bool) -> str:
    share = f" ({_percent(row.share)})" if row.share else ""
    said = f"{row.suite}, right for the {row.reference}: {row.num_kept} of {row.num_had} kept{share}"
    needed = num_to_show(margin)
    few = f" Fewer than {needed} cannot show that no more than {100 * margin:g}\u00a0% are lost."
    return f"{said}, {row.num_gained} gained.{few if doubted and row.num_had < needed else ''}"


def _fallen(suite: SuiteReport, lineage: Sequence[LineageScore], *, margin: float) -> tuple[Verdict, str] | None:
    """What is to be said of an earlier skill that has lost too much since its best score, little by little."""
    if suite.role != "earlier":
        return None
    arms = {one.arm: _score(one.score) for one in suite.arms}
    past = {one.version: _score(one.score) for one in lineage if one.suite == suite.name}
    fall = since_best(past, start=arms[since_start(suite).against], now=arms["candidate"], limit=margin)
    if fall is None or fall.finding == "within":
        return None
    enough = suite.measure == "share_right" or suite.n >= MIN_LIKELIHOODS
    factor, unit = UNITS[suite.measure]
    points = [f"{factor * number:.3g}" for number in (fall.value, fall.interval.low, fall.interval.high)]
    less = f"{points[0]} {unit} less than {fall.since} had, 95\u00a0% interval {points[1]} to {points[2]}"
    return "worse" if enough and fall.finding == "beyond" else _MISSING, f"{suite.name}: {less}."


def _score(reported: Bounds) -> Score:
    return Score(reported.value, Interval(reported.low, reported.high))


def _answer(
    verdicts: Sequence[Verdict], sentences: Sequence[str], unjudged: Sequence[Unjudged], *, nothing: str = ""
) -> Question:
    """The gravest verdict, in doubt where something was to be asked and could not be judged."""
    found = [*verdicts, *(_MISSING for _ in unjudged)]
    said = [*sentences, *(one.sentence for one in unjudged)]
    return Question(verdict=min(found or [_MISSING], key=GRAVEST.index), sentence="\n".join(said or [nothing]))


def _ceiling(marks: Marks | None) -> CeilingQuestion:
    """The candidate's share of what its teacher scores: of the score, or for free text of the gain.

    A score counts what the start had right too, so its count stands beside the share.
    """
    if marks is None or "ceiling" not in marks.scores:
        return CeilingQuestion(share=None, sentence="No teacher was asked, so there is no ceiling to compare with.")
    if _knows_no_more(marks):
        no_better = "With the demonstration in its context the model is no better: nothing to distil."
        return CeilingQuestion(share=None, sentence=no_better)
    candidate, ceiling = marks.scores["candidate"], marks.scores["ceiling"]
    if marks.suite.judged:
        ratio = paired_ratio(candidate, ceiling)
    else:
        start = marks.scores[marks.reference]
        candidate = [after - before for after, before in zip(candidate, start, strict=True)]
        ceiling = [after - before for after, before in zip(ceiling, start, strict=True)]
        ratio = shift_ratio(candidate, ceiling)
    if ratio is None:
        return CeilingQuestion(share=None, sentence=_without_share(marks))
    share = Bounds(value=ratio.value, low=ratio.interval.low, high=ratio.interval.high)
    return CeilingQuestion(
        share=share,
        sentence=f"{_percent(share)} of what the teacher, with the demonstration in its context, reaches "
        f"({_reached(marks)}).",
    )


def _reached(marks: Marks) -> str:
    """What a share is of, and what was there before any of it was taught."""
    if not marks.suite.judged:
        return "its gain in likelihood"
    before = sum(marks.right(marks.reference))
    known = f"; {marks.reference} {before} before" if before else ""
    return f"{sum(marks.right('ceiling'))} of {len(marks.items)} right{known}"


def _without_share(marks: Marks) -> str:
    """What can be said of a teacher that is not safely above zero: how little was seen."""
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


def _knows_no_more(marks: Marks) -> bool:
    """Whether the teacher is safely no better than where it started, or at no single item."""
    pairs = zip(marks.scores["ceiling"], marks.scores[marks.reference], strict=True)
    return difference(marks, "ceiling", marks.reference).interval.high <= 0 or all(
        now <= before for now, before in pairs
    )


def _percent(bounds: Bounds) -> str:
    return f"{100 * bounds.value:.0f}\u00a0%, 95\u00a0% interval {100 * bounds.low:.0f} to {100 * bounds.high:.0f}"


def _signed(bounds: Bounds) -> str:
    return f"{bounds.value:+.2f}, 95\u00a0% interval {bounds.low:+.2f} to {bounds.high:+.2f}"
