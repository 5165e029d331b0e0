"""By simulation: intervals hold the truth as often as they say, and ``worse`` is said of what is not in 5 % at most."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product

import numpy as np
import pytest
from scipy import stats

from app.domain.forgetting import judge_share_lost
from app.domain.proportions import Interval, paired_ratio, tail, wilson
from worker.evals import statistics
from worker.evals.statistics import (
    Estimate,
    Loss,
    Verdict,
    conclude,
    conclude_kept,
    holm,
    mcnemar,
    paired_difference,
    paired_shift,
    shift_p_value,
    shift_ratio,
)

TRIALS = 400
MARGIN = 0.1
Draw = Callable[[np.random.Generator, int], np.ndarray]
LIKELIHOODS: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy": lambda rng, n: rng.standard_t(3, size=n),
    "skewed": lambda rng, n: rng.exponential(size=n) - 1,
}
"""Differences without any true change."""


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 2000)


@pytest.mark.parametrize("n", [20, 40, 312])
def test_wilson_covers_at_its_nominal_rate(n: int) -> None:
    """Exactly, over all counts: 95 % on average over rates, and never much less."""
    intervals = [wilson(count, n) for count in range(n + 1)]
    covered = [
        sum(
            stats.binom.pmf(count, n, rate)
            for count, interval in enumerate(intervals)
            if interval.low <= rate <= interval.high
        )
        for rate in np.linspace(0.05, 0.95, 91)
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)
    assert min(covered) > 0.91


@cache
def _counted(lost: int, gained: int, n: int) -> Estimate:
    """Ten thousand trials meet the same few counts again and again."""
    return paired_difference(
        [0.0] * lost + [1.0] * gained + [0.0] * (n - lost - gained), [1.0] * lost + [0.0] * (n - lost)
    )


def _outcomes(n: int, lost: float, gained: float) -> Iterator[tuple[int, int, float]]:
    """All counts of lost and gained items that are not next to impossible, with their probability."""
    counts = [range(int(n * rate + 8 * math.sqrt(n * rate)) + 2) for rate in (lost, gained)]
    for pair in product(*counts):
        if sum(pair) <= n:
            yield *pair, float(stats.multinomial.pmf([*pair, n - sum(pair)], n, [lost, gained, 1 - lost - gained]))


@pytest.mark.parametrize("n", [8, 40, 100])
@pytest.mark.parametrize(
    ("lost", "gained"),
    [(0.0, 0.0), (0.01, 0.0), (0.02, 0.02), (0.05, 0.0), (0.05, 0.01), (0.2, 0.0), (0.15, 0.15), (0.05, 0.4)],
)
def test_intervals_of_paired_counts_cover_at_their_nominal_rate(n: int, lost: float, gained: float) -> None:
    """Exactly, over all counts. Where few answers change, too, which is the usual case: never much less than 95 %."""
    below, above = _missed(n, lost, gained)
    assert below + above <= 0.075
    assert max(below, above) <= 0.051


@pytest.mark.parametrize(("lost", "gained"), [(0.2, 0.0), (0.15, 0.15), (0.05, 0.4)])
def test_intervals_of_paired_counts_are_no_wider_than_they_have_to_be(lost: float, gained: float) -> None:
    """An interval of all that there is would never miss."""
    assert sum(_missed(100, lost, gained)) >= 0.04


def _missed(n: int, lost: float, gained: float) -> tuple[float, float]:
    """How likely the true difference lies below the interval, and above it."""
    below = above = 0.0
    for num_lost, num_gained, probability in _outcomes(n, lost, gained):
        interval = _counted(num_lost, num_gained, n).interval
        below += probability * (gained - lost < interval.low)
        above += probability * (gained - lost > interval.high)
    return below, above


@cache
def _ratio(lost: int, gained: int, kept: int, n: int) -> Interval:
    return paired_ratio(lost, gained, kept, n)


@pytest.mark.parametrize("n", [20, 40, 100])
@pytest.mark.parametrize(
    ("above", "below", "both"),
    [(0.98, 0.98, 0.97), (0.9, 0.95, 0.88), (0.9, 0.98, 0.89), (0.5, 0.95, 0.5), (0.95, 0.7, 0.68), (0.6, 0.6, 0.45)],
)
def test_intervals_of_ratios_cover_at_their_nominal_rate(n: int, above: float, below: float, both: float) -> None:
    """Where nearly all is right too, which is the usual case: a percentile bootstrap covers 92 % of the second case."""
    rng = np.random.default_rng(17)
    chances = [both, above - both, below - both, 1 - above - below + both]
    counts = [[int(one) for one in trial] for trial in rng.multinomial(n, chances, size=4000)]
    intervals = [_ratio(lost, gained, kept, n) for kept, gained, lost, _ in counts]
    missed = [not interval.low <= above / below <= interval.high for interval in intervals]
    assert np.mean(missed) <= 0.075


@pytest.mark.parametrize("n", [8, 20, 40])
def test_intervals_of_a_share_of_the_teachers_gain_cover_at_their_nominal_rate(n: int) -> None:
    """Of gains that are as skewed as an exponential, of which a version has reached 0.7 give or take."""
    rng = np.random.default_rng(18)
    found = []
    for _ in range(2000):
        taught = rng.exponential(size=n)
        found.append(shift_ratio((0.7 * taught + rng.normal(0, 0.3, n)).tolist(), taught.tolist()))
    intervals = [one.interval for one in found if one]
    assert len(intervals) > 0.8 * len(found)
    assert 0.93 <= np.mean([interval.low <= 0.7 <= interval.high for interval in intervals]) <= 0.97


@pytest.mark.parametrize("draw", LIKELIHOODS.values(), ids=LIKELIHOODS)
@pytest.mark.parametrize("n", [8, 40])
def test_intervals_of_likelihoods_cover_at_their_nominal_rate(n: int, draw: Draw) -> None:
    rng = np.random.default_rng(12)
    intervals = [paired_shift(draw(rng, n).tolist(), [0.0] * n, seed=0).interval for _ in range(TRIALS)]
    assert 0.92 <= np.mean([interval.low <= 0 <= interval.high for interval in intervals]) <= 0.98


@pytest.mark.parametrize(
    ("n", "name"), [(8, "normal"), (8, "heavy"), (20, "skewed"), (40, "normal"), (40, "heavy"), (40, "skewed")]
)
def test_likelihoods_that_did_not_change_are_called_worse_in_five_per_cent_at_most(n: int, name: str) -> None:
    """Fewer than 20 numbers as skewed as these exceed it: 6 % of 8."""
    rng = np.random.default_rng(13)
    verdicts = [_verdicts([LIKELIHOODS[name](rng, n).tolist()])[0] for _ in range(TRIALS)]
    assert verdicts.count("worse") / TRIALS <= 0.05


@pytest.mark.parametrize("n", range(1, 8))
def test_of_fewer_likelihoods_that_did_not_change_nothing_is_said(n: int) -> None:
    """Of two, every third sample would be called worse, and every third better."""
    rng = np.random.default_rng(13)
    draws = [draw(rng, n).tolist() for draw in LIKELIHOODS.values() for _ in range(TRIALS // 20)]
    assert {_verdicts([drawn])[0] for drawn in draws} == {"insufficient_evidence"}


def _verdicts(family: Sequence[Sequence[float]]) -> list[Verdict]:
    """Of several suites of likelihoods, tested together."""
    shifts = [paired_shift(drawn, [0.0] * len(drawn), seed=0) for drawn in family]
    p_values = holm([shift_p_value(drawn, [0.0] * len(drawn), seed=0) for drawn in family])
    return [
        conclude(shift, margin=MARGIN, p_value=p_value, counted=False)
        for shift, p_value in zip(shifts, p_values, strict=True)
    ]


@pytest.mark.parametrize(("num_suites", "name"), [(3, "heavy"), (6, "normal")])
def test_over_suites_of_likelihoods_that_did_not_change_one_is_called_worse_in_five_per_cent_at_most(
    num_suites: int, name: str
) -> None:
    """Each tested by itself, it would be 11 % and 15 %. Six with tails as heavy as these exceed it a little: 5.2 %."""
    rng = np.random.default_rng(17)
    families = [[LIKELIHOODS[name](rng, 40).tolist() for _ in range(num_suites)] for _ in range(TRIALS)]
    assert sum("worse" in _verdicts(family) for family in families) / TRIALS <= 0.05


def test_a_real_loss_of_likelihood_is_found_among_six_suites() -> None:
    rng = np.random.default_rng(18)
    families = [[rng.normal(-0.7 * (place == 0), size=40).tolist() for place in range(6)] for _ in range(TRIALS // 4)]
    assert sum(_verdicts(family)[0] == "worse" for family in families) / len(families) >= 0.9


@pytest.mark.parametrize(
    ("n", "flips"), [(1, 0.9), (8, 0.3), (40, 0.02), (40, 0.1), (40, 0.4), (312, 0.01), (312, 0.2)]
)
def test_answers_that_come_and_go_are_called_worse_in_five_per_cent_at_most(n: int, flips: float) -> None:
    rng = np.random.default_rng(14)
    counts = rng.multinomial(n, [flips / 2, flips / 2, 1 - flips], size=4 * TRIALS)
    verdicts = [
        conclude(_counted(int(lost), int(gained), n), margin=MARGIN, p_value=mcnemar(int(lost), int(gained)))
        for lost, gained, _ in counts
    ]
    assert verdicts.count("worse") / len(verdicts) <= 0.05
    assert verdicts.count("better") / len(verdicts) <= 0.05


@pytest.mark.parametrize("had", [1, 2, 4, 5, 10, 35, 233])
def test_what_lost_no_more_than_the_margin_is_said_to_have_lost_more_in_five_per_cent_at_most(had: int) -> None:
    """Exactly. Wilson's limit alone says so of 10 % where one answer was right before."""
    findings = {
        lost: judge_share_lost(lost, had, MARGIN, p_value=tail(lost, had, MARGIN), improved=False)
        for lost in range(had + 1)
    }
    beyond = [lost for lost, finding in findings.items() if finding == "beyond"]
    assert float(sum(stats.binom.pmf(beyond, had, MARGIN))) <= 0.025


