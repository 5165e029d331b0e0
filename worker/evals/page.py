"""The report as one self-contained page: no script, no network, readable on a telephone and in the dark."""

from pathlib import Path
from typing import Any, Final, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.domain.arms import TRAINED
from app.domain.gate import GateDecision
from worker.evals.charts import heat_map, lengths, phases
from worker.evals.kept import MAX_FLIPS
from worker.evals.run import ArmName
from worker.evals.schema import Bounds, Measure, Range, Report, SuiteReport
from worker.evals.trade_off import trade_off

SMALLEST_P: Final = 0.001
GLOSSARY: Final = {
    "base": "the foundation model",
    "parent": "the version that this one was trained from",
    "candidate": "this version",
    "ceiling": "the teacher, with each question's own demonstration in its context",
    "supervised": "plain fine-tuning on the same data",
}
PARTIAL_SCORES: Final = {
    "field_f1": ("F1", "over the fields of JSON answers"),
    "nll": ("nll", "mean negative log-likelihood of the demonstration, nats per token; lower is better"),
}
"""What stands below the score of an arm whose answers are right or wrong."""


def render_html(report: Report, gate: GateDecision | None = None) -> str:
    """The page, with what the job's gate says where it has one. All that comes from data is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "score": _score,
        "span": _span,
        "signed": _signed,
        "signed_span": _signed_span,
        "points": _points,
        "scaled": _scaled,
        "p_value": _p_value,
        "duration": _duration,
        "counted": _counted,
        "words": lambda name: name.replace("_", " "),
    }
    return environment.get_template("report.html.jinja").render(
        report=report,
        gate=gate,
        glossary=_glossary(report),
        max_flips=MAX_FLIPS,
        trained=TRAINED,
        trade_off=trade_off(report),
        heat_map=heat_map(report),
        lengths=list(lengths(report)),
        phases=phases(report.cost.seconds),
        provenance=_provenance(report.provenance),
    )


def _glossary(report: Report) -> dict[str, str]:
    """What the names in the table of scores mean, in the order in which they come."""
    arms = [score for suite in report.suites for score in suite.arms]
    judged = [score for suite in report.suites if suite.measure == "share_right" for score in suite.arms]
    known = [PARTIAL_SCORES[name] for name in PARTIAL_SCORES if any(getattr(one, name) is not None for one in judged)]
    of_arms = GLOSSARY | ({"parent": "the version that it is compared with"} if "against" in report.provenance else {})
    return {arm: of_arms[arm] for arm in dict.fromkeys(score.arm for score in arms)} | dict(known)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%"


def _score(value: float, measure: Measure) -> str:
    """Of shares in per cent, of likelihoods in nats."""
    return _percent(value) if measure == "share_right" else _minus(f"{value:.2f}")


def _span(bounds: Bounds | Range, measure: Measure) -> str:
    if measure == "share_right":
        return _minus(f"{100 * bounds.low:.0f} to {100 * bounds.high:.0f}")
    return _minus(f"{bounds.low:.2f} to {bounds.high:.2f}")


def _signed(value: float, measure: Measure) -> str:
    """A difference: of shares in points."""
    return _minus(f"{100 * value:+.0f}" if measure == "share_right" else f"{value:+.2f}")


def _signed_span(bounds: Bounds, measure: Measure) -> str:
    return f"{_signed(bounds.low, measure)} to {_signed(bounds.high, measure)}"


def _points(tick: float, measure: Measure) -> str:
    """A number on an axis."""
    return _minus(f"{100 * tick:.0f}" if measure == "share_right" else f"{tick:.3g}")


def _minus(number: str) -> str:
    """With a minus as wide as a plus, and none before zero."""
    return " to ".join(
        part.lstrip("+-") if float(part) == 0 else part.replace("-", "\u2212") for part in number.split(" to ")
    )


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= SMALLEST_P else f"<\u00a0{SMALLEST_P}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}\u00a0min\u00a0{rest:02d}\u00a0s" if minutes else f"{seconds:.1f}\u00a0s"


def _counted(suite: SuiteReport, arm: ArmName, change: Literal["lost", "gained"]) -> str:
    """How many answers an arm lost, or gained, since what was there before, the starting point first."""
    counts = {one.against: getattr(one, f"num_{change}") for one in reversed(suite.changes) if one.arm == arm}
    return ", ".join(f"{count} {change} since the {against}" for against, count in counts.items() if count)


def _scaled(bounds: Bounds, suite: SuiteReport) -> tuple[float, float, float]:
    """Where a score and its interval lie on their suite's axis, 0 to 100: low, value, high."""
    low, high = 0.0, 1.0
    if suite.measure == "negative_nll":
        low, high = min(arm.score.low for arm in suite.arms), 0.0
    at = [100 * (value - low) / (high - low or 1.0) for value in (bounds.low, bounds.value, bounds.high)]
    return at[0], at[1], at[2]


def _provenance(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is shown at once, and what is shown by group."""
    grouped = {name: value for name, value in facts.items() if isinstance(value, dict)}
    plain = {name: value for name, value in facts.items() if name not in grouped}
    return {"plain": plain, "grouped": {name: value for name, value in grouped.items() if value}}
