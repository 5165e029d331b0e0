"""Intervals of rates and of their differences are those of the papers that they come from."""

import pytest

from app.domain.proportions import Interval, deviations, independent, num_to_show, paired, wilson


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
