"""What a job trains with.

``SdftHyperparameters`` and ``SupervisedHyperparameters`` are what a client may ask for: ranges, ``"auto"``, nothing
unknown. ``TrainingConfig`` is what the trainer runs with: every number fixed. ``resolve`` turns one into the other
from the facts of the data and the base, and is the only place where an ``"auto"`` gets its value.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from app.domain.distillation import (
    PRESETS,
    Auto,
    Contradiction,
    Frozen,
    ObjectiveConfig,
    ObjectiveRequest,
    Preset,
    TeacherConfig,
    TeacherRequest,
    check_objective,
    check_teacher,
    fill,
    resolve_objective,
    resolve_teacher,
    value_or,
)

Method = Literal["sdft", "supervised"]
TemplateName = Literal["paper", "example", "multi_turn", "multi_turn_twice"]
RehearsalPrompts = Literal["builtin", "self", "file"]
LEARNING_RATE_RANGE: Final = (1e-7, 1e-2)
LearningRate = Annotated[float, Field(ge=LEARNING_RATE_RANGE[0], le=LEARNING_RATE_RANGE[1])]

MAX_SEED = 2**31 - 1
MIN_EXAMPLES = 10
MAX_COMPLETION_TOKENS = 1024
"""Cap of the automatic completion length; a client may ask for more."""
SMALL_BASE_ROOM_TOKENS = 5
"""By which a small base's longest rollout may at most exceed the longest demonstrations. One that goes on has lost its
way there: it takes time, and its rambling counts as much as what there is to learn."""
MIN_STEPS = 48
"""Steps that ``n_epochs: auto`` makes room for: fewer teach little, however few the examples."""
SHORT_ANSWER_TOKENS = 8
STEPS_A_TOKEN = 18
MAX_MIN_STEPS = 240
"""By itself a small base comes to a longer answer token by token, as its own samples get further: demonstrations whose
median is above ``SHORT_ANSWER_TOKENS`` get so many more steps for each token, up to the last number in all, as far as
rollouts are sampled: along the demonstration every place of an answer is come to from the first step on."""
LONG_DEMONSTRATION_TOKENS = 32
SKIPPED_TOKENS = 3
MIN_TO_SPLIT = 24
MIN_HELDOUT = 8
MAX_HELDOUT = 200
HELDOUT_SHARE = 0.1
NEUTRAL_SHARE = 1 / 3
LINEAGE_SHARE = 1 / 2
"""Of a step's sequences: rehearsal, without and with skills of earlier versions. Neutral prompts alone do not keep an
earlier skill: on the demo's model it was gone after the next one."""
SMALL_BASE_PARAMETERS = 1_000_000_000
"""Below it a base takes, and needs, larger steps."""
SAFE_LEARNING_RATE = 5e-4
"""Above this a job on a base that is not small is warned: of an earlier skill 1e-3 kept 52 % and 5e-4 94 %, in the
Tinker cookbook's runs of Qwen3.5-35B-A3B."""
LEARNING_RATES: Final[Mapping[Method, tuple[float, float]]] = {"sdft": (1e-3, 2e-4), "supervised": (5e-4, 2e-4)}
"""Of a small base and of others, where nothing else is asked for. The same step takes supervised training further: of
2e-4, 5e-4 and 1e-3 on the demo's base, 2e-4 missed one of two skills, and 1e-3 learned what 5e-4 did and drifted twice
as far from the base."""


class RehearsalRequest(Frozen):
    """Prompts mixed into each step whose teacher is the base or the starting point, without any demonstration.

    They are neutral ones; where the job goes on from a version, a third are those that the version and its ancestors
    were trained on.
    """

    share: Annotated[float, Field(ge=0, le=0.75)] | Auto = Field(
        "auto",
        description="Rehearsal prompts of all prompts in a step, one at least; 0 turns it off. auto: a third, or half "
        "where skills of earlier versions are rehearsed too.",
    )
    prompts: RehearsalPrompts = Field(
        "builtin",
        description="Where the neutral ones come from. builtin: they ship with the project. self: the starting point "
        "makes them up before training. file: the prompts of an uploaded file.",
    )
    file: str | None = Field(None, min_length=1, max_length=64, description="Id of that file, of purpose fine-tune.")

    @model_validator(mode="after")
    def _file_belongs_to_its_kind(self) -> Self:
        if self.prompts == "file" and self.file is None:
            msg = "rehearsal.prompts is file, so rehearsal.file must be the id of an uploaded file"
            raise Contradiction(msg, "file")
        if self.prompts != "file" and self.file is not None:
            raise Contradiction('rehearsal.file has no effect; set rehearsal.prompts to "file" or remove it', "file")
        return self


