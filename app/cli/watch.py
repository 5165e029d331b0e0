"""Follows a job until it ends: one live line on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

POLL_SECONDS = 1.0
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
STYLES = {"info": "", "warn": "yellow", "error": "red"}
PLAIN_STEPS = 10
"""Without a terminal every so manieth step is told."""


def follow(
    client: "OpenAI",
    job_id: str,
    *,
    on_event: Callable[["FineTuningJobEvent"], None],
    on_state: Callable[["FineTuningJob"], None],
) -> "FineTuningJob":
    """Tell all events, oldest first, and each state of a job until it has ended."""
    last_seen: str | None = None
    while True:
        # The state first: whatever led to an end is then among the events.
        job = client.fine_tuning.jobs.retrieve(job_id)
        for event in _events_after(client, job_id, last_seen):
            last_seen = event.id
            on_event(event)
        on_state(job)
        if job.status in TERMINAL:
            return job
        time.sleep(POLL_SECONDS)


def watch(client: "OpenAI", job_id: str, console: Console) -> "FineTuningJob":
    """Show a job's progress to a person until it has ended."""
    view = _Live(console) if console.is_terminal else _Plain(console)
    with view:
        return follow(client, job_id, on_event=view.event, on_state=view.state)


def _events_after(client: "OpenAI", job_id: str, last_seen: str | None) -> Iterator["FineTuningJobEvent"]:
    extra_query = {"order": "asc"} | ({"after": last_seen} if last_seen else {})
    yield from client.fine_tuning.jobs.list_events(job_id, limit=100, extra_query=extra_query)


class _Plain:
    """Lines."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._phase: str | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def event(self, event: "FineTuningJobEvent") -> None:
        data = _data(event)
        if event.type != "metrics":
            self.console.print(escape(event.message), style=STYLES[event.level], highlight=False)
        elif data["step"] == 1 or data["step"] % PLAIN_STEPS == 0:
            self.console.print(f"  step {data['step']}/{data['total_steps']}  {_measures(data)}", highlight=False)

    def state(self, job: "FineTuningJob") -> None:
        phase = _phase(job)
        if phase != self._phase:
            self._phase = phase
            self.console.print(f"[bold]{phase}[/]", highlight=False)


class _Live(_Plain):
    """One line that moves, with the events above it."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[measures]}", style="cyan"),
            TextColumn("{task.fields[left]}", style="dim"),
        )
        self._progress = Progress(*columns, console=console, transient=True)
        self._task: TaskID = self._progress.add_task("waiting", total=None, count="", measures="", left="")

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def event(self, event: "FineTuningJobEvent") -> None:
        if event.type == "metrics":
            self._progress.update(self._task, measures=_measures(_data(event)))
        else:
            super().event(event)

    def state(self, job: "FineTuningJob") -> None:
        progress: dict[str, Any] = getattr(job, "progress", None) or {}
        done, total = progress.get("step"), progress.get("total_steps")
        if progress.get("phase_total"):
            done, total = progress["phase_done"], progress["phase_total"]
        count = f"{done}/{total}" if total else ""
        if (position := progress.get("queue_position")) is not None:
            count = f"place {position} in the queue"
        seconds = progress.get("seconds_remaining")
        left = "" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02d} left"
        self._progress.update(
            self._task, description=_phase(job), completed=done or 0, total=total, count=count, left=left
        )


def _phase(job: "FineTuningJob") -> str:
    phase = getattr(job, "phase", "done")
    return str(job.status if phase == "done" else phase).replace("_", " ")


def _data(event: "FineTuningJobEvent") -> dict[str, Any]:
    return event.data if isinstance(event.data, dict) else {}


def _measures(data: dict[str, Any]) -> str:
    """Loss and speed of one step."""
    shown = {"loss": (data.get("train_loss"), ".3f"), "tokens/s": (data.get("tokens_per_second"), ".0f")}
    return "  ".join(f"{name} {value:{form}}" for name, (value, form) in shown.items() if value is not None)
