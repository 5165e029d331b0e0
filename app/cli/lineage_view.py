"""A lineage as a person reads it at a terminal: scores as a heat map, and what they come to. Computes no score."""

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

FIGURES = {
    "average_accuracy": "mean score over all skills",
    "backward_transfer": "earlier skills, now less when taught",
    "forgetting": "earlier skills, best so far less now",
    "forward_transfer": "later skills, just before teaching less the base",
}


def show_lineage(lineage: dict[str, Any], console: Console) -> None:
    """Print the matrix and the figures."""
    console.print(render(lineage))


def render(lineage: dict[str, Any]) -> RenderableType:
    """The lineage as something that rich can print."""
    return Group(
        _matrix(lineage), Text(), *_figures(lineage["figures"], {suite["measure"] for suite in lineage["suites"]})
    )


def _matrix(lineage: dict[str, Any]) -> Table:
    suites = lineage["suites"]
    columns = [f"{escape(_name(suite))}\n[dim]n={suite['n']}[/]" for suite in suites]
    table = Table(
        "after",
        *columns,
        "starts from",
        box=None,
        title="Score on each skill, with 95 % interval",
        title_justify="left",
    )
    rows: list[tuple[str, str, list[Any]]] = [("base", "", lineage["base"])]
    rows += [
        (_name(version), version["parent"] or "base", scores)
        for version, scores in zip(lineage["versions"], lineage["scores"], strict=True)
    ]
    shades = [Shades(suite["measure"], [scores[index] for *_, scores in rows]) for index, suite in enumerate(suites)]
    for name, parent, scores in rows:
        cells = [shade.cell(score) for shade, score in zip(shades, scores, strict=True)]
        table.add_row(escape(name), *cells, escape(parent))
    return table


def _figures(figures: dict[str, Any], measures: set[str]) -> list[Text]:
    if figures["measure"] is None:
        if figures["of"] is None:
            return [Text("No figures: every version of this adapter is deleted.")]
        return [Text(f"No figures: nothing was held out of what {figures['of']} and its ancestors were taught.")]
    shown = [(name, meaning, figures[name]) for name, meaning in FIGURES.items()]
    lines = [
        f"  {name.replace('_', ' '):18} {'not measured' if value is None else _signed(figures['measure'], value):>12}"
        f"   {meaning}"
        for name, meaning, value in shown
    ]
    which = ", over skills whose answers are right or wrong" if len(measures) > 1 else ""
    return [Text(f"Up to {figures['of']}{which}", style="bold"), *map(Text, lines)]


class Shades:
    """Colours for one suite's scores, from the worst possible (red) to the best (green).

    Args:
        measure: Shares lie between 0 and 1; likelihoods between the lowest and the highest of the column.
        cells: The column.
    """

    def __init__(self, measure: str, cells: list[dict[str, float] | None]) -> None:
        self._measure = measure
        scores = [0.0, 1.0] if measure == "share_right" else [cell["score"] for cell in cells if cell]
        self._low, self._high = min(scores, default=0.0), max(scores, default=1.0)

    def cell(self, cell: dict[str, float] | None) -> Text:
        """A score on its colour; a dot where nothing was measured."""
        if cell is None:
            return Text("·", style="dim")
        share = (cell["score"] - self._low) / (self._high - self._low or 1.0)
        score, low, high = (_plain(self._measure, cell[name]) for name in ("score", "low", "high"))
        red, green = (round(170 * min(1.0, 2 * part)) for part in (1 - share, share))
        return Text(f" {score:>5} ({low} to {high}) ", style=f"white on rgb({red},{green},40)")


def _name(item: dict[str, Any]) -> str:
    return f"{item['adapter']}:{item['version']}"


def _plain(measure: str, value: float) -> str:
    return f"{100 * value:.0f}%" if measure == "share_right" else f"{value:.2f}"


def _signed(measure: str, value: float) -> str:
    return f"{100 * value:+.1f} points" if measure == "share_right" else f"{value:+.2f} nats"