def _check_skip(skip: int, completion: int) -> None:
    if skip >= completion:
        msg = (
            f"loss_skip_tokens ({skip}) leaves no token of a completion of at most {completion} tokens to learn from; "
            "lower it or raise max_completion_tokens"
        )
        raise Contradiction(msg, "loss_skip_tokens")


class SharedHyperparameters(Frozen):
    """What both methods understand. OpenAI's three names keep their meaning and their ranges."""

    n_epochs: Annotated[int, Field(ge=1, le=50)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=1, le=256)] | Auto = Field("auto", description="Demonstrations a step.")
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=100)] | Auto = "auto"
    learning_rate: LearningRate | Auto = Field(
        "auto", description="Peak learning rate, before the multiplier; what both make has to be in the same range."
    )
    lora_rank: Annotated[int, Field(ge=1, le=256)] | Auto = "auto"
    lora_alpha: Annotated[int, Field(ge=1, le=512)] | Auto = "auto"


class SdftHyperparameters(SharedHyperparameters):
    """Self-distillation fine-tuning: towards a teacher that sees the demonstration."""

    preset: Preset = Field(
        "default",
        description="Fills in what is left at auto. paper: ema teacher, the paper's wording, neither rehearsal nor "
        "offline rollouts. retain: isdft and an anchor of 2e-3.",
    )
    objective: ObjectiveRequest = ObjectiveRequest()
    anchor_weight: Annotated[float, Field(ge=0, le=1)] | Auto = Field(
        "auto", description="Of KL(starting point || student) on the same tokens. auto: as the preset says, else 0."
    )
    teacher: TeacherRequest = TeacherRequest()
    max_completion_tokens: Annotated[int, Field(ge=1, le=32768)] | Auto = Field(
        "auto",
        description="Longest rollout. auto: p99 of the demonstrations' length x 1.5, at most 1024; on a small base "
        "no more than p99 + 5.",
    )
    loss_skip_tokens: Annotated[int, Field(ge=0, le=16)] | Auto = Field(
        "auto",
        description="First completion tokens without loss. auto: 3, or 0 where demonstrations are short, "
        "offline_share is 1, or the teacher begins as they do.",
    )
    rollouts_per_prompt: Annotated[int, Field(ge=1, le=16)] = Field(
        1, description="Samples of the student at each demonstration's prompt; together they weigh as one."
    )
    offline_share: Annotated[float, Field(ge=0, le=1)] | Auto = Field(
        "auto",
        description="Of rollouts, those that are the demonstration itself instead of a sample of the student. auto: "
        "as the preset says, else 1 on a small base whose demonstrations are longer than 8 tokens if a prompt has one "
        "rollout, or 0.",
    )
    template: TemplateName | Auto = Field("auto", description="How the teacher is shown the demonstration.")
    weak_teacher: Literal["warn", "fail"] = Field(
        "warn", description="What to do when the demonstration in context does not help the model."
    )
    rehearsal: RehearsalRequest = RehearsalRequest()

    @model_validator(mode="after")
    def _skip_leaves_something(self) -> Self:
        if self.loss_skip_tokens != "auto" and self.max_completion_tokens != "auto":
            _check_skip(self.loss_skip_tokens, self.max_completion_tokens)
        return self

    @model_validator(mode="after")
    def _nothing_is_without_effect(self) -> Self:
        asked = self.decided()
        check_objective(asked.objective)
        check_teacher(asked.teacher)
        if asked.rehearsal.share == 0 and asked.rehearsal.prompts != "builtin":
            msg = "rehearsal.prompts has no effect where rehearsal.share is 0; set a share or remove it"
            raise Contradiction(msg, "rehearsal.prompts")
        if asked.offline_share == 1 and asked.rollouts_per_prompt > 1:
            msg = "several rollouts of a prompt are all the demonstration where offline_share is 1; lower either"
            raise Contradiction(msg, "rollouts_per_prompt")
        return self

    def decided(self) -> Self:
        """With the preset's values for what was left at ``"auto"``."""
        return fill(fill(self, PRESETS[self.preset]), PRESETS["default"])


class SupervisedHyperparameters(SharedHyperparameters):
    """Plain supervised fine-tuning on the demonstrations, in the same loop."""


