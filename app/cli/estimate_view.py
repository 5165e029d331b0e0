"""What a job would take, for a terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from app.cli.output import print_json, print_table

if TYPE_CHECKING:
    from openai import OpenAI


def show_estimate(client: "OpenAI", request: Mapping[str, Any], *, as_json: bool) -> None:
    """Ask what a job would take and print it; nothing is queued."""
    estimate: Any = client.post("/fine_tuning/jobs/estimate", body=request, cast_to=object)
    if as_json:
        print_json(estimate)
        return
    print_table(("", ""), _rows(estimate), empty="")
    if estimate["not_counted"]:
        typer.echo(f"Not counted, for the worker alone knows the questions: {', '.join(estimate['not_counted'])}.")
    if not estimate["calibrated_on"]:
        typer.echo("No job on this base and method has finished yet: how long one takes is not known.")


def _rows(estimate: Mapping[str, Any]) -> list[tuple[str, object]]:
    examples, tokens, seconds, queue = (estimate[name] for name in ("examples", "tokens", "seconds", "queue"))
    memory, wait, cut = estimate["peak_memory_bytes"], queue["wait_seconds"], estimate["truncations"]["lines"]
    return [
        ("examples", f"{examples['total']}, {examples['held_out']} held out"),
        ("steps", estimate["steps"]),
        ("tokens trained on", tokens["trained"]),
        ("cut answers", ", ".join(f"line {line}" for line in cut) or "none"),
        (
            "time",
            f"{_duration(seconds['p50'])}, nine in ten within {_duration(seconds['p90'])}" if seconds else "not known",
        ),
        ("memory", f"{memory / 1e9:.1f} GB" if memory else "not known"),
        ("wait", "not known" if wait is None else _duration(wait)),
        ("judged by", f"{estimate['calibrated_on']} finished jobs"),
    ]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
