"""Whether a version may be used, decided from the numbers of its report by the rule that its job came with.

Intervals are the report's, at the confidence that the rule asks for: of counted answers computed again, of likelihoods
stretched from 95 %. Of answers they exclude zero only where the exact test does. Each criterion has to pass, so no
correction for their number is needed for that; ``fail`` is said of each by itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.domain.ids import ALIAS_PATTERN
from app.domain.proportions import CONFIDENCE, MIN_LIKELIHOODS, Interval, deviations, paired

GateVerdict = Literal["pass", "fail", "insufficient_evidence"]
Question = Literal["gain", "forgetting"]

_STARTING_POINTS: Final = ("parent", "base")
_GRAVEST: Final[tuple[GateVerdict, ...]] = ("fail", "insufficient_evidence", "pass")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class GateRule(_Frozen):
    """What a version has to show. Limits are shares of questions, or nats per token where texts are not judged."""

    min_gain: float = Field(
        0.0, ge=0, le=10, description="The new skill's score must exceed the starting point's by more than this."
    )
    max_forgetting: float = Field(
        0.1, gt=0, le=10, description="No other suite may score lower than before, or than the base, by more than this."
    )
    confidence: float = Field(0.95, ge=0.5, le=0.999, description="Of the intervals that must lie within the limits.")
    on_pass: str | None = Field(
        None, pattern=f"^{ALIAS_PATTERN}$", description="Alias of the adapter to point at the version if it passes."
    )

    @property
    def sentence(self) -> str:
        """What it asks for, and what a pass does."""
        asked = f"The skill has to gain more than {self.min_gain:g}, nothing else may lose more than "
        asked += f"{self.max_forgetting:g}, at {100 * self.confidence:g} % confidence."
        return f"{asked} A pass points {self.on_pass} at the version." if self.on_pass else asked


class Criterion(_Frozen):
    """One comparison against one limit."""

    question: Question
    suite: str | None = Field(description="Null where the report has nothing to ask.")
    against: str | None
    n: int | None
    value: float | None
    low: float | None
    high: float | None
    limit: float
    verdict: GateVerdict
    sentence: str


class GateDecision(_Frozen):
    """The verdict and every number that it rests on."""

    rule: GateRule
    verdict: GateVerdict
    criteria: list[Criterion]


def decide(
    rule: GateRule, suites: Sequence[Mapping[str, Any]], unjudged: Sequence[Mapping[str, Any]] = ()
) -> GateDecision:
    """Hold a report's suites against a rule.

    Args:
        rule: Of the job.
        suites: Of its report.
        unjudged: What the report says could not be judged as it was asked for: never a pass.
    """
    doubts = [_unjudged(rule, one) for one in unjudged]
    gains = [*_gains(rule, suites), *(one for one in doubts if one.question == "gain")]
    forgettings = [*_forgettings(rule, suites), *(one for one in doubts if one.question == "forgetting")]
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
        starts = [compared[arm] for arm in _STARTING_POINTS if arm in compared]
        if suite["role"] == "skill" and starts:
            low, high = _bounds(suite, starts[0], rule.confidence)
            verdict = _verdict(suite, passes=low > rule.min_gain, fails=high <= rule.min_gain)
            value = starts[0]["difference"]["value"]
            yield _criterion(
                "gain",
                suite=suite,
                comparison=starts[0],
                bounds=(value, low, high),
                limit=rule.min_gain,
                verdict=verdict,
            )


def _forgettings(rule: GateRule, suites: Sequence[Mapping[str, Any]]) -> Iterator[Criterion]:
    """Everything else against where the job started from, and against the base."""
    for suite in suites:
        for comparison in suite["comparisons"]:
            if suite["role"] != "skill" and comparison["against"] in _STARTING_POINTS:
                low, high = _bounds(suite, comparison, rule.confidence)
                verdict = _verdict(suite, passes=-low <= rule.max_forgetting, fails=-high > rule.max_forgetting)
                yield _criterion(
                    "forgetting",
                    suite=suite,
                    comparison=comparison,
                    bounds=(-comparison["difference"]["value"], -high, -low),
                    limit=rule.max_forgetting,
                    verdict=verdict,
                )


def _bounds(suite: Mapping[str, Any], comparison: Mapping[str, Any], confidence: float) -> tuple[float, float]:
    """An interval of the candidate's score less the other's."""
    if suite["measure"] != "share_right":
        interval = _stretched(comparison["difference"], confidence)
        return interval.low, interval.high
    interval = paired(comparison["num_lost"], comparison["num_gained"], suite["n"], confidence)
    if comparison["p_value"] > 1 - confidence:
        return min(interval.low, 0.0), max(interval.high, 0.0)
    return interval.low, interval.high


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
    *,
    suite: Mapping[str, Any],
    comparison: Mapping[str, Any],
    bounds: tuple[float, float, float],
    limit: float,
    verdict: GateVerdict,
) -> Criterion:
    value, low, high = bounds
    needed = f"more than {limit:g}" if question == "gain" else f"at most {limit:g}"
    sentence = (
        f"{suite['name']}: {question} {value:+.3f} ({low:+.3f} to {high:+.3f}) against the {comparison['against']} on "
        f"{suite['n']} questions; needed: {needed}."
    )
    return Criterion(
        question=question,
        suite=suite["name"],
        against=comparison["against"],
        n=suite["n"],
        value=value,
        low=low,
        high=high,
        limit=limit,
        verdict=verdict,
        sentence=sentence,
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
