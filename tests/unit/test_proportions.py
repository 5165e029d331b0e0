"""Intervals of rates and of their differences are those of the papers that they come from."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from app.domain.proportions import Interval, deviations, independent, num_to_show, paired, paired_ratio, wilson


def near(low, high, digits):
    return Interval(pytest.approx(low, abs=0.6 * 10**-digits), pytest.approx(high, abs=0.6 * 10**-digits))


@pytest.mark.parametrize(
    ("lost", "gained", "n", "published"),
    [
        # Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014): airway hyper-responsiveness.
        (7, 1, 21, near(-0.517, -0.026, 3)),
        # Of the R package contingencytables: complete response before and after consolidation therapy.
        (16, 6, 161, near(-0.1240, -0.0054, 4)),
    ],
)
def test_intervals_of_paired_counts_are_those_published(lost, gained, n, published):
    assert paired(lost, gained, n) == published
    there, back = paired(lost, gained, n), paired(gained, lost, n)
    assert (there.low, there.high) == (pytest.approx(-back.high), pytest.approx(-back.low))


@pytest.mark.parametrize("n", [1, 8, 35, 312])
def test_items_of_which_none_changed_leave_wilsons_limit_to_both_sides(n):
    limit = pytest.approx(wilson(0, n).high)
    assert paired(0, 0, n) == Interval(pytest.approx(-wilson(0, n).high), limit)


@pytest.mark.parametrize("n", [1, 8, 40])
def test_a_change_of_every_item_is_at_the_end_of_its_interval(n):
    assert paired(0, n, n).high == 1.0
    assert paired(n, 0, n).low == -1.0


def score_statistic(lost, gained, kept, n, ratio):
    """By its definition: standard errors between the rates and `ratio`, by the likeliest rates that have it."""
    counts = np.array([kept, gained, lost, n - kept - gained - lost])

    def rates(logs):
        only_above, only_below = np.exp(logs)
        both = (ratio * only_below - only_above) / (1 - ratio)
        return np.array([both, only_above, only_below, 1 - both - only_above - only_below])

    def surprise(logs):
        return -(counts * np.log(rates(logs))).sum() if rates(logs).min() > 0 else 1e9

    starts = [np.log([above, below]) for above in (0.03, 0.1, 0.3) for below in (0.03, 0.1, 0.3)]
    exact = {"xatol": 1e-10, "fatol": 1e-12, "maxiter": 20_000}
    ends = [minimize(surprise, one, method="Nelder-Mead", options=exact) for one in starts]
    best = min(ends, key=lambda end: end.fun)
    spread = math.sqrt(n * ratio * np.exp(best.x).sum())
    return (kept + gained - ratio * (kept + lost)) / spread


@pytest.mark.parametrize("counts", [(3, 5, 20, 40), (2, 1, 30, 40), (6, 2, 10, 30)])
def test_the_ends_of_a_ratio_are_two_standard_errors_away(counts):
    interval = paired_ratio(*counts)
    found = [score_statistic(*counts, end) for end in (interval.low, interval.high)]
    assert found == pytest.approx([deviations(0.95), -deviations(0.95)], abs=1e-5)


@pytest.mark.parametrize(("lost", "gained", "kept", "n"), [(3, 5, 20, 40), (0, 0, 40, 40), (0, 4, 30, 40)])
def test_a_ratio_turned_over_has_its_interval_turned_over(lost, gained, kept, n):
    there, back = paired_ratio(lost, gained, kept, n), paired_ratio(gained, lost, kept, n)
    assert (there.low, there.high) == (pytest.approx(1 / back.high), pytest.approx(1 / back.low))


@pytest.mark.parametrize("n", [8, 40, 312])
def test_where_all_are_right_on_both_sides_a_ratio_has_wilsons_limit(n):
    assert paired_ratio(0, 0, n, n).low == pytest.approx(wilson(n, n).low)


def test_nothing_above_the_line_is_a_ratio_of_nothing():
    interval = paired_ratio(5, 0, 0, 40)
    assert interval.low == pytest.approx(0, abs=1e-12)
    assert interval.high < 1


@pytest.mark.parametrize(
    ("one", "other", "published"),
    [
        # Newcombe, Statistics in Medicine 17 (1998) 873-890, table II, method 10.
        ((56, 70), (48, 80), near(0.0524, 0.3339, 4)),
        ((9, 10), (3, 10), near(0.1705, 0.8090, 4)),
        ((10, 10), (0, 20), near(0.6791, 1.0, 4)),
    ],
)
def test_intervals_of_two_independent_rates_are_newcombes(one, other, published):
    (right, n), (others_right, others_n) = one, other
    found = independent(right / n, wilson(right, n), others_right / others_n, wilson(others_right, others_n))
    assert found == published


@pytest.mark.parametrize(("limit", "confidence"), [(0.1, 0.95), (0.02, 0.95), (0.1, 0.8), (0.5, 0.999)])
def test_one_item_less_would_not_show_it(limit, confidence):
    enough = num_to_show(limit, confidence)
    assert wilson(0, enough, confidence).high <= limit < wilson(0, enough - 1, confidence).high


def test_ten_points_take_thirty_five_items_and_all_of_them_none():
    assert (num_to_show(0.1), num_to_show(1.0), num_to_show(5.0)) == (35, 0, 0)


def test_the_usual_confidence_is_two_deviations_but_a_little():
    assert deviations(0.95) == pytest.approx(1.959963984540054)
