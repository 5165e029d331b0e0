"""The report as one self-contained page: no script, no network, readable on a telephone and in the dark."""

from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from worker.evals.schema import Bounds, Report, SuiteReport

VERDICTS: Final = {
    "better": "better",
    "worse": "worse",
    "same": "same",
    "insufficient_evidence": "not enough evidence",
}
RECOMMENDATIONS: Final = {"ship": "Ship", "look_closer": "Look closer", "do_not_ship": "Do not ship"}


def render_html(report: Report) -> str:
    """The page. All that comes from data is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "interval": _interval,
        "signed": _signed,
        "duration": _duration,
        "position": _position,
        "words": lambda name: name.replace("_", " "),
    }
    page = environment.get_template("report.html.jinja")
    return page.render(report=report, verdicts=VERDICTS, recommendations=RECOMMENDATIONS)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%"


def _interval(bounds: Bounds, suite: SuiteReport | None = None) -> str:
    """Low to high; of shares in per cent, of likelihoods in nats."""
    if suite is not None and suite.measure == "negative_nll":
        return f"{bounds.low:.2f} to {bounds.high:.2f}"
    return f"{100 * bounds.low:.0f} to {100 * bounds.high:.0f}\u00a0%"


def _signed(value: float, suite: SuiteReport) -> str:
    return f"{value:+.2f}" if suite.measure == "negative_nll" else f"{100 * value:+.0f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def _position(value: float, suite: SuiteReport) -> str:
    """Where a score lies on its suite's axis, 0 to 100."""
    low, high = 0.0, 1.0
    if suite.measure == "negative_nll":
        low, high = min(arm.score.low for arm in suite.arms), 0.0
    return f"{100 * (value - low) / (high - low or 1.0):.2f}"