@pytest.mark.parametrize(("n", "loss", "found"), [(312, 0.2, 0.99), (40, 0.4, 0.95)])
def test_a_real_loss_is_found(n: int, loss: float, found: float) -> None:
    """The other side: a test that never says ``worse`` would pass all of the above."""
    rng = np.random.default_rng(15)
    counts = rng.multinomial(n, [loss, 0.02, 0.98 - loss], size=TRIALS)
    verdicts = [
        conclude(_counted(int(lost), int(gained), n), margin=MARGIN, p_value=mcnemar(int(lost), int(gained)))
        for lost, gained, _ in counts
    ]
    assert verdicts.count("worse") / TRIALS >= found


def test_over_six_suites_that_did_not_change_one_tests_as_changed_in_five_per_cent_at_most() -> None:
    """Where many answers come and go, too: the share lost is beyond the margin then, and the score the same."""
    rng = np.random.default_rng(16)
    n, flips, families = 100, 0.3, 10 * TRIALS
    counts = rng.multinomial(n, [flips / 2, flips / 2, 1 - flips], size=(families, 6))
    wrong = 0
    for family in counts:
        adjusted = holm([mcnemar(int(lost), int(gained)) for lost, gained, _ in family])
        wrong += any(p <= 0.05 for p in adjusted)
    assert wrong / families <= 0.05


