"""An evaluation report as a person reads it at a terminal: what the page says, in its order. Computes no score."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from app.cli.lineage_view import Shades
from app.cli.report_evidence import GROUPS, caveats, evidence
from app.cli.tables import columns, titled, words
from app.domain.arms import starting_point
from app.domain.gate import GateRule

QUESTIONS = ("skill", "retention", "ceiling")
GATE_STYLES = {"pass": "green", "insufficient_evidence": "yellow", "fail": "red"}
STYLES = {"ship": "green", "look_closer": "yellow", "do_not_ship": "red"}
PARTIAL_SCORES = (
    "F1: over the fields of JSON answers; nll: mean negative log-likelihood of the demonstration, nats per token, "
    "lower is better."
)
VERDICT_STYLES = {"better": "green", "same": "green", "worse": "red", "insufficient_evidence": "yellow"}


def show_report(report: dict[str, Any], gate: dict[str, Any] | None, console: Console) -> None:
    """Print all of it."""
    console.print(Group(*_findings(report, gate), *evidence(report)))


def show_findings(report: dict[str, Any], gate: dict[str, Any] | None, console: Console) -> None:
    """Print what was found, without the evidence behind it."""
    console.print(Group(*_findings(report, gate), *caveats(report)))


def _findings(report: dict[str, Any], gate: dict[str, Any] | None) -> Iterator[RenderableType]:
    summary = report["summary"]
    yield Text(report["title"], style="bold")
    yield Text(summary["headline"], style=f"bold {STYLES[summary['recommendation']]}")
    yield from _gate(gate) if gate else ()
    yield from (Text(f"  {line}") for key in QUESTIONS for line in summary[key]["sentence"].splitlines())
    if report.get("supervised"):
        yield Text(f"  {report['supervised']['sentence']}")
    yield from titled("Gain against forgetting, with 95 % intervals", _trade_off(report["suites"]))
    yield from titled("Scores, with 95 % intervals", _scores(report["suites"]))
    if any(_partial_scores(suite, arm) for suite in report["suites"] for arm in suite["arms"]):
        yield Text(PARTIAL_SCORES, style="dim")
    yield from titled("The lineage: score on each skill, with 95 % interval", _lineage(report))
    yield from titled("What was kept", _kept(report["kept"]))
    if report.get("supervised"):
        yield from titled("What plain fine-tuning kept", _kept(report["supervised"]["kept"]))
    if report.get("replicates"):
        yield from titled("Other seeds; the first one is this version", _seeds(report["replicates"]))


def _gate(gate: dict[str, Any]) -> list[Text]:
    head = Text(f"Gate: {words(gate['verdict'])}", style=GATE_STYLES[gate["verdict"]])
    criteria = (Text(f"  {words(one['verdict'])}: {one['sentence']}") for one in gate["criteria"])
    return [head, *criteria, Text(f"  {GateRule.model_validate(gate['rule']).sentence}")]


def _trade_off(suites: list[dict[str, Any]]) -> Table:
    """What each trained arm gained over the starting point, and what it lost since each arm before it."""
    table = columns("arm", "", ">", "")
    arms = dict.fromkeys(change["arm"] for suite in suites for change in suite["changes"])
    for arm in arms:
        for suite in suites:
            of_arm = [change for change in suite["changes"] if change["arm"] == arm]
            start = starting_point({change["against"] for change in of_arm})
            for change in of_arm:
                if suite["role"] != "skill" or change["against"] == start:
                    table.add_row(arm, *_change(suite, change))
    return table


def _change(suite: dict[str, Any], change: dict[str, Any]) -> tuple[str, str, str]:
    bounds, name = change["difference"], escape(suite["name"])
    if suite["role"] == "skill":
        return f"gained on {name} over {change['against']}", *_difference(suite["measure"], bounds)
    lost = {"value": -bounds["value"], "low": -bounds["high"], "high": -bounds["low"]}
    return f"lost on {name} since {change['against']}", *_difference(suite["measure"], lost, sign="")


def _scores(suites: list[dict[str, Any]]) -> Table:
    table = columns("suite", ">n", "arm", ">score", "", ">candidate less arm", "", "")
    for whole in (table.columns[2], table.columns[-1]):  # where there is little room, suites and intervals are folded
        whole.no_wrap = True
    for suite in suites:
        compared = {one["against"]: one for one in suite["comparisons"]}
        for index, arm in enumerate(suite["arms"]):
            named = ("", "") if index else (escape(suite["name"]), str(suite["n"]))
            table.add_row(*named, arm["arm"], *_score(suite["measure"], arm["score"]), *_compared(suite, compared, arm))
            if partial := _partial_scores(suite, arm):
                table.add_row("", "", "", *partial, "", "", "")
    return table


def _partial_scores(suite: dict[str, Any], arm: dict[str, Any]) -> tuple[str, str] | None:
    """What else is known of answers that are right or wrong."""
    known = {"F1": arm["field_f1"], "nll": arm["nll"]}
    if suite["measure"] != "share_right" or set(known.values()) == {None}:
        return None
    f1, nll = ("" if value is None else f"[dim]{name} {value:.2f}[/]" for name, value in known.items())
    return f1, nll


def _compared(suite: dict[str, Any], compared: dict[str, Any], arm: dict[str, Any]) -> tuple[str, ...]:
    one = compared.get(arm["arm"])
    if one is None:
        return ("", "", "")
    style = "red" if (one["verdict"], suite["role"]) == ("same", "skill") else VERDICT_STYLES[one["verdict"]]
    verdict = one["verdict"].replace("_", "\n")  # two words on one line would take the room of a name
    return (*_difference(suite["measure"], one["difference"]), f"[{style}]{verdict}[/]")


def _lineage(report: dict[str, Any]) -> Table:
    """Rows and columns in the order of the cells, which is that of time."""
    measures = {suite["name"]: suite["measure"] for suite in report["suites"]}
    cells = {(one["version"], one["suite"]): one["score"] for one in report["lineage"]}
    skills = [suite["name"] for suite in reversed(report["suites"]) if suite["role"] == "earlier"]
    skills += [suite["name"] for suite in report["suites"] if suite["role"] == "skill"]
    table = Table("after", *map(escape, skills), box=None, pad_edge=False, header_style="dim")
    versions = list(dict.fromkeys(version for version, _ in cells))
    scores = [[_cell(cells.get((version, skill))) for version in versions] for skill in skills]
    shades = [Shades(measures[skill], column) for skill, column in zip(skills, scores, strict=True)]
    for version, *row in zip(versions, *scores, strict=True):
        table.add_row(escape(version), *(shade.cell(cell) for shade, cell in zip(shades, row, strict=True)))
    return table


def _cell(bounds: dict[str, float] | None) -> dict[str, float] | None:
    return bounds and {"score": bounds["value"], "low": bounds["low"], "high": bounds["high"]}


def _kept(rows: list[dict[str, Any]]) -> Table:
    table = columns("suite", "right for", "kinds", ">kept", ">share", "")
    for row in rows:
        if row["group"] in GROUPS and row["share"] is not None:
            kept = f"{row['num_kept']}/{row['num_had']}"
            share = _score("share_right", row["share"])
            table.add_row(escape(row["suite"]), row["reference"], row["group"], kept, *share)
    return table


def _seeds(replicates: dict[str, Any]) -> Table:
    """Each seed's scores and what it kept, a block an arm and suite, and over all of them mean and range."""
    table = columns("suite", "arm", ">seed", ">n", ">score", "", ">kept", ">share", "", "verdict")
    for spread in replicates["spread"]:
        name, arm, measure = spread["suite"], spread["arm"], spread["measure"]
        for index, run in enumerate(replicates["runs"]):
            named = ("", "") if index else (escape(name), arm)
            if run["recommendation"] is None:
                table.add_row(*named, str(run["seed"]), *[""] * 6, "training diverged")
            for row in run["scores"]:
                if (row["suite"], row["arm"]) == (name, arm):
                    numbers = (str(row["n"]), *_score(measure, row["score"]), *_share(row))
                    table.add_row(*named, str(run["seed"]), *numbers, words(run["recommendation"]))
        kept = _score("share_right", _mean(spread["kept"])) if spread["kept"] else ("", "")
        table.add_row("", "mean, range", "", "", *_score(measure, _mean(spread["score"])), "", *kept, "")
    return table


