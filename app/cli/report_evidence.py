"""What the findings of a report rest on, at a terminal: kinds, lengths, answers, behaviour, drift, cost, method."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from app.cli.tables import columns, titled, words

GROUPS = ("all", "rehearsed kinds", "other kinds")
"""Of what was kept; the rest are single kinds."""
TRAINED = {"candidate": "", "supervised": " by plain fine-tuning"}
"""Arms that a job trained, and how that is said."""
BLOCKS = " ▁▂▃▄▅▆▇█"
NUM_BLOCKS = 24
NUM_FLIPS = 3
"""Lost answers shown of a suite, and gained ones; the page has more."""


def evidence(report: dict[str, Any]) -> Iterator[RenderableType]:
    """What follows the findings."""
    yield from _by_kind(report["kept"])
    yield from titled("Length of answers, in tokens", _lengths(report["behaviour"]))
    yield from _flips(report["suites"])
    if report.get("supervised"):
        yield from _lost_by_twin(report["suites"], report["supervised"]["flips"])
    yield from (
        Text(f"! {error['suite']} {error['item']} could not be judged: {error['message']}", style="yellow")
        for error in report["errors"]
    )
    yield from titled("Behaviour", _behaviour(report["behaviour"]))
    yield from titled("Drift along the base's answers, nats per token", _drift(report["drift"]))
    yield from _weights(report.get("weights", []))
    yield from _cost(report["cost"], has_seeds=bool(report.get("replicates")))
    yield from caveats(report)
    yield from _method(report["method"])


def caveats(report: dict[str, Any]) -> Iterator[Text]:
    """What not to conclude."""
    yield Text()
    yield from (Text(f"! {caveat}", style="yellow") for caveat in report["caveats"])


def _by_kind(rows: list[dict[str, Any]]) -> Iterator[Text]:
    """A paragraph for each suite and reference; rehearsed kinds have a star."""
    paragraphs: dict[str, list[str]] = {}
    for row in rows:
        if row["group"] not in GROUPS:
            kind = f"{words(row['group'])}{'*' if row['num_rehearsed_kinds'] else ''}"
            paragraph = paragraphs.setdefault(f"{row['suite']}, right for the {row['reference']}", [])
            paragraph.append(f"{kind} {row['num_kept']}/{row['num_had']}")
    yield from (Text(f"{name}: {', '.join(kinds)}; * rehearsed", style="dim") for name, kinds in paragraphs.items())


def _lengths(rows: list[dict[str, Any]]) -> Table:
    """Histograms of a suite on one scale."""
    table = columns("suite", "arm", "from 0", ">median", ">longest")
    for suite, arms in _by_suite(rows).items():
        longest = max(row["lengths"][-1] for row in arms)
        for index, row in enumerate(arms):
            median = row["lengths"][len(row["lengths"]) // 2]
            bars = _histogram(row["lengths"], longest)
            table.add_row("" if index else escape(suite), row["arm"], bars, str(median), str(row["lengths"][-1]))
    return table


def _histogram(lengths: list[int], longest: int) -> str:
    width = longest // NUM_BLOCKS + 1
    counts = [0] * (longest // width + 1)
    for length in lengths:
        counts[length // width] += 1
    return "".join(BLOCKS[-(-count * (len(BLOCKS) - 1) // max(counts))] for count in counts)


def _flips(suites: list[dict[str, Any]]) -> Iterator[RenderableType]:
    for suite in suites:
        lost, gained = ([one for one in suite["flips"] if one["change"] == change] for change in ("lost", "gained"))
        if suite["flips"]:
            counts = (
                f"{one['num_lost']} lost, {one['num_gained']} gained since the {one['against']}"
                for one in _counted(suite, "candidate")
            )
            yield _heading(f"Answers that changed in {suite['name']}", "; ".join(counts))
        yield from _some(lost)
        yield from _some(gained)


def _lost_by_twin(suites: list[dict[str, Any]], flips: dict[str, list[dict[str, Any]]]) -> Iterator[RenderableType]:
    for suite in suites:
        if lost := [one for one in flips.get(suite["name"], []) if one["change"] == "lost"]:
            counts = (f"{one['num_lost']} since the {one['against']}" for one in _counted(suite, "supervised"))
            yield _heading(f"Answers that plain fine-tuning lost in {suite['name']}", ", ".join(counts))
            yield from _some(lost)


def _heading(name: str, counts: str) -> Text:
    return Text(f"\n{name}: {counts}" if counts else f"\n{name}", style="bold")


def _counted(suite: dict[str, Any], arm: str) -> list[dict[str, Any]]:
    """An arm's losses and gains since what was there before, the starting point first; old reports count none."""
    return [one for one in reversed(suite["changes"]) if one["arm"] == arm and one.get("num_lost") is not None]


