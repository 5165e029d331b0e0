"""What the study consists of: ways to train, skills and seeds, and which training tells most. Runs nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from app.demo.skills import data_path
from app.domain.distillation import ObjectiveRequest
from app.domain.evaluation import ScorerName
from app.domain.training import Hyperparameters, RehearsalRequest, SdftHyperparameters, SupervisedHyperparameters
from benchmarks.study import tool_calls

NONE = RehearsalRequest(share=0.0)
ANCHOR = 2e-3
RATES = (1e-4, 2e-4, 5e-4, 1e-3)
"""Of plain fine-tuning; the third is what a supervised job on a small base gets by default, the last what the default
way to train has."""
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Arm:
    """A way to train.

    Args:
        label: For people.
        hyperparameters: As a client would ask.
        replay: Whether answers to the rehearsal prompts, by whom rehearsal has them, are mixed into the training file.
    """

    label: str
    hyperparameters: Hyperparameters
    replay: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is fine-tuning on the demonstrations alone."""
        return isinstance(self.hyperparameters, SupervisedHyperparameters) and not self.replay


def _sft(rate: float) -> SupervisedHyperparameters:
    return SupervisedHyperparameters(learning_rate=rate)


DEFAULT = "rehearsal"
ARMS = {
    DEFAULT: Arm("SDFT + rehearsal (the default)", SdftHyperparameters()),
    "sft": Arm("SFT, rate 5e-4 (its default)", _sft(RATES[2])),
    "sft-replay": Arm("SFT, rate 5e-4, + replay", _sft(RATES[2]), replay=True),
    "sdft": Arm("SDFT", SdftHyperparameters(rehearsal=NONE)),
    "isdft": Arm("iSDFT", SdftHyperparameters(rehearsal=NONE, objective=ObjectiveRequest(kind="isdft"))),
    "anchor": Arm("SDFT + anchor", SdftHyperparameters(rehearsal=NONE, anchor_weight=ANCHOR)),
    "sft-low": Arm("SFT, rate 1e-4", _sft(RATES[0])),
    "sft-middle": Arm("SFT, rate 2e-4", _sft(RATES[1])),
    "shorter": Arm("the default, 40 steps", SdftHyperparameters(n_epochs=5)),
    "longer": Arm("the default, 56 steps", SdftHyperparameters(n_epochs=7)),
    "less-rehearsal": Arm("the default, share 1/4", SdftHyperparameters(rehearsal=RehearsalRequest(share=0.25))),
    "sampled": Arm("the default, every rollout sampled", SdftHyperparameters(offline_share=0.0)),
    "own-prompts": Arm("the default, its own prompts", SdftHyperparameters(rehearsal=RehearsalRequest(prompts="self"))),
    "low-rate": Arm("the default, rate 5e-4", SdftHyperparameters(learning_rate=5e-4)),
    "high-rate": Arm("the default, rate 2e-3", SdftHyperparameters(learning_rate=2e-3)),
    "rank-32": Arm("the default, rank 32", SdftHyperparameters(lora_rank=32, lora_alpha=64)),
    "sft-high": Arm("SFT, rate 1e-3", _sft(RATES[3])),
}
USUAL_ARMS = tuple(ARMS)[:8]
"""Ways to train that are compared; the others, what the default might have been and plain fine-tuning at its rate, run
where they are asked for. Steps are those of the demo's 64 demonstrations."""
TELLING = 4
"""The first so many arms come before the others."""


@dataclass(frozen=True)
class Skill:
    """What is taught.

    Args:
        label: For people.
        training: File of demonstrations.
        heldout: File of what is asked afterwards.
        after: The skill of the version that the training goes on from.
        scorer: Where the look of the demonstrations would choose another.
    """

    label: str
    training: Path
    heldout: Path
    after: str | None = None
    scorer: ScorerName | None = None


def _demo(skill: str, label: str, after: str | None = None) -> Skill:
    return Skill(label, data_path(skill, "training"), data_path(skill, "heldout"), after)


SKILLS = {
    "home": _demo("home", "home"),
    "route": _demo("route", "route"),
    "tool": _demo("tool", "tool after home", after="home"),
    "calls": Skill(
        "calls of held-out tools",
        tool_calls.data_path("training"),
        tool_calls.data_path("heldout"),
        scorer="tool_call",
    ),
}


class Cell(NamedTuple):
    """One training; the names are keys of ``ARMS`` and ``SKILLS``."""

    arm: str
    skill: str
    seed: int

    def __str__(self) -> str:
        return f"{SKILLS[self.skill].label}, {ARMS[self.arm].label}, seed {self.seed}"

    @property
    def parent(self) -> "Cell | None":
        """Whose version this one goes on from."""
        after = SKILLS[self.skill].after
        return self._replace(skill=after) if after else None

    @property
    def is_gone_on_from(self) -> bool:
        """Whether another cell needs this one's version."""
        return any(skill.after == self.skill for skill in SKILLS.values())


def plan(arms: Sequence[str], skills: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """All cells of a choice, the most telling first, none before the one that it goes on from."""
    first = [arm for arm in list(ARMS)[:TELLING] if arm in arms]
    others = [arm for arm in list(ARMS)[TELLING:] if arm in arms]
    asked = [
        Cell(arm, skill, seed)
        for seed in seeds
        for tier in (first, others)
        for skill in SKILLS
        if skill in skills
        for arm in tier
    ]
    return list(dict.fromkeys(cell for one in asked for cell in _with_parent(one)))


def _with_parent(cell: Cell) -> Iterator[Cell]:
    if cell.parent:
        yield cell.parent
    yield cell
