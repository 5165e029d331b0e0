"""Learning rate and ramps as functions of the step: nothing to save, nothing to restore."""

import math


def learning_rate(step: int, *, peak: float, warmup_steps: int, total_steps: int, final_ratio: float) -> float:
    """Linear warm-up to ``peak``, then a cosine down to ``final_ratio * peak`` at the last step.

    Args:
        step: Counted from 1.
        peak: Reached at the end of the warm-up.
        warmup_steps: Steps until then.
        total_steps: The step that gets the final rate.
        final_ratio: Of the peak.
    """
    if step <= warmup_steps:
        return peak * step / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * (final_ratio + (1 - final_ratio) * (1 + math.cos(math.pi * done)) / 2)


def ramp(step: int, *, start: float, end: float, num_steps: int) -> float:
    """A line from ``start`` at step 0 to ``end`` at step ``num_steps``, and level from there."""
    return end if step >= num_steps else start + (end - start) * step / num_steps