@pytest.mark.parametrize("num_suites", [1, 2, 6, 9])
@pytest.mark.parametrize("change", [0.02, 0.1], ids=["hardly any", "just the margin"])
def test_of_suites_that_scored_the_same_and_lost_no_more_than_the_margin_one_is_called_worse_in_five_per_cent_at_most(
    num_suites: int, change: float
) -> None:
    """As a report does it. Each share lost tested by itself, nine of a tenth would give a false ``worse`` in 14 %."""
    rng = np.random.default_rng(16)
    lost, gained = rng.binomial(75, change, (2, 10 * TRIALS, num_suites)).tolist()
    wrong = sum("worse" in _kept(*counts, n=100, had=75) for counts in zip(lost, gained, strict=True))
    assert wrong / (10 * TRIALS) <= 0.05


def test_a_real_loss_is_found_among_six_suites() -> None:
    rng = np.random.default_rng(19)
    chances = [0.3, *[0.02] * 5]
    lost, gained = rng.binomial(75, chances, (TRIALS, 6)).tolist(), rng.binomial(75, 0.02, (TRIALS, 6)).tolist()
    families = [_kept(*counts, n=100, had=75) for counts in zip(lost, gained, strict=True)]
    assert sum(verdicts[0] == "worse" for verdicts in families) / TRIALS >= 0.95


def _kept(lost: Sequence[int], gained: Sequence[int], *, n: int, had: int) -> list[Verdict]:
    """Of several suites of which so many answers were right before, tested together."""
    p_values = holm([mcnemar(one, other) for one, other in zip(lost, gained, strict=True)])
    tails = holm([tail(one, had, MARGIN) for one in lost])
    return [
        conclude_kept(_counted(one, other, n), Loss(one, had, beyond), margin=MARGIN, p_value=p_value)
        for one, other, p_value, beyond in zip(lost, gained, p_values, tails, strict=True)
    ]
