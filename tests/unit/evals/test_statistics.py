"""Intervals and tests agree with scipy, and verdicts do not claim what a sample cannot show."""

import math

import numpy as np
import pytest
from scipy import stats

from app.domain import proportions
from app.domain.proportions import wilson
from worker.evals.statistics import (
    RESAMPLES,
    Estimate,
    Interval,
    Loss,
    conclude,
    conclude_kept,
    holm,
    mcnemar,
    paired_difference,
    paired_ratio,
    paired_shift,
    shift_p_value,
    shift_ratio,
)


@pytest.mark.parametrize(("successes", "n"), [(0, 40), (1, 7), (38, 40), (40, 40), (97, 200)])
def test_wilson_is_scipys(successes: int, n: int) -> None:
    reference = stats.binomtest(successes, n).proportion_ci(0.95, "wilson")
    assert wilson(successes, n) == Interval(pytest.approx(reference.low), pytest.approx(reference.high))


def test_wilsons_bounds_of_a_mean_count_are_where_its_score_test_is_just_passed() -> None:
    num_right, n = 30.4, 38.5
    interval = wilson(num_right, n)
    for rate in (interval.low, interval.high):
        assert abs(num_right / n - rate) == pytest.approx(stats.norm.ppf(0.975) * math.sqrt(rate * (1 - rate) / n))
    assert interval.low < num_right / n < interval.high


def test_nothing_counted_leaves_every_rate_possible() -> None:
    assert wilson(0, 0) == Interval(0.0, 1.0)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (0, 5), (5, 0), (3, 9), (40, 38)])
def test_mcnemar_is_the_two_sided_binomial_test(lost: int, gained: int) -> None:
    reference = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert mcnemar(lost, gained) == pytest.approx(reference)


@pytest.mark.parametrize("n", [8, 20, 60])
def test_a_ratio_of_means_ends_where_a_t_test_just_excludes_it(n: int) -> None:
    rng = np.random.default_rng(3)
    below = rng.exponential(size=n)
    above = 0.7 * below + rng.normal(0, 0.3, size=n)
    found = shift_ratio(above.tolist(), below.tolist())
    assert found is not None
    assert (found.value, found.n) == (pytest.approx(above.mean() / below.mean()), n)
    assert found.interval.low < found.value < found.interval.high
    for end in (found.interval.low, found.interval.high):
        assert stats.ttest_1samp(above - end * below, 0).pvalue == pytest.approx(0.05, rel=0.01)


def test_the_studentised_bootstrap_is_students_t_for_normal_numbers() -> None:
    """Of many normal numbers both are the same interval; scipy's t is the reference."""
    values = np.random.default_rng(8).normal(0.2, 1.0, size=400)
    found = paired_shift(values.tolist(), [0.0] * 400, seed=0)
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.value == pytest.approx(values.mean())
    assert found.interval == Interval(pytest.approx(reference.low, abs=0.01), pytest.approx(reference.high, abs=0.01))


def test_numbers_without_any_spread_have_an_interval_without_width() -> None:
    assert paired_shift([0.3] * 8, [0.1] * 8, seed=0).interval == Interval(pytest.approx(0.2), pytest.approx(0.2))


@pytest.mark.parametrize("shift", [-0.4, -0.2, 0.0, 0.1, 0.3])
def test_the_p_value_of_a_shift_is_students_t_for_normal_numbers(shift: float) -> None:
    values = np.random.default_rng(9).normal(shift, 1.0, size=200)
    reference = float(stats.ttest_1samp(values, 0).pvalue)
    assert shift_p_value(values.tolist(), [0.0] * 200, seed=0) == pytest.approx(reference, abs=0.02)


@pytest.mark.parametrize("seed", range(20))
def test_the_p_value_of_a_shift_falls_short_of_five_per_cent_where_its_interval_excludes_zero(seed: int) -> None:
    values = np.random.default_rng(seed).normal(0.35, 1.0, size=30).tolist()
    interval = paired_shift(values, [0.0] * 30, seed=0).interval
    assert (shift_p_value(values, [0.0] * 30, seed=0) < 0.05) == (interval.low > 0 or interval.high < 0)


def test_the_p_value_of_a_shift_is_no_less_than_the_resamples_can_show() -> None:
    far = [10.0 + number / 100 for number in range(40)]
    assert shift_p_value(far, [0.0] * 40, seed=0) == 1 / (RESAMPLES + 1)
    assert shift_p_value([0.3] * 8, [0.1] * 8, seed=0) == 1 / (RESAMPLES + 1)
    assert shift_p_value([0.3] * 8, [0.3] * 8, seed=0) == 1.0


def test_one_likelihood_shows_no_shift() -> None:
    assert shift_p_value([0.3], [0.1], seed=0) == 1.0


def test_the_bootstrap_repeats_itself_under_a_seed_and_not_under_another() -> None:
    after, before = [1.0, 0.0, 1.0, 1.0, 0.0, 0.3], [0.0] * 6
    assert paired_shift(after, before, seed=1) == paired_shift(after, before, seed=1)
    rng = np.random.default_rng(0)
    noise, zeros = rng.normal(size=50).tolist(), [0.0] * 50
    assert paired_shift(noise, zeros, seed=1) != paired_shift(noise, zeros, seed=2)


def test_samples_of_different_length_are_not_paired() -> None:
    with pytest.raises(ValueError, match="equally long"):
        paired_difference([1.0], [1.0, 0.0])


