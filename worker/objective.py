"""From a job's objective, at one of its steps, to the function that compares student and teacher."""

from functools import partial

from app.domain.distillation import ObjectiveConfig
from worker.sdft.divergences import Divergence, forward_kl, jsd, reverse_kl
from worker.sdft.isdft import isdft
from worker.sdft.schedule import ramp


def divergence(objective: ObjectiveConfig, step: int) -> Divergence:
    """What the job's objective is at a step, counted from 0."""
    kind, clip = objective.kind, objective.entry_clip
    if kind == "jsd" and objective.alpha is not None:
        return partial(jsd, alpha=objective.alpha, entry_clip=clip)
    if kind == "isdft" and objective.rho0 is not None and objective.rho1 is not None:
        rho = ramp(step, start=objective.rho0, end=objective.rho1, num_steps=objective.ramp_steps or 0)
        return partial(isdft, rho=rho, entry_clip=clip)
    return partial(reverse_kl if kind == "reverse_kl" else forward_kl, entry_clip=clip)