Hyperparameters: TypeAlias = SdftHyperparameters | SupervisedHyperparameters


class DatasetFacts(Frozen):
    """What ``resolve`` needs to know of the training part of the data, in tokens of the job's base."""

    num_examples: int = Field(ge=1)
    demonstration_tokens_p50: int
    demonstration_tokens_p99: int
    demonstration_tokens_max: int


class TrainingConfig(Frozen):
    """What the trainer runs with: every number fixed, echoed to the client, stored with the job."""

    method: Method
    seed: int = Field(ge=0, le=MAX_SEED)
    num_epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    total_steps: int = Field(ge=1)
    learning_rate: float = Field(gt=0, description="Peak, multiplier included.")
    warmup_steps: int = Field(ge=0)
    final_learning_rate_ratio: float = Field(0.1, ge=0, le=1)
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    weight_decay: float = 0.0
    max_grad_norm: float = Field(1.0, gt=0)
    lora_rank: int = Field(ge=1)
    lora_alpha: int = Field(ge=1)
    max_completion_tokens: int = Field(ge=1)
    loss_skip_tokens: int = Field(0, ge=0)
    rollouts_per_prompt: int = Field(1, ge=1)
    offline_share: float = Field(0.0, ge=0, le=1)
    template: TemplateName | Auto = "auto"
    weak_teacher: Literal["warn", "fail"] = "warn"
    objective: ObjectiveConfig = ObjectiveConfig()
    anchor_weight: float = Field(0.0, ge=0, le=1)
    teacher: TeacherConfig = TeacherConfig()
    rehearsal_share: float = Field(0.0, ge=0, le=0.75)
    rehearsal_prompts: RehearsalPrompts = "builtin"

    @model_validator(mode="after")
    def _skip_leaves_something(self) -> Self:
        if self.method == "sdft":
            _check_skip(self.loss_skip_tokens, self.max_completion_tokens)
        return self

    @property
    def num_rollouts(self) -> int:
        """Sequences a step at the prompts of demonstrations."""
        return self.batch_size * self.rollouts_per_prompt

    @property
    def num_rehearsal(self) -> int:
        """Rehearsal prompts a step, on top of ``batch_size`` demonstrations; each has one sequence.

        One at least where there is a share: a small batch would round it away.
        """
        if self.rehearsal_share == 0:
            return 0
        return max(1, round(self.batch_size * self.rehearsal_share / (1 - self.rehearsal_share)))

    @property
    def rehearses_shipped(self) -> bool:
        """Whether the prompts that ship with the project are among those rehearsed."""
        return self.num_rehearsal > 0 and self.rehearsal_prompts == "builtin"


def default_learning_rate(method: Method, *, num_parameters: int) -> float:
    """Peak, for a base of so many parameters."""
    of_small, of_others = LEARNING_RATES[method]
    return of_small if num_parameters < SMALL_BASE_PARAMETERS else of_others


def peak_learning_rate(requested: Hyperparameters, *, method: Method, num_parameters: int) -> float:
    """What a job on a base of so many parameters peaks at, its multiplier included.

    Raises:
        Contradiction: The two make a rate that could not be asked for by itself.
    """
    rate = value_or(requested.learning_rate, default_learning_rate(method, num_parameters=num_parameters))
    multiplier = value_or(requested.learning_rate_multiplier, 1.0)
    lowest, highest = LEARNING_RATE_RANGE
    if not lowest <= rate * multiplier <= highest:
        msg = (
            f"a learning rate of {rate:g} times learning_rate_multiplier ({multiplier:g}) is {rate * multiplier:g}, "
            f"and has to be from {lowest:g} to {highest:g}; change the multiplier, or name the learning rate alone"
        )
        raise Contradiction(msg, "learning_rate_multiplier")
    return rate * multiplier


def _rollouts(requested: Hyperparameters, answer_tokens: int, *, small_base: bool) -> tuple[float, int]:
    """Share of offline rollouts, and steps to make room for."""
    if isinstance(requested, SupervisedHyperparameters):
        return 0.0, MIN_STEPS
    excess = max(0, answer_tokens - SHORT_ANSWER_TOKENS) if small_base else 0
    samples_one = requested.rollouts_per_prompt == 1
    share = value_or(requested.decided().offline_share, float(excess > 0 and samples_one))
    more = min(MAX_MIN_STEPS - MIN_STEPS, STEPS_A_TOKEN * excess)
    return share, MIN_STEPS + math.ceil((1 - share) * more)


