"""Whether a version may be used, decided from the numbers of its report by the rule that its job came with.

Intervals are the report's, at the confidence that the rule asks for: of counted answers computed again, of likelihoods
stretched from 95 %. That answers changed at all is believed only where the report's exact test agrees. Each criterion
has to pass, so no correction for their number is needed for that; ``fail`` is said of each by itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.domain.arms import REFERENCES, starting_point
from app.domain.forgetting import Finding, Score, judge_share_lost, since_best
from app.domain.ids import ALIAS_PATTERN
from app.domain.proportions import (
    CONFIDENCE,
    MIN_LIKELIHOODS,
    Interval,
    deviations,
    num_to_show,
    paired,
    tail,
    wilson,
)

GateVerdict = Literal["pass", "fail", "insufficient_evidence"]
Question = Literal["gain", "forgetting", "lost"]
"""Whether the skill scores higher, whether another suite scores lower, and how much is lost of what was right there."""


_VERDICTS: Final[Mapping[Finding, GateVerdict]] = {
    "within": "pass",
    "beyond": "fail",
    "in_doubt": "insufficient_evidence",
}
_GRAVEST: Final[tuple[GateVerdict, ...]] = ("fail", "insufficient_evidence", "pass")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class GateRule(_Frozen):
    """What a version has to show. Limits are shares of questions, or nats per token where texts are not judged."""

    min_gain: float = Field(
        0.0, ge=0, le=10, description="The new skill's score must exceed the starting point's by more than this."
    )
    max_forgetting: float = Field(
        0.1,
        ge=0.001,  # less takes more questions than a suite may have, and a 1e-310 has no reciprocal
        le=10,
        description="No other suite may score lower than before, or than the base, by more than this, nor lose more "
        "than this share of what was right there.",
    )
    confidence: float = Field(
        0.95,
        ge=0.5,
        le=0.999,
        description="Of the intervals of scores, which must lie within the limits. The share lost of what was right, "
        "and a fall since the best version, pass as counted, and fail where they exceed the limit at this confidence.",
    )
    on_pass: str | None = Field(
        None,
        pattern=f"^{ALIAS_PATTERN}$",
        description="Alias of the adapter to point at the version if it passes, and goes on from where the alias "
        "points, if anywhere.",
    )

    @property
    def sentence(self) -> str:
        """What it asks for, and what a pass does."""
        limit = f"{self.max_forgetting:g}"
        asked = f"At {100 * self.confidence:g} % confidence the skill has to gain more than {self.min_gain:g} and "
        asked += f"nothing else may score lower by more than {limit}. As counted, no more than {limit} of what was "
        asked += "right there may be lost."
        if self.on_pass is None:
            return asked
        return f"{asked} A pass points {self.on_pass} at the version, if it goes on from where that points now."


class Criterion(_Frozen):
    """One comparison against one limit."""

    question: Question
    suite: str | None = Field(description="Null where the report has nothing to ask.")
    against: str | None = Field(description="An arm, or the version with the best score of the lineage.")
    n: int | None = Field(description="Of all questions, or of what was right before where the question is lost.")
    value: float | None
    low: float | None
    high: float | None
    p_value: float | None = Field(None, description="Of the report, that nothing changed; null where none is asked.")
    limit: float
    verdict: GateVerdict
    sentence: str


class GateDecision(_Frozen):
    """The verdict and every number that it rests on."""

    rule: GateRule
    verdict: GateVerdict
    criteria: list[Criterion]


def decide(
    rule: GateRule,
    suites: Sequence[Mapping[str, Any]],
    unjudged: Sequence[Mapping[str, Any]] = (),
    lineage: Sequence[Mapping[str, Any]] = (),
) -> GateDecision:
    """Hold a report's suites against a rule.

    Args:
        rule: Of the job.
        suites: Of its report.
        unjudged: What the report says could not be judged as it was asked for: never a pass.
        lineage: What the report has on the skills of the lineage, by version.
    """
    doubts, doubtful = [_unjudged(rule, one) for one in unjudged], {one["suite"] for one in unjudged}
    gains = [*_gains(rule, suites), *(one for one in doubts if one.question == "gain")]
    forgettings = [
        *_forgettings(rule, suites),
        *_since_best(rule, [suite for suite in suites if suite["n"] and suite["name"] not in doubtful], lineage),
        *(one for one in doubts if one.question == "forgetting"),
    ]
    criteria = [
        *(gains or [_unasked("gain", rule.min_gain)]),
        *(forgettings or [_unasked("forgetting", rule.max_forgetting)]),
    ]
    return GateDecision(
        rule=rule,
        verdict=min((criterion.verdict for criterion in criteria), key=_GRAVEST.index),
        criteria=criteria,
    )


def _gains(rule: GateRule, suites: Sequence[Mapping[str, Any]]) -> Iterator[Criterion]:
    """The new skill against where the job started from."""
    for suite in suites:
        compared = {comparison["against"]: comparison for comparison in suite["comparisons"]}
        start = compared.get(starting_point(compared))
        if suite["role"] == "skill" and start:
            gain, doubt = _bounds(suite, start, rule.confidence), _doubt(suite, start, rule.confidence)
            yield _criterion(
                "gain",
                suite,
                against=start["against"],
                value=start["difference"]["value"],
                interval=gain,
                limit=rule.min_gain,
                verdict=_verdict(
                    suite, passes=gain.low > rule.min_gain and not doubt, fails=gain.high <= rule.min_gain
                ),
                p_value=start["p_value"],
                besides=doubt if gain.low > rule.min_gain else "",
            )


def _forgettings(rule: GateRule, suites: Sequence[Mapping[str, Any]]) -> Iterator[Criterion]:
    """Everything else against where the job started from, and against the base."""
    for suite in suites:
        for comparison in suite["comparisons"]:
            if suite["role"] != "skill" and comparison["against"] in REFERENCES:
                change = _bounds(suite, comparison, rule.confidence)
                loss = Interval(0.0 - change.high, 0.0 - change.low)  # so that no change is no -0.0
                doubt = _doubt(suite, comparison, rule.confidence)
                beyond = loss.low > rule.max_forgetting
                yield _criterion(
                    "forgetting",
                    suite,
                    against=comparison["against"],
                    value=0.0 - comparison["difference"]["value"],
                    interval=loss,
                    limit=rule.max_forgetting,
                    verdict=_verdict(suite, passes=loss.high <= rule.max_forgetting, fails=beyond and not doubt),
                    p_value=comparison["p_value"],
                    besides=doubt if beyond else "",
                )
                if suite["measure"] == "share_right":
                    yield _lost(rule, suite, comparison, improved=change.low > 0 and not doubt)


def _lost(rule: GateRule, suite: Mapping[str, Any], comparison: Mapping[str, Any], *, improved: bool) -> Criterion:
    """What was right and is not any more."""
    limit, against = rule.max_forgetting, comparison["against"]
    had = next(arm["num_right"] for arm in suite["arms"] if arm["arm"] == against)
    lost = comparison["num_lost"]
    needed = 0 if improved else num_to_show(limit, rule.confidence)
    found = judge_share_lost(
        lost, had, limit, p_value=tail(lost, had, limit), improved=improved, confidence=rule.confidence
    )
    return _criterion(
        "lost",
        suite,
        against=against,
        value=lost / had if had else 0.0,
        interval=wilson(lost, had, rule.confidence),
        n=had,
        limit=limit,
        verdict=_VERDICTS[found],
        besides=f" of {needed} or more" if had < needed else "",
    )


def _since_best(
    rule: GateRule, suites: Sequence[Mapping[str, Any]], lineage: Sequence[Mapping[str, Any]]
) -> Iterator[Criterion]:
    """Earlier skills against the best that a version of the lineage scored."""
    for suite in (one for one in suites if one["role"] == "earlier"):
        scores = {arm["arm"]: _score(arm["score"], rule.confidence) for arm in suite["arms"]}
        past = {
            one["version"]: _score(one["score"], rule.confidence) for one in lineage if one["suite"] == suite["name"]
        }
        fall = since_best(
            past, start=scores[starting_point(scores)], now=scores["candidate"], limit=rule.max_forgetting
        )
        if fall:
            yield _criterion(
                "forgetting",
                suite,
                against=fall.since,
                value=fall.value,
                interval=fall.interval,
                limit=rule.max_forgetting,
                verdict=_verdict(suite, passes=fall.finding == "within", fails=fall.finding == "beyond"),
            )


def _bounds(suite: Mapping[str, Any], comparison: Mapping[str, Any], confidence: float) -> Interval:
    """Of the candidate's score less the other's."""
    if suite["measure"] != "share_right":
        return _stretched(comparison["difference"], confidence)
    return paired(comparison["num_lost"], comparison["num_gained"], suite["n"], confidence)


def _doubt(suite: Mapping[str, Any], comparison: Mapping[str, Any], confidence: float) -> str:
    """What is to be said where the exact test does not find that answers changed; nothing where it does."""
    if suite["measure"] != "share_right" or comparison["p_value"] <= 1 - confidence:
        return ""
    return f"; the exact test doubts it (p {comparison['p_value']:.2g})"


def _score(reported: Mapping[str, float], confidence: float) -> Score:
    return Score(reported["value"], _stretched(reported, confidence))


def _stretched(reported: Mapping[str, float], confidence: float) -> Interval:
    """A reported interval at another confidence, as of a normal estimate."""
    value, by = reported["value"], deviations(confidence) / deviations(CONFIDENCE)
    return Interval(value - by * (value - reported["low"]), value + by * (reported["high"] - value))


def _verdict(suite: Mapping[str, Any], *, passes: bool, fails: bool) -> GateVerdict:
    if suite["measure"] != "share_right" and suite["n"] < MIN_LIKELIHOODS:
        return "insufficient_evidence"
    if passes:
        return "pass"
    return "fail" if fails else "insufficient_evidence"


def _criterion(
    question: Question,
    suite: Mapping[str, Any],
    *,
    against: str,
    value: float,
    interval: Interval,
    limit: float,
    verdict: GateVerdict,
    n: int | None = None,
    p_value: float | None = None,
    besides: str = "",
) -> Criterion:
    """A criterion over all of a suite's questions, or over ``n`` that were right before."""
    other = f"the {against}" if against in REFERENCES else against
    asked = f"against {other} on {suite['n']} questions" if n is None else f"of {n} that {other} had right"
    needed = f"{'more than' if question == 'gain' else 'at most'} {limit:g}{besides}"
    return Criterion(
        question=question,
        suite=suite["name"],
        against=against,
        n=suite["n"] if n is None else n,
        value=value,
        low=interval.low,
        high=interval.high,
        p_value=p_value,
        limit=limit,
        verdict=verdict,
        sentence=f"{suite['name']}: {question} {value:+z.3f} ({interval.low:+z.3f} to {interval.high:+z.3f}) {asked}; "
        f"needed: {needed}.",
    )


def _unjudged(rule: GateRule, missing: Mapping[str, Any]) -> Criterion:
    question: Question = "gain" if missing["role"] == "skill" else "forgetting"
    limit = rule.min_gain if question == "gain" else rule.max_forgetting
    return _in_doubt(question, limit, missing["sentence"], suite=missing["suite"])


def _unasked(question: Question, limit: float) -> Criterion:
    missing = "questions held out of what was taught" if question == "gain" else "suite of what was known before"
    return _in_doubt(question, limit, f"No {question} could be measured: the report has no {missing}.")


def _in_doubt(question: Question, limit: float, sentence: str, *, suite: str | None = None) -> Criterion:
    return Criterion(
        question=question,
        suite=suite,
        against=None,
        n=None,
        value=None,
        low=None,
        high=None,
        limit=limit,
        verdict="insufficient_evidence",
        sentence=sentence,
    )
