"""The training loop, as the paper tells it.

Sample from the student, score the same ids under the teacher's context, step towards the teacher, report, maybe
checkpoint.

Knows neither transformers nor file formats: a policy speaks for the first, ``Checkpoints`` for the second.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import torch

from app.domain.demonstrations import Demonstration
from app.domain.distillation import ObjectiveConfig
from app.domain.training import TrainingConfig
from worker.examples import Rehearsal, Task, encode_rehearsal, encode_tasks
from worker.hf.checkpoint import Checkpoints, CheckpointState
from worker.reporting import Reporter
from worker.sdft.align import Aligned
from worker.sdft.divergences import Divergence, forward_kl, jsd, reverse_kl
from worker.sdft.isdft import isdft
from worker.sdft.monitor import artefact_rate, distinct_4
from worker.sdft.policy import Policy, Rollout
from worker.sdft.schedule import learning_rate, ramp
from worker.sdft.student import backward
from worker.sdft.teacher import follow, parent_hidden, teacher_hidden
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
    """Take one step towards the teacher on the student's own samples; what it shows."""
    distils, phases = config.method == "sdft", Phases(policy.device)
    own = chosen[: config.num_rollouts] if distils else []
    generator = state.generator
    rollouts = policy.sample([task.prompt for task in own], config.max_completion_tokens, generator=generator)
    rollouts += [Rollout(task.prompt, task.answer, stopped=True) for task in chosen[len(own) :]]
    phases.end("rollout")

    sequences = [
        Aligned(task.prompt, task.teacher_prompt, rollout.ids, task.skip, task.taught_by, task.weight)
        for task, rollout in zip(chosen, rollouts, strict=True)
    ]
    live = [place for place, sequence in enumerate(sequences) if sequence.num_rows]
    scored = [sequences[place] for place in live]
    target = teacher_hidden(policy, scored, max_tokens=TEACHER_TOKENS) if distils else None
    parent = parent_hidden(policy, scored, max_tokens=TEACHER_TOKENS) if config.anchor_weight else None
    phases.end("teacher")

    state.optimizer.zero_grad()
    means = backward(
        policy, scored, target, max_tokens=STUDENT_TOKENS, divergence=_divergence(config.objective, state.step),
        parent=parent, anchor_weight=config.anchor_weight,
    )  # fmt: skip
    grad_norm = torch.nn.utils.clip_grad_norm_(policy.parameters().values(), config.max_grad_norm).item()
    phases.end("student")

    metrics = {"learning_rate": _set_rate(state, config), "grad_norm": grad_norm}
    metrics |= _measure(policy, rollouts, dict(zip(live, means, strict=True)), config)
    state.guards.check(metrics)
    state.optimizer.step()
    state.step += 1
    if config.teacher.rate and state.step % (config.teacher.every or 1) == 0:
        follow(policy.parameters(), policy.teacher_parameters(), rate=config.teacher.rate)
    phases.end("optimizer")

    num_tokens, seconds = sum(len(rollout.ids) for rollout in rollouts), sum(phases.seconds.values())
    state.seconds += seconds
    state.trained_tokens += sum(sequence.num_rows for sequence in sequences)
    state.generated_tokens += sum(len(rollout.ids) for rollout in rollouts[: len(own)])
    return metrics | phases.seconds | {"tokens_per_second": num_tokens / seconds}


class Phases:
    """Seconds of each part of a step.

    Args:
        device: Waited for at the end of a part; work is queued there.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def end(self, phase: str) -> None:
        """A part is over and the next one begins."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.seconds[f"seconds_{phase}"] = now - self._began
        self._began = now


def _divergence(objective: ObjectiveConfig, step: int) -> Divergence:
    """What the job's objective is at a step, counted from 0."""
    kind, clip = objective.kind, objective.entry_clip
    if kind == "jsd" and objective.alpha is not None:
        return partial(jsd, alpha=objective.alpha, entry_clip=clip)
    if kind == "isdft" and objective.rho0 is not None and objective.rho1 is not None:
        rho = ramp(step, start=objective.rho0, end=objective.rho1, num_steps=objective.ramp_steps or 0)
        return partial(isdft, rho=rho, entry_clip=clip)
    return partial(reverse_kl if kind == "reverse_kl" else forward_kl, entry_clip=clip)


def _set_rate(state: TrainState, config: TrainingConfig) -> float:
    rate = learning_rate(
        state.step + 1,
        peak=config.learning_rate,
        warmup_steps=config.warmup_steps,
        total_steps=config.total_steps,
        final_ratio=config.final_learning_rate_ratio,
    )
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    return rate


def _measure(
    policy: Policy, rollouts: list[Rollout], known: dict[int, dict[str, float]], config: TrainingConfig
) -> dict[str, float]:
    """What a step shows, from its rollouts and from what is known of those that carried loss, by place in the step.

    The first ``num_rollouts`` are the tasks, the rest is rehearsal.
    """
    tasks = [means for place, means in known.items() if place < config.num_rollouts]
    neutral = [means["loss"] for place, means in known.items() if place >= config.num_rollouts]
    said = rollouts[: config.num_rollouts]
    metrics = {"completion_tokens_mean": fmean(len(rollout.ids) for rollout in said)}
    if tasks:
        mean = {name: fmean(means[name] for means in tasks) for name in tasks[0]}
        metrics |= {"train_loss": mean["loss"], "train_accuracy": mean["agreement"]}
        metrics["student_entropy"] = mean["student_entropy"]
        if config.method == "sdft":
            metrics |= {"teacher_entropy": mean["teacher_entropy"], "topk_overlap": mean["overlap"]}
        if config.anchor_weight:
            metrics["anchor_kl"] = mean["anchor"]
    if neutral:
        metrics["rehearsal_loss"] = fmean(neutral)
    if config.method == "sdft":
        metrics |= {
            "truncated_share": fmean(not rollout.stopped for rollout in said),
            "distinct_4": distinct_4([rollout.ids for rollout in said]),
            "artefact_rate": artefact_rate([policy.decode(rollout.ids) for rollout in said]),
        }
    return metrics