def depends_on_data(requested: Hyperparameters) -> bool:
    """Whether ``resolve`` may refuse, on some data, what is asked for."""
    if isinstance(requested, SupervisedHyperparameters):
        return False
    skips = requested.loss_skip_tokens not in {"auto", 0}
    return skips or requested.teacher.every != "auto"


def count_heldout(num_prompts: int, *, of_validation: bool) -> int:
    """How many of so many different prompts the evaluation keeps for itself.

    All of a validation file, a tenth of a training file, at least 8 and at most 200; nothing of a training file with
    fewer than 24.
    """
    if of_validation:
        return min(MAX_HELDOUT, num_prompts)
    if num_prompts < MIN_TO_SPLIT:
        return 0
    return min(MAX_HELDOUT, max(MIN_HELDOUT, round(num_prompts * HELDOUT_SHARE)))


def resolve(
    requested: Hyperparameters,
    *,
    method: Method,
    seed: int,
    facts: DatasetFacts,
    num_parameters: int,
    has_earlier: bool,
) -> TrainingConfig:
    """Give every ``"auto"`` its value.

    Args:
        requested: As the client asked.
        method: Of the job.
        seed: Of the job.
        facts: Of the training part.
        num_parameters: Of the base.
        has_earlier: Whether there are prompts of earlier versions to rehearse.

    Raises:
        Contradiction: What is asked for cannot be, on this data.
    """
    small_base = num_parameters < SMALL_BASE_PARAMETERS
    batch_size = value_or(requested.batch_size, max(8, min(32, facts.num_examples * 2 // 50)))
    batch_size = min(batch_size, facts.num_examples)
    offline_share, min_steps = _rollouts(requested, facts.demonstration_tokens_p50, small_base=small_base)
    num_epochs = value_or(requested.n_epochs, min(50, max(2, math.ceil(min_steps * batch_size / facts.num_examples))))
    total_steps = math.ceil(facts.num_examples * num_epochs / batch_size)
    config: dict[str, Any] = {
        "method": method,
        "seed": seed,
        "num_epochs": num_epochs,
        "batch_size": batch_size,
        "total_steps": total_steps,
        "learning_rate": peak_learning_rate(requested, method=method, num_parameters=num_parameters),
        "warmup_steps": min(total_steps, max(10, round(total_steps * 0.1))),
        "lora_rank": value_or(requested.lora_rank, 16 if small_base else 32),
        "lora_alpha": value_or(requested.lora_alpha, 32),
    }
    if isinstance(requested, SupervisedHyperparameters):
        return TrainingConfig(**config, max_completion_tokens=facts.demonstration_tokens_max)
    requested = requested.decided()
    longest, room = facts.demonstration_tokens_p99, math.ceil(facts.demonstration_tokens_p99 / 2)
    longest_automatic = min(
        MAX_COMPLETION_TOKENS, longest + (min(room, SMALL_BASE_ROOM_TOKENS) if small_base else room)
    )
    max_completion_tokens = value_or(requested.max_completion_tokens, longest_automatic)
    # The skip keeps "Based on the example ..." from being trained in. A short answer is over before it, and who learns
    # along the demonstration alone would never be taught how to begin.
    skips = facts.demonstration_tokens_p50 >= LONG_DEMONSTRATION_TOKENS and offline_share < 1
    skip = value_or(requested.loss_skip_tokens, min(SKIPPED_TOKENS, max_completion_tokens - 1) if skips else 0)
    rollout_tokens = facts.demonstration_tokens_p50 if offline_share == 1 else max_completion_tokens
    _check_skip(skip, min(rollout_tokens, max_completion_tokens))
    return TrainingConfig(
        **config,
        max_completion_tokens=max_completion_tokens,
        loss_skip_tokens=skip,
        rollouts_per_prompt=requested.rollouts_per_prompt,
        offline_share=offline_share,
        template=requested.template,
        weak_teacher=requested.weak_teacher,
        objective=resolve_objective(requested.objective, total_steps),
        anchor_weight=value_or(requested.anchor_weight, 0.0),
        teacher=resolve_teacher(requested.teacher, total_steps),
        rehearsal_share=value_or(requested.rehearsal.share, LINEAGE_SHARE if has_earlier else NEUTRAL_SHARE),
        rehearsal_prompts=requested.rehearsal.prompts,
    )
