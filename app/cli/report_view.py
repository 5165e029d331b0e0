"""An evaluation report as a person reads it at a terminal. Shows what was measured; computes nothing."""

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

ARMS = ("base", "parent", "candidate", "ceiling")
QUESTIONS = ("skill", "retention", "ceiling")
VERDICT_STYLES = {"pass": "green", "insufficient_evidence": "yellow", "fail": "red"}
STYLES = {"ship": "green", "look_closer": "yellow", "do_not_ship": "red"}


def show_report(report: dict[str, Any], gate: dict[str, Any] | None, console: Console) -> None:
    """Print the summary, what the gate says, every suite by arm, and what was kept of what was known."""
    console.print(render(report, gate))


def render(report: dict[str, Any], gate: dict[str, Any] | None) -> RenderableType:
    """The report as something that rich can print."""
    summary = report["summary"]
    parts: list[RenderableType] = [
        Text(report["title"], style="bold"),
        Text(summary["headline"], style=STYLES[summary["recommendation"]]),
        *(Text(f"  {line}") for key in QUESTIONS for line in summary[key]["sentence"].splitlines()),
        *(_gate(gate) if gate else ()),
        Text(),
        _scores(report["suites"]),
    ]
    if (kept := _kept(report["kept"])).row_count:
        parts += [Text(), kept]
    parts += [Text(f"! {caveat}", style="yellow") for caveat in report["caveats"]]
    return Group(*parts)


def _gate(gate: dict[str, Any]) -> list[Text]:
    head = Text(f"Gate: {_words(gate['verdict'])}", style=VERDICT_STYLES[gate["verdict"]])
    return [head, *(Text(f"  {_words(one['verdict'])}: {one['sentence']}") for one in gate["criteria"])]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _scores(suites: list[dict[str, Any]]) -> Table:
    shown = [arm for arm in ARMS if any(arm == score["arm"] for suite in suites for score in suite["arms"])]
    table = Table("suite", "n", *shown, title="Scores, with 95 % intervals", title_justify="left", box=None)
    for suite in suites:
        by_arm = {score["arm"]: score for score in suite["arms"]}
        cells = (_score(suite["measure"], by_arm[arm]["score"]) if arm in by_arm else "" for arm in shown)
        table.add_row(escape(suite["name"]), str(suite["n"]), *cells)
    return table


def _kept(rows: list[dict[str, Any]]) -> Table:
    columns = ("suite", "of what", "had", "kept", "share")
    table = Table(*columns, title="What was kept", title_justify="left", box=None)
    for row in rows:
        if row["share"] is not None and row["group"] in {"all", "rehearsed kinds", "other kinds"}:
            of_what = f"{row['reference']}, {row['group']}"
            share = _score("share_right", row["share"])
            table.add_row(escape(row["suite"]), of_what, str(row["num_had"]), str(row["num_kept"]), share)
    return table


def _score(measure: str, bounds: dict[str, float]) -> str:
    value, low, high = (bounds[name] for name in ("value", "low", "high"))
    if measure == "share_right":
        return f"{value:.0%} [dim]({low:.0%} to {high:.0%})[/]"
    return f"{value:.2f} [dim]({low:.2f} to {high:.2f})[/]"
