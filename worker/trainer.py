"""The training loop, as the paper tells it.

Sample from the student, score the same ids under the teacher's context, step towards the teacher, report, maybe
checkpoint.

Knows neither transformers nor file formats: a policy speaks for the first, ``Checkpoints`` for the second.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from app.domain.demonstrations import Demonstration
from app.domain.training import TrainingConfig
from worker.examples import Rehearsal, Task, encode_rehearsal, encode_tasks
from worker.hf.checkpoint import Checkpoints, CheckpointState
from worker.objective import divergence
from worker.reporting import Reporter
from worker.sdft.align import Aligned
from worker.sdft.policy import Policy, Rollout
from worker.sdft.student import backward
from worker.sdft.teacher import follow, parent_hidden, teacher_hidden
from worker.step_metrics import Phases, measure
from worker.train_state import TrainState

TEACHER_TOKENS = 8192
STUDENT_TOKENS = 2048
"""Padded tokens of a micro-batch; the student's keeps its activations."""


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Args:
        step: Steps done since the job began.
        trained_tokens: Completion tokens with loss since then.
        generated_tokens: Sampled from the student since then.
        seconds: That its steps took since then, with what the first attempt made ready for them.
        finished: False if it was asked to stop; its last checkpoint then holds all of it.
    """

    step: int
    trained_tokens: int
    generated_tokens: int
    seconds: float
    finished: bool


def train(  # noqa: PLR0917 - what is trained, on what, how; who is told; from where
    policy: Policy,
    demonstrations: Sequence[Demonstration],
    rehearsal: Rehearsal,
    config: TrainingConfig,
    reporter: Reporter,
    checkpoints: Checkpoints | None,
    resume: CheckpointState | None = None,
) -> TrainResult:
    """Train the policy's student.

    Args:
        policy: Student and teacher.
        demonstrations: The training part of the data.
        rehearsal: Neutral conversations or of earlier skills; ``config.num_rehearsal`` a step.
        config: Every number fixed, the template too.
        reporter: Told of each step and checkpoint; asked whether to stop.
        checkpoints: Where they go, and when one is due; none of a run that begins anew rather than goes on.
        resume: The last checkpoint of an earlier attempt.

    Raises:
        Diverged: A guard ended the run; the last good checkpoint is as it was.
        Unprocessable: An example does not fit the context.
    """
    began, is_over = time.perf_counter(), resume is not None and resume.facts["step"] == config.total_steps
    tasks = encode_tasks(policy, demonstrations, config)
    num_rehearsal = config.num_rehearsal if config.method == "sdft" and not is_over else 0
    neutral = encode_rehearsal(policy, rehearsal, config) if num_rehearsal else []
    if config.teacher.rate:
        policy.add_teacher()
    state = TrainState(policy, config, num_tasks=len(tasks), num_neutral=len(neutral))
    if resume:
        state.restore(resume)
    else:
        state.seconds = time.perf_counter() - began

    stop = False
    while state.step < config.total_steps and not stop:
        drawn = [tasks[index] for index in state.tasks.take(config.batch_size)]
        chosen = [task for task in drawn for _ in range(config.rollouts_per_prompt)]
        chosen += [neutral[index] for index in state.neutral.take(num_rehearsal if neutral else 0)]
        metrics = _step(policy, chosen, state, config)
        reporter.step(state.step, config.total_steps, state.trained_tokens, metrics)
        stop = reporter.should_stop()
        if checkpoints and (stop or checkpoints.due() or state.step == config.total_steps):
            folder = checkpoints.write(state.step, policy, state.tensors(), state.facts())
            reporter.checkpoint(state.step, folder, metrics)
    finished = state.step == config.total_steps
    return TrainResult(state.step, state.trained_tokens, state.generated_tokens, state.seconds, finished)


def _step(policy: Policy, chosen: Sequence[Task], state: TrainState, config: TrainingConfig) -> dict[str, float]:
    """Take one step towards the teacher along the rollouts; what it shows."""
    distils, phases = config.method == "sdft", Phases(policy.device)
    own = chosen[: config.num_rollouts] if distils else []
    rollouts = _roll_out(policy, own, config, state.generator)
    rollouts += [Rollout(task.prompt, task.answer, stopped=True, sampled=False) for task in chosen[len(own) :]]
    phases.end("rollout")

    sequences = [
        Aligned(task.prompt, task.teacher_prompt, rollout.ids, task.skip, task.taught_by, task.weight)
        for task, rollout in zip(chosen, rollouts, strict=True)
    ]
    by_place = {place: sequence for place, sequence in enumerate(sequences) if sequence.num_rows}
    scored = list(by_place.values())
    target = teacher_hidden(policy, scored, max_tokens=TEACHER_TOKENS) if distils else None
    parent = parent_hidden(policy, scored, max_tokens=TEACHER_TOKENS) if config.anchor_weight else None
    phases.end("teacher")

    state.optimizer.zero_grad()
    means = backward(
        policy, scored, target, max_tokens=STUDENT_TOKENS, divergence=divergence(config.objective, state.step),
        parent=parent, anchor_weight=config.anchor_weight,
    )  # fmt: skip
    grad_norm = torch.nn.utils.clip_grad_norm_(policy.parameters().values(), config.max_grad_norm).item()
    phases.end("student")

    metrics = {"learning_rate": state.set_rate(config), "grad_norm": grad_norm}
    metrics |= measure(policy, rollouts, dict(zip(by_place, means, strict=True)), config)
    state.guards.check(metrics)
    state.optimizer.step()
    state.step += 1
    if config.teacher.rate and state.step % (config.teacher.every or 1) == 0:
        follow(policy.parameters(), policy.teacher_parameters(), rate=config.teacher.rate)
    phases.end("optimizer")

    num_tokens, seconds = sum(len(rollout.ids) for rollout in rollouts), sum(phases.seconds.values())
    state.seconds += seconds
    state.trained_tokens += sum(sequence.num_rows for sequence in sequences)
    state.generated_tokens += sum(len(rollout.ids) for rollout in rollouts if rollout.sampled)
    return metrics | phases.seconds | {"tokens_per_second": num_tokens / seconds}


def _roll_out(
    policy: Policy, tasks: Sequence[Task], config: TrainingConfig, generator: torch.Generator
) -> list[Rollout]:
    """What the student says to each task or, of ``config.offline_share``, the demonstration in its place.

    The share is what one less GKD's ``lmbda`` is (arXiv 2306.13649). Nothing is drawn for it where it is 0.
    """
    share, longest = config.offline_share, config.max_completion_tokens
    are_offline = (torch.rand(len(tasks), generator=generator) < share).tolist() if share else [False] * len(tasks)
    prompts = [task.prompt for task, is_offline in zip(tasks, are_offline, strict=True) if not is_offline]
    said = iter(policy.sample(prompts, longest, generator=generator) if prompts else [])
    return [
        Rollout(task.prompt, task.answer[:longest], stopped=len(task.answer) <= longest, sampled=False)
        if is_offline
        else next(said)
        for task, is_offline in zip(tasks, are_offline, strict=True)
    ]
