"""From the reports of cells to the figures of the study: counts of each, and shares pooled over seeds.

Every seed is asked the same questions, so three times 40 answers are not 120 questions. A pooled share is the mean
over seeds; its 95 % interval is Wilson's for as many questions as *one* seed was asked. It is as wide as if all seeds
had answered alike, and holds for these seeds: how far seeds lie apart is shown beside it, one by one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple, Self

from app.domain.proportions import wilson
from worker.evals.suites import general_suite

LOSSES = {
    "rehearsed": "forgot of rehearsed kinds",
    "other": "forgot of other kinds",
    "earlier": "forgot of home",
}


class Count(NamedTuple):
    """So many of so many."""

    num: int
    of: int


@dataclass(frozen=True)
class Outcome:
    """What came of one training.

    Args:
        learned: Held-out questions right.
        ceiling: The same of the teacher with the demonstration in its context; None where there is no teacher.
        lost: By a key of ``LOSSES``, of what the base (of an earlier skill: the version before) had right, what is
            wrong now.
        drift: KL(base || version) along the base's answers to general questions, nats per token.
        seconds: Of the whole training, its evaluation included.
    """

    learned: Count
    ceiling: Count | None
    lost: Mapping[str, Count]
    drift: float
    seconds: float

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """From what ``dataclasses.asdict`` made of it, as JSON."""
        return cls(
            learned=Count(*row["learned"]),
            ceiling=Count(*row["ceiling"]) if row["ceiling"] else None,
            lost={name: Count(*count) for name, count in row["lost"].items()},
            drift=row["drift"],
            seconds=row["seconds"],
        )


@dataclass(frozen=True)
class Known:
    """A training that is done, as far as table and plot need it.

    Args:
        failed: The code of the failure that is its outcome.
        outcome: None where it failed.
        total_steps: Of the optimizer; None where it failed.
        seconds: Of the whole training, its evaluation included.
        code: Digest of the trainer's code.
    """

    failed: str | None
    outcome: Outcome | None
    total_steps: int | None
    seconds: float
    code: str

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Self:
        """From the whole result."""
        report, seconds = result["report"], result["seconds"]
        steps = report["provenance"]["config"]["total_steps"] if report else None
        found = outcome(report, seconds) if report else None
        return cls(result["failed"], found, steps, seconds, result["code"])

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """From what ``dataclasses.asdict`` made of it, as JSON; what else stands there is for people."""
        given = {name: row[name] for name in ("failed", "total_steps", "seconds", "code")}
        return cls(outcome=Outcome.from_json(row["outcome"]) if row["outcome"] else None, **given)


@dataclass(frozen=True)
class Share:
    """A pooled share with its 95 % interval."""

    value: float
    low: float
    high: float


def outcome(report: Mapping[str, Any], seconds: float) -> Outcome:
    """The figures of one report."""
    skill = next(suite for suite in report["suites"] if suite["role"] == "skill")
    right = {arm["arm"]: Count(arm["num_right"], skill["n"]) for arm in skill["arms"]}
    rehearsed = general_suite().rehearsed
    earlier = {suite["name"] for suite in report["suites"] if suite["role"] == "earlier"}
    counts: dict[str, list[Count]] = {}
    for row in report["kept"]:
        lost = Count(row["num_had"] - row["num_kept"], row["num_had"])
        if row["suite"] in earlier:
            counts.setdefault("earlier", []).append(lost)
        elif row["reference"] == "base" and row["num_kinds"] == 1:
            counts.setdefault("rehearsed" if row["group"] in rehearsed else "other", []).append(lost)
    return Outcome(
        learned=right["candidate"],
        ceiling=right.get("ceiling"),
        lost={name: Count(sum(one.num for one in some), sum(one.of for one in some)) for name, some in counts.items()},
        drift=next(row["base_to_candidate"] for row in report["drift"] if row["prompts"] == "neutral"),
        seconds=seconds,
    )


def pool(counts: Sequence[Count]) -> Share | None:
    """The share over seeds; None where nothing could be counted."""
    asked = sum(count.of for count in counts)
    if asked == 0:
        return None
    share, questions = sum(count.num for count in counts) / asked, fmean(count.of for count in counts)
    interval = wilson(share * questions, questions)
    return Share(share, interval.low, interval.high)