def _mean(over_seeds: dict[str, float]) -> dict[str, float]:
    return over_seeds | {"value": over_seeds["mean"]}


def _share(row: dict[str, Any]) -> tuple[str, str, str]:
    """What one seed kept of what its starting point had right, where that says anything."""
    kept = row["kept"]
    if not (kept and kept["share"]):
        return "", "", ""
    return f"{kept['num_kept']}/{kept['num_had']}", *_score("share_right", kept["share"])


def _score(measure: str, bounds: dict[str, float]) -> tuple[str, str]:
    """A value, and its interval."""
    value, low, high = (bounds[name] for name in ("value", "low", "high"))
    if measure == "share_right":
        return f"{value:.0%}", f"[dim]{100 * low:.0f} to {100 * high:.0f}[/]"
    return f"{value:.2f}", f"[dim]{low:.2f} to {high:.2f}[/]"


def _difference(measure: str, bounds: dict[str, float], *, sign: str = "+") -> tuple[str, str]:
    """In points, or in nats."""
    factor, digits = (100, 0) if measure == "share_right" else (1, 2)
    # Adding zero makes a negative one positive, which would be shown as -0.
    value, low, high = (round(factor * bounds[name], digits) + 0.0 for name in ("value", "low", "high"))
    return f"{value:{sign}.{digits}f}", f"[dim]{low:{sign}.{digits}f} to {high:{sign}.{digits}f}[/]"