def _some(flips: list[dict[str, Any]]) -> Iterator[Text]:
    for flip in islice(flips, NUM_FLIPS):
        yield Text(f"  {flip['change']}: {_line(flip['prompt'])}")
        yield Text(f"    expected {_line(' / '.join(flip['expected']))}", style="dim")
        yield from (Text(f"    {arm} {_line(answer)}", style="dim") for arm, answer in flip["answers"].items())


def _behaviour(rows: list[dict[str, Any]]) -> Table:
    table = columns(
        "suite", "arm", ">mean tokens", ">cut off", ">distinct", ">talk of an example", ">copied", ">entropy"
    )
    for suite, arms in _by_suite(rows).items():
        for index, row in enumerate(arms):
            shares = ("" if row[name] is None else f"{row[name]:.0%}" for name in ("artefacts", "copied"))
            looks = (f"{row['mean_tokens']:.1f}", f"{row['truncated']:.0%}", f"{row['distinct_4']:.2f}", *shares)
            entropy = row.get("entropy")
            table.add_row(
                "" if index else escape(suite), row["arm"], *looks, "" if entropy is None else f"{entropy:.2f}"
            )
    return table


def _drift(rows: list[dict[str, Any]]) -> Table:
    table = columns("arm", "prompts", ">n", ">KL(base || arm)", ">KL(arm || base)", ">same of top 10")
    for arm in TRAINED:
        for row in rows:
            if row.get(f"base_to_{arm}") is not None:
                moved = (f"{row[f'base_to_{arm}']:.3f}", f"{row[f'{arm}_to_base']:.3f}")
                overlap = f"{row[f'{arm}_overlap']:.0%}" if f"{arm}_overlap" in row else ""
                table.add_row(arm, row["prompts"], str(row["n"]), *moved, overlap)
    return table


def _weights(rows: list[dict[str, Any]]) -> Iterator[Text]:
    for arm, whose in TRAINED.items():
        if shares := ", ".join(f"{row['module']} {row['share']:.2%}" for row in rows if row["arm"] == arm):
            yield Text(f"Added to the base's weights{whose}, relative to their norm: {shares}.")


def _cost(cost: dict[str, Any], *, has_seeds: bool) -> Iterator[Text]:
    phases = ", ".join(f"{words(name)} {seconds:.1f} s" for name, seconds in cost["seconds"].items())
    yield Text()
    yield Text("Cost", style="bold")
    tokens = f"{cost['trained_tokens']} tokens trained on, {cost['generated_tokens']} generated"
    peak = cost.get("peak_memory_bytes")
    memory = f"; {peak / 1e9:.1f} GB of memory at the peak" if peak else ""
    yield Text(f"{phases}; {tokens}{' without the other seeds' if has_seeds else ''}{memory}.")


def _method(method: dict[str, Any]) -> Iterator[Text]:
    scorer = f"Scorer {method['scorer']}: {method['scorer_reason']}." if method["scorer"] else ""
    if said := " ".join(filter(None, (scorer, method["split"]))):
        yield Text(said, style="dim")
    hint = "More of the answers that changed, how all was measured and the provenance: --open, --html FILE or --json."
    yield Text(hint, style="dim")


def _by_suite(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["suite"], []).append(row)
    return found


def _line(text: str, longest: int = 90) -> str:
    text = " ".join(text.split()) or "(nothing)"
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
