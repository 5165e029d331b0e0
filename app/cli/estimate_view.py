"""What a job would take, for a terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from app.cli.output import print_json, print_table, say

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
        say(f"Not counted, for the worker alone knows the questions: {', '.join(estimate['not_counted'])}.")
    if not estimate["calibrated_on"]:
        alike = "the same base, method, objective and teacher, with an anchor or without"
        say(f"None like this one ({alike}) has finished in one attempt: how long it takes is not known.")


def _rows(estimate: Mapping[str, Any]) -> list[tuple[str, object]]:
    examples, tokens, seconds, queue = (estimate[name] for name in ("examples", "tokens", "seconds", "queue"))
    memory, wait = estimate["peak_memory_bytes"], queue["wait_seconds"]
    at_least = "at least " if estimate["peak_memory_is_at_least"] else ""
    return [
        ("examples", f"{examples['total']}, {examples['held_out']} held out"),
        ("steps", estimate["steps"]),
        ("tokens trained on", tokens["trained"]),
        ("cut answers", _cut(estimate["truncations"], examples["total"])),
        (
            "time",
            f"{_duration(seconds['p50'])}, nine in ten within {_duration(seconds['p90'])}" if seconds else "not known",
        ),
        ("memory", f"{at_least}{memory / 1e9:.1f} GB" if memory else "not known"),
        ("wait", "not known" if wait is None else _duration(wait)),
        ("judged by", f"{estimate['calibrated_on']} finished jobs"),
    ]


def _cut(truncations: Mapping[str, Any], total: int) -> str:
    """How many, of how many where not all were looked at, and which."""
    count, counted = truncations["count"], truncations["counted"]
    of = "" if counted == total else f" of {counted} looked at"
    lines = ", ".join(f"line {line}" for line in truncations["lines"])
    return f"{count or 'none'}{of}" + (f": {lines}" if lines else "")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
