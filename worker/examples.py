"""What a step may ask of the student, in ids: demonstrations and rehearsal prompts of a job, encoded once.

Nothing is ever cut. Knows a policy and what a job trains with; no steps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from app.domain.demonstrations import Demonstration
from app.domain.errors import Unprocessable
from app.domain.training import TrainingConfig
from worker.sdft.policy import Arm, Policy
from worker.sdft.prompts import TEMPLATES, teacher_messages

MAX_REHEARSED = 512
"""Rehearsal sequences of a job; steps that ask for more see them again."""

REHEARSAL_WEIGHT = 2.0
"""Of a rehearsal sequence in a step's mean, against 1 of all rollouts of a demonstration: as if there were twice as
many, which would take twice the time."""

Rehearsal = Mapping[Arm, Sequence[Sequence[Mapping[str, Any]]]]
"""Conversations without an answer, by whose answer the student is to keep."""

_TAUGHT_BY: Mapping[str, Arm] = {"frozen": "parent", "ema": "teacher", "hard_sync": "teacher", "live": "student"}


@dataclass(frozen=True)
class Task:
    """What a step may ask of the student.

    Args:
        prompt: The student's context.
        teacher_prompt: The teacher's: with the demonstration, or the same one for rehearsal.
        taught_by: Whose weights the teacher has.
        answer: The expert's; for rehearsal, what its teacher said.
        skip: Completion tokens at the start without loss. Rehearsal has no demonstration to give away, so none.
        weight: In the step's mean, of each rollout.
    """

    prompt: list[int]
    teacher_prompt: list[int]
    taught_by: Arm
    answer: list[int]
    skip: int
    weight: float = 1.0


def encode_tasks(policy: Policy, demonstrations: Sequence[Demonstration], config: TrainingConfig) -> list[Task]:
    """Demonstrations as ids.

    Raises:
        Unprocessable: Some examples are too long; each is named by its line.
    """
    taught_by = _TAUGHT_BY[config.teacher.kind]
    tasks = []
    for demonstration in demonstrations:
        answer = policy.encode_completion(demonstration.completion)
        prompt = policy.encode_chat(demonstration.messages)
        shown = prompt
        if config.method == "sdft":
            shown = policy.encode_chat(teacher_messages(config.template, demonstration))
        weight = 1 / config.rollouts_per_prompt
        tasks.append(Task(prompt, shown, taught_by, answer, config.loss_skip_tokens, weight))
    _refuse_long(policy, tasks, demonstrations, config)
    return tasks


def prompt_room(policy: Policy, config: TrainingConfig) -> int:
    """Tokens that a prompt may have if an answer is to fit behind it."""
    return policy.context_tokens - config.max_completion_tokens


def encode_rehearsal(policy: Policy, rehearsal: Rehearsal, config: TrainingConfig) -> list[Task]:
    """Rehearsal prompts with what the weights say to them that also teach.

    Their answers are sampled once, all together, and not from the student at every step: the student is to stay what
    they are, on what they say. Prompts that leave no room for an answer are left out, as ``worker.rehearsal`` says.
    """
    generator = torch.Generator().manual_seed(config.seed)
    room = prompt_room(policy, config)
    fitting = [
        (arm, ids)
        for arm, prompts in rehearsal.items()
        for messages in prompts
        if len(ids := policy.encode_chat(messages)) <= room
    ]
    num_sequences = min(MAX_REHEARSED, config.num_rehearsal * config.total_steps)
    passes = math.ceil(num_sequences / len(fitting)) if fitting else 0
    shuffled = [fitting[index] for _ in range(passes) for index in torch.randperm(len(fitting), generator=generator)]
    drawn = shuffled[:num_sequences]
    tasks: dict[int, Task] = {}
    for arm in rehearsal:
        places = [place for place, (taught_by, _) in enumerate(drawn) if taught_by == arm]
        prompts = [drawn[place][1] for place in places]
        rollouts = policy.sample(prompts, config.max_completion_tokens, generator=generator, arm=arm)
        for place, said in zip(places, rollouts, strict=True):
            tasks[place] = Task(said.prompt, said.prompt, arm, said.ids, 0, REHEARSAL_WEIGHT)
    return [tasks[place] for place in range(len(drawn))]


def _refuse_long(
    policy: Policy, tasks: Sequence[Task], demonstrations: Sequence[Demonstration], config: TrainingConfig
) -> None:
    refused, errors = [], []
    for task, demonstration in zip(tasks, demonstrations, strict=True):
        answer = config.max_completion_tokens if config.method == "sdft" else len(task.answer)
        needed = len(task.teacher_prompt) + answer
        if needed > policy.context_tokens:
            refused.append((task, demonstration))
            message = f"needs {needed} tokens of context, the base has {policy.context_tokens}"
            errors.append({"code": "example_too_long", "line": demonstration.line, "message": message})
    if errors:
        shown = "the answer" if config.method != "sdft" else "the demonstration shown to the teacher and an answer"
        message = (
            f"Examples that do not fit the base's context with room for {shown}: {len(errors)} of {len(tasks)}. "
            f"{_way_out(policy, refused, config)}"
        )
        raise Unprocessable("example_too_long", message, param="training_file", errors=errors)


def _way_out(policy: Policy, refused: Sequence[tuple[Task, Demonstration]], config: TrainingConfig) -> str:
    """What would make all of these fit. An answer is as long as its demonstration at least, as the service has it."""
    ways = ["Shorten or remove them"]
    if config.method == "sdft":
        room = min(policy.context_tokens - len(task.teacher_prompt) for task, _ in refused)
        if room >= max(len(task.answer) for task, _ in refused):
            ways.append(f"lower max_completion_tokens to {room}")
        others = [
            name
            for name in TEMPLATES
            if name != config.template
            and all(
                len(policy.encode_chat(teacher_messages(name, one))) <= prompt_room(policy, config)
                for _, one in refused
            )
        ]
        ways += [f"set template to {' or '.join(others)}"] if others else []
    return f"{', or '.join(ways)}."