def test_a_ratio_of_equal_samples_is_one_but_not_for_certain() -> None:
    scores = [1.0] * 30 + [0.0] * 10
    found = paired_ratio(scores, scores)
    assert found is not None
    assert (found.value, found.n) == (1.0, 40)
    assert found.interval.low < 0.92
    assert found.interval.high > 1.08


def test_a_ratio_counts_what_is_right_on_each_side() -> None:
    above, below = [1.0] * 12 + [0.0] * 8 + [1.0] * 2, [1.0] * 16 + [0.0] * 6
    found = paired_ratio(above, below)
    assert found == Estimate(14 / 16, proportions.paired_ratio(4, 2, 12, 22), 22)


def test_a_ratio_to_nothing_is_no_ratio() -> None:
    assert paired_ratio([1.0] * 40, [1.0] * 9 + [0.0] * 31) is None
    assert shift_ratio([1.0] * 8, [0.0, 1.0] * 4) is not None
    assert shift_ratio([1.0] * 8, [-1.0, 2.0] * 4) is None
    assert shift_ratio([1.0] * 8, [-1.0] * 8) is None
    assert shift_ratio([1.0] * 7, [1.0] * 7) is None  # too few for an interval


def test_the_numbers_are_those_of_statsmodels() -> None:
    """Of statsmodels 0.15.0: proportion_confint, mcnemar(exact=True), multipletests("holm")."""
    assert wilson(234, 312) == Interval(pytest.approx(0.6991081561138155), pytest.approx(0.7948105351893504))
    assert mcnemar(40, 38) == pytest.approx(0.9099464518745242)
    assert mcnemar(3, 9) == pytest.approx(0.14599609375)
    assert holm([0.01, 0.04, 0.03, 0.005, 0.2]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.2])


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


def _estimate(low: float, high: float, n: int = 200) -> Estimate:
    return Estimate((low + high) / 2, Interval(low, high), n)


def _loss(num_lost: int, num_had: int) -> Loss:
    return Loss(num_lost, num_had, proportions.tail(num_lost, num_had, 0.1))


@pytest.mark.parametrize(
    ("low", "high", "n", "p_value", "verdict"),
    [
        (0.2, 0.5, 40, 0.001, "better"),
        (-0.5, -0.2, 40, 0.001, "worse"),
        (-0.05, 0.08, 200, 0.8, "same"),
        (-0.08, -0.02, 200, 0.01, "same"),
        (-0.2, 0.1, 40, 0.7, "insufficient_evidence"),
        (0.1, 0.6, 8, 0.25, "insufficient_evidence"),
    ],
)
def test_a_verdict_needs_its_evidence(low: float, high: float, n: int, p_value: float, verdict: str) -> None:
    assert conclude(_estimate(low, high, n), margin=0.1, p_value=p_value) == verdict


@pytest.mark.parametrize(
    ("low", "high", "lost", "verdict"),
    [
        (0.0, 0.125, (0, 100), "same"),
        (0.0, 0.125, (0, 34), "insufficient_evidence"),
        (-0.08, 0.2, None, "same"),
        (-0.11, 0.2, (5, 100), "insufficient_evidence"),
        (-0.05, 0.05, (45, 233), "worse"),
        (-0.05, 0.05, (28, 233), "insufficient_evidence"),
        (-0.05, 0.05, (23, 233), "same"),
        (-0.05, 0.05, (1, 1), "insufficient_evidence"),
        (-0.09, -0.03, (20, 21), "worse"),
    ],
)
def test_of_what_was_there_before_a_gain_is_no_harm_and_a_loss_is_one_of_what_was_right(
    low: float, high: float, lost: tuple[int, int] | None, verdict: str
) -> None:
    assert conclude_kept(_estimate(low, high), _loss(*lost) if lost else None, margin=0.1, p_value=0.5) == verdict


def test_what_is_better_on_the_whole_need_not_have_been_known() -> None:
    assert conclude_kept(_estimate(0.3, 0.6), _loss(0, 3), margin=0.1, p_value=0.001) == "better"
    assert conclude_kept(_estimate(0.3, 0.6), _loss(1, 3), margin=0.1, p_value=0.001) == "insufficient_evidence"
    # A little better, and the gate passes it too.
    assert conclude_kept(_estimate(0.02, 0.08), _loss(0, 6), margin=0.1, p_value=0.008) == "same"
    assert conclude_kept(_estimate(0.02, 0.08), _loss(0, 6), margin=0.1, p_value=0.2) == "insufficient_evidence"


@pytest.mark.parametrize(("n", "verdict"), [(1, "insufficient_evidence"), (34, "insufficient_evidence"), (35, "same")])
def test_thirty_five_unchanged_items_are_what_ten_points_take(n: int, verdict: str) -> None:
    unchanged = paired_difference([1.0] * n, [1.0] * n)
    assert conclude(unchanged, margin=0.1, p_value=1.0) == verdict


@pytest.mark.parametrize(
    ("low", "high", "p_value", "verdict"),
    [
        (0.2, 0.5, 0.01, "better"),
        (-0.5, -0.2, 0.01, "worse"),
        (-0.5, -0.2, 0.06, "insufficient_evidence"),
        (-0.05, 0.08, 0.8, "same"),
    ],
)
def test_likelihoods_need_eight_items_and_no_more(low: float, high: float, p_value: float, verdict: str) -> None:
    assert conclude(_estimate(low, high, 8), margin=0.1, p_value=p_value, counted=False) == verdict
    few = conclude(_estimate(low, high, 7), margin=0.1, p_value=p_value, counted=False)
    assert few == "insufficient_evidence"
