"""Learning rate by step."""

import pytest

from worker.sdft.schedule import learning_rate


def rates(*, warmup_steps, total_steps):
    return [
        learning_rate(step, peak=2.0, warmup_steps=warmup_steps, total_steps=total_steps, final_ratio=0.1)
        for step in range(1, total_steps + 1)
    ]


def test_rises_to_the_peak_in_a_line_and_falls_to_the_final_ratio():
    curve = rates(warmup_steps=4, total_steps=20)
    assert curve[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert curve[3:] == sorted(curve[3:], reverse=True)
    assert curve[11] == pytest.approx(1.1)
    assert curve[-1] == pytest.approx(0.2)


@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(0, 1), (1, 1), (5, 5), (0, 7)])
def test_short_jobs_have_a_positive_rate_at_every_step(warmup_steps, total_steps):
    assert all(rate > 0 for rate in rates(warmup_steps=warmup_steps, total_steps=total_steps))
