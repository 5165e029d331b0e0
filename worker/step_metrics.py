"""What a step shows of itself: seconds of its parts, losses, and how the rollouts look."""

import time
from statistics import fmean

import torch

from app.domain.training import TrainingConfig
from worker.sdft.monitor import artefact_rate, distinct_4
from worker.sdft.policy import Policy, Rollout


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


def measure(
    policy: Policy, rollouts: list[Rollout], known: dict[int, dict[str, float]], config: TrainingConfig
) -> dict[str, float]:
    """What a step shows, from its rollouts and from what is known of those that carried loss, by place in the step.

    The first ``num_rollouts`` are the tasks, the rest is rehearsal. How rollouts look tells of the student only
    where it said them.
    """
    tasks = [means for place, means in known.items() if place < config.num_rollouts]
    neutral = [means["loss"] for place, means in known.items() if place >= config.num_rollouts]
    learned = rollouts[: config.num_rollouts]
    said = [rollout for rollout in learned if rollout.sampled]
    metrics = {"completion_tokens_mean": fmean(len(rollout.ids) for rollout in learned)}
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
    if said:
        metrics |= {
            "truncated_share": fmean(not rollout.stopped for rollout in said),
            "distinct_4": distinct_4([rollout.ids for rollout in said]),
            "artefact_rate": artefact_rate([policy.decode(rollout.ids) for rollout in said]),
        }
    return metrics
