"""What is compared, and the line on which a process is told its part. Loads no torch: the conductor reads this too."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

BATCH_SIZE = 8
LORA_RANK, LORA_ALPHA = 16, 32
TEMPLATE: Final = "multi_turn_twice"
"""What a job's check of the teacher chooses for this base and these data."""


@dataclass(frozen=True)
class Arm:
    """A trainer in one setting.

    Args:
        label: For the table.
        module: Run with ``python -m``; speaks through ``benchmarks.turnstile``.
        settings: What sets it apart, understood by that module alone.
        beside: The arm of TRL's that does the same work.
    """

    label: str
    module: str
    settings: dict[str, Any] = field(default_factory=dict)
    beside: str = "trl-paper"


ARMS = {
    "ours": Arm("ours, no rehearsal", "benchmarks.ours", {"share": 0.0}),
    "trl-paper": Arm("TRL 1.16 as the paper", "benchmarks.trl", {"paper": True}),
    "trl-default": Arm("TRL 1.16, its defaults", "benchmarks.trl", {"paper": False}),
    "supervised": Arm("ours, supervised", "benchmarks.ours", {"method": "supervised"}),
    "rehearsal": Arm("ours with its default rehearsal", "benchmarks.ours"),
    "ours-4": Arm("ours, 4 rollouts a prompt", "benchmarks.ours", {"share": 0.0, "rollouts": 4}, beside="trl-4"),
    "trl-4": Arm("TRL as the paper, 4 a prompt", "benchmarks.trl", {"paper": True, "rollouts": 4}, beside="trl-4"),
}


@dataclass(frozen=True)
class Order:
    """One process's part in one run.

    Args:
        settings: Of its arm.
        base: Folder of the base model.
        skill: Of the demo.
        steps: To be done in all.
        num_demonstrations: The first so many of the skill.
        new_tokens: Of every rollout, whether it has ended before or not. None: as long as a job would let it be, and
            it may end.
        threads: Of the CPU.
        seed: Of everything that is drawn.
    """

    settings: dict[str, Any]
    base: str
    skill: str
    steps: int
    num_demonstrations: int
    new_tokens: int | None
    threads: int
    seed: int = 0

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Self:
        """What ``to_json`` wrote."""
        return cls(**json.loads(line))
