"""iSDFT (arXiv 2609.24646): a target on the way from the student to the teacher, no further than it has to be."""

import torch
from torch import Tensor

from worker.sdft.divergences import Pair, forward_kl

MAX_STEPS = 16
TOLERANCE = 1e-6
LOOK_STEPS = 4
"""On an accelerator whether it is enough is looked at only every so often: each look waits for all that is queued."""


def isdft(pair: Pair, *, rho: float, entry_clip: float | None = None) -> tuple[Tensor, Tensor]:
    """KL(q || p) to the constant q that is closest to the student and has ``rho`` of the teacher's advantage.

    The advantage of q is E_q[log t - log p]; the teacher's is KL(t || p). With ``rho`` 1 this is ``forward_kl``.
    """
    advantage_CV = pair.log_t_CV - pair.log_p_CV
    goal_C = rho * (pair.t_CV * advantage_CV).sum(-1)
    tilt_C1 = solve_tilt(pair.log_p_CV, advantage_CV, goal_C) if rho < 1 else torch.ones_like(goal_C)[:, None]
    log_q_CV = (pair.log_p_CV + tilt_C1 * advantage_CV).log_softmax(-1)
    return forward_kl(Pair(pair.log_p_CV, pair.p_CV, log_q_CV, log_q_CV.exp()), entry_clip=entry_clip)


def solve_tilt(log_p_CV: Tensor, advantage_CV: Tensor, goal_C: Tensor) -> Tensor:
    """The l of q = p^(1-l) t^l, normalised, at which E_q[advantage] reaches the goal, [C, 1] in [0, 1].

    The expectation rises with l, and its derivative is the variance: Newton's method, kept inside the bracket that the
    iterates so far have left. Four steps are enough where both are soft; certain of other things, they need more.
    """
    low_C1, high_C1 = torch.zeros_like(goal_C)[:, None], torch.ones_like(goal_C)[:, None]
    tilt_C1 = (low_C1 + high_C1) / 2
    look_steps = _look_steps(log_p_CV.device)
    for step in range(1, MAX_STEPS + 1):
        q_CV = (log_p_CV + tilt_C1 * advantage_CV).softmax(-1)
        mean_C1 = (q_CV * advantage_CV).sum(-1, keepdim=True)
        variance_C1 = (q_CV * (advantage_CV - mean_C1).square()).sum(-1, keepdim=True)
        missing_C1 = goal_C[:, None] - mean_C1
        low_C1 = torch.where(missing_C1 > 0, tilt_C1, low_C1)
        high_C1 = torch.where(missing_C1 > 0, high_C1, tilt_C1)
        newton_C1 = tilt_C1 + missing_C1 / variance_C1
        is_inside_C1 = (newton_C1 >= low_C1) & (newton_C1 <= high_C1)  # false where there is no variance, too
        next_C1 = torch.where(is_inside_C1, newton_C1, (low_C1 + high_C1) / 2)
        moved, tilt_C1 = (next_C1 - tilt_C1).abs().max(), next_C1
        if step % look_steps == 0 and moved < TOLERANCE:
            break
    return tilt_C1


def _look_steps(device: torch.device) -> int:
    return 1 if device.type == "cpu" else LOOK_STEPS
