"""From what the arms said to tables in markdown."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any, TypedDict

from benchmarks.arithmetic import Size, Work, flop
from benchmarks.arms import ARMS

PHASES = ("rollout", "teacher", "student", "optimizer")
GIGA = 1e9


class Step(TypedDict):
    """What is shown of a step: its seconds as the conductor saw them, those of its phases, and tokens said in it."""

    seconds: float
    phases: dict[str, float]
    tokens: int


def render(results: dict[str, Any]) -> str:
    """All tables of a run."""
    machine, warm_up = results["machine"], results["warm_up"]
    origin = (
        f"{machine['cpu']}, {machine['threads']} threads of {machine['cores']} cores; load average before: "
        f"{machine['load'][0]:.1f}. torch {machine['torch']}, transformers {machine['transformers']}, "
        f"peft {machine['peft']}, TRL {machine['trl']}. fp32."
    )
    parts = [origin]
    for new_tokens, timed in results["timed"].items():
        parts += [f"### {new_tokens} new tokens, no rollout ends before", _timed(timed, warm_up)]
    if "whole" in results:
        parts += ["### A whole job: rollouts end where they end", _whole(results["whole"])]
    if "loss" in results:
        parts += ["### The loss alone: 1,024 positions, 151,936 tokens of vocabulary", _loss(results["loss"])]
    return "\n\n".join(parts) + "\n"


def _timed(timed: dict[str, Any], warm_up: int) -> str:
    arms = timed["arms"]
    typical = {name: median(map(_seconds, arm["steps"][warm_up:])) for name, arm in arms.items()}
    rows = []
    for name, arm in arms.items():
        steps: list[Step] = arm["steps"][warm_up:]
        seconds, beside = typical[name], typical.get(ARMS[name].beside)
        share = flop(Size(**arm["size"]), Work(**arm["work"])) / seconds / timed["gemm"]
        rows.append(
            [
                ARMS[name].label,
                f"**{seconds:.2f}** ({min(map(_seconds, steps)):.2f}-{max(map(_seconds, steps)):.2f})",
                *(f"{median(step['phases'][phase] for step in steps):.2f}" for phase in PHASES),
                f"{sum(step['tokens'] for step in steps) / sum(map(_seconds, steps)):.0f}",
                _gigabytes(arm["peak_memory_bytes"]),
                f"{share:.0%}",
                f"{beside / seconds:.2f}x" if beside else "",
            ]
        )
    head = [
        "",
        "s a step (range)",
        *PHASES,
        "tokens/s",
        "peak GB",
        "of GEMM peak",
        "TRL as the paper, same work / this",
    ]
    first = (
        f"{ARMS[name].label} {arm['steps'][warm_up - 1]['phases']['teacher']:.2f}"
        for name, arm in arms.items()
        if arm["work"]["teacher_prompt"]
    )
    return (
        f"{_markdown(head, rows)}\n\nMedians of {len(steps)} steps. GEMM peak: {timed['gemm'] / GIGA:.0f} GFLOP/s. "
        f"The teacher's seconds when it sees its prompts for the first time: {', '.join(first)}."
    )


def _whole(whole: dict[str, Any]) -> str:
    rows = [
        [
            ARMS[name].label,
            f"{arm['score']:.2f}",
            str(len(arm["steps"])),
            f"{sum(map(_seconds, arm['steps'])) / len(arm['steps']):.2f}",
            f"{sum(step['tokens'] for step in arm['steps']) / len(arm['steps']):.0f}",
            f"{sum(step['tokens'] for step in arm['steps']) / sum(map(_seconds, arm['steps'])):.0f}",
            _gigabytes(arm["peak_memory_bytes"]),
        ]
        for name, arm in whole["arms"].items()
    ]
    base = next((arm["base_score"] for arm in whole["arms"].values() if "base_score" in arm), None)
    head = ["", "held-out right", "steps", "s a step (mean)", "tokens a step", "tokens/s", "peak GB"]
    return _markdown(head, rows) + ("" if base is None else f"\n\nThe base alone: {base:.2f}.")


def _loss(loss: dict[str, Any]) -> str:
    labels = {"fused": "ours, from hidden states", "whole": "all logits at once, TRL's function"}
    rows = [[labels[way], _gigabytes(one["extra_bytes"]), f"{one['seconds']:.1f}"] for way, one in loss.items()]
    return _markdown(["", "extra peak GB", "s"], rows)


def _seconds(step: Step) -> float:
    return step["seconds"]


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / GIGA:.2f}"


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
