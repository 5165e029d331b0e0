"""What self-distillation moves towards, how its teacher moves, and what a preset makes of both.

``...Request`` is what a client may ask for; ``...Config`` is what the trainer runs with: every number fixed, or null
where it means nothing to the kind that was chosen.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Auto = Literal["auto"]
ObjectiveKind = Literal["forward_kl", "reverse_kl", "jsd", "isdft"]
TeacherKind = Literal["frozen", "ema", "hard_sync", "live"]
Preset = Literal["default", "paper", "retain"]

T = TypeVar("T")
Asked = TypeVar("Asked", bound=BaseModel)

ISDFT_RHO: Final = (0.25, 1.0)
ISDFT_RAMP_STEPS: Final = 150
EMA_RATE: Final = 0.01
SYNC_STEPS: Final = 10
PRESETS: Final[Mapping[Preset, Mapping[str, Any]]] = {
    "default": {"objective": {"kind": "forward_kl"}, "teacher": {"kind": "frozen"}, "anchor_weight": 0.0},
    "paper": {"teacher": {"kind": "ema"}, "template": "paper", "rehearsal": {"share": 0.0}, "offline_share": 0.0},
    "retain": {"objective": {"kind": "isdft"}, "anchor_weight": 2e-3},
}
"""What an ``"auto"`` becomes before anything else decides; what a preset leaves open is as in ``default``."""


class Contradiction(ValueError):
    """Values asked for that cannot hold together, or not on this data; the message says how to fix it.

    Args:
        message: For a person.
        param: The value to change, by its path within the hyperparameters.
    """

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


class Frozen(BaseModel):
    """Nothing unknown, nothing converted, nothing changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ObjectiveRequest(Frozen):
    """How the student is compared with the teacher."""

    kind: ObjectiveKind | Auto = Field("auto", description="auto: as the preset says, else forward_kl.")
    alpha: Annotated[float, Field(gt=0, lt=1)] | Auto = Field(
        "auto", description="jsd: the teacher's share of the mixture. auto: 0.5."
    )
    rho0: Annotated[float, Field(ge=0, le=1)] | Auto = Field(
        "auto", description="isdft: part of the teacher's advantage that the first step aims at. auto: 0.25."
    )
    rho1: Annotated[float, Field(ge=0, le=1)] | Auto = Field(
        "auto", description="isdft: the same at the end of the ramp. auto: 1."
    )
    ramp_steps: Annotated[int, Field(ge=0, le=1_000_000)] | Auto = Field(
        "auto", description="isdft: steps from rho0 to rho1. auto: 150, or all steps of a shorter job."
    )
    entry_clip: Annotated[float, Field(gt=0, le=100)] | Auto = Field(
        "auto", description="Most that one vocabulary entry may add to the divergence, in nats. auto: no limit."
    )


class TeacherRequest(Frozen):
    """Whose weights the teacher has."""

    kind: TeacherKind | Auto = Field("auto", description="auto: as the preset says, else frozen.")
    rate: Annotated[float, Field(gt=0, lt=1)] | Auto = Field(
        "auto", description="ema: how far the teacher goes towards the student each time. auto: 0.01."
    )
    every: Annotated[int, Field(ge=1, le=1_000_000)] | Auto = Field(
        "auto", description="ema, hard_sync: steps between two moves. auto: 1 for ema, 10 for hard_sync."
    )


class ObjectiveConfig(Frozen):
    """``ObjectiveRequest``, decided."""

    kind: ObjectiveKind = "forward_kl"
    alpha: float | None = None
    rho0: float | None = None
    rho1: float | None = None
    ramp_steps: int | None = None
    entry_clip: float | None = None


class TeacherConfig(Frozen):
    """``TeacherRequest``, decided. A hard sync goes all the way: its rate is 1."""

    kind: TeacherKind = "frozen"
    rate: float | None = None
    every: int | None = None


def fill(asked: Asked, preset: Mapping[str, Any]) -> Asked:
    """Give each ``"auto"`` that a preset knows a value for that value."""
    update = {
        name: fill(getattr(asked, name), value) if isinstance(value, Mapping) else value
        for name, value in preset.items()
        if isinstance(value, Mapping) or getattr(asked, name) == "auto"
    }
    return asked.model_copy(update=update)


def check_objective(asked: ObjectiveRequest) -> None:
    """Refuse numbers that contradict each other or belong to another kind.

    Args:
        asked: Its kind decided.

    Raises:
        Contradiction: The message says how to fix it.
    """
    _refuse_idle("objective", asked, {"alpha": ["jsd"], "rho0": ["isdft"], "rho1": ["isdft"], "ramp_steps": ["isdft"]})
    if asked.rho0 != "auto" and asked.rho1 != "auto" and asked.rho0 > asked.rho1:
        msg = f"objective.rho0 ({asked.rho0:g}) is above objective.rho1 ({asked.rho1:g}); swap them"
        raise Contradiction(msg, "objective.rho0")


def check_teacher(asked: TeacherRequest) -> None:
    """Refuse numbers that belong to another kind.

    Args:
        asked: Its kind decided.

    Raises:
        Contradiction: The message says how to fix it.
    """
    _refuse_idle("teacher", asked, {"rate": ["ema"], "every": ["ema", "hard_sync"]})


def resolve_objective(asked: ObjectiveRequest, total_steps: int) -> ObjectiveConfig:
    """Fix the numbers of an objective whose kind is decided."""
    known: dict[str, Any] = {"kind": asked.kind, "entry_clip": value_or(asked.entry_clip, None)}
    if asked.kind == "jsd":
        known["alpha"] = value_or(asked.alpha, 0.5)
    if asked.kind == "isdft":
        known["rho1"] = value_or(asked.rho1, ISDFT_RHO[1])
        known["rho0"] = value_or(asked.rho0, min(ISDFT_RHO[0], known["rho1"]))
        known["ramp_steps"] = value_or(asked.ramp_steps, min(ISDFT_RAMP_STEPS, total_steps))
    return ObjectiveConfig(**known)


def resolve_teacher(asked: TeacherRequest, total_steps: int) -> TeacherConfig:
    """Fix the numbers of a teacher whose kind is decided.

    Raises:
        Contradiction: It would not move before the job ends.
    """
    if asked.kind == "ema":
        teacher = TeacherConfig(kind="ema", rate=value_or(asked.rate, EMA_RATE), every=value_or(asked.every, 1))
    elif asked.kind == "hard_sync":
        teacher = TeacherConfig(kind="hard_sync", rate=1.0, every=value_or(asked.every, min(SYNC_STEPS, total_steps)))
    else:
        return TeacherConfig.model_validate({"kind": asked.kind})
    if teacher.every is not None and teacher.every > total_steps:
        raise Contradiction(
            f"teacher.every ({teacher.every}) is more than the job's {total_steps} steps, so the teacher would never "
            "move; lower it, or choose the frozen teacher",
            "teacher.every",
        )
    return teacher


def value_or(value: T | Auto, default: T) -> T:
    """A default in the place of ``"auto"``."""
    return default if isinstance(value, str) and value == "auto" else value


def _refuse_idle(group: str, asked: ObjectiveRequest | TeacherRequest, kinds_of: Mapping[str, Sequence[str]]) -> None:
    for name, kinds in kinds_of.items():
        if getattr(asked, name) != "auto" and asked.kind not in kinds:
            raise Contradiction(
                f"{group}.{name} has no effect where {group}.kind is {asked.kind}; remove it, or set {group}.kind to "
                f"{' or '.join(kinds)}",
                f"{group}.{name}",
            )
