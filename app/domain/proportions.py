"""Intervals of rates and of their differences, the same for reports and gates. Knows numbers only."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

CONFIDENCE: Final = 0.95
MIN_LIKELIHOODS: Final = 8
"""Of which an interval is to be believed; of two or three, a bootstrap finds a change in a third of those without."""
DIGITS: Final = 9
"""Of a difference of scores that is held against a limit: to a float, 0.8 less 0.7 is more than 0.1."""
_HALVINGS: Final = 50


@dataclass(frozen=True)
class Interval:
    """An interval, of 95 % unless said otherwise."""

    low: float
    high: float


def deviations(confidence: float) -> float:
    """How many standard deviations to either side an interval of such confidence has, of a normal estimate."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def wilson(successes: float, n: float, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a rate; all of 0..1 when nothing was counted.

    Args:
        successes: Up to ``n``.
        n: How many independent items the rate is worth; of a mean over runs, neither needs to be whole.
        confidence: Of the interval.
    """
    if n == 0:
        return Interval(0.0, 1.0)
    z = deviations(confidence)
    rate, weight = successes / n, z**2 / n
    center = (rate + weight / 2) / (1 + weight)
    half = z * math.sqrt(rate * (1 - rate) / n + weight / (4 * n)) / (1 + weight)
    # At the ends the formula gives exactly 0 or 1, up to rounding.
    return Interval(0.0 if successes == 0 else center - half, 1.0 if successes == n else center + half)


def paired(lost: int, gained: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """Tango's score interval of the change of a rate over the same ``n`` items (Statistics in Medicine 17, 1998).

    Holds where few items change too. Where none does, it is Wilson's limit for 0 of ``n``, to both sides.
    """
    z = deviations(confidence)

    def is_possible(change: float) -> bool:
        # Tango's statistic of a true change is at most z; multiplied out, as its spread may be zero.
        linear = (2 * n - gained + lost) * change - gained - lost
        rate_lost = (math.sqrt(linear**2 + 8 * n * lost * change * (1 - change)) - linear) / (4 * n)
        variance = n * (2 * rate_lost + change * (1 - change))
        return (gained - lost - n * change) ** 2 <= z**2 * variance

    return Interval(*(_last_possible(is_possible, (gained - lost) / n, end) for end in (-1.0, 1.0)))


def paired_ratio(lost: int, gained: int, kept: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """The score interval of the ratio of two rates over the same ``n`` items (Statistics in Medicine 21, 2002).

    Nam and Blackwelder's. Holds where all items are right on both sides, too, of which a bootstrap would say that the
    ratio is one for certain.

    Args:
        lost: Items that count below the line only.
        gained: Above it only.
        kept: On both sides; with ``lost`` at least one.
        n: All items.
        confidence: Of the interval.
    """
    z, changed, seen = deviations(confidence), (lost + gained) / n, (lost + gained + kept) / n
    above, below = (kept + gained) / n, (kept + lost) / n

    def is_possible(share: float) -> bool:
        # Of both rates together, so that it ends at 1 where the ratio has no end.
        ratio = share / (1 - share)
        if ratio == 0:
            return above == 0
        # The likeliest rate of gained items, if the ratio is this: the larger root of a quadratic equation.
        square, surplus = (1 + ratio) * ratio * seen, (ratio - 1) * seen
        linear = above * (1 + ratio) * surplus + ratio**2 * changed * seen
        constant = gained / n * ratio * surplus * seen
        rate_gained = (linear + math.sqrt(max(0.0, linear**2 - 4 * square * constant))) / (2 * square)
        rate_lost = ratio * rate_gained - surplus
        return n * (above - ratio * below) ** 2 <= z**2 * ratio * (rate_gained + rate_lost)

    share = above / (above + below)
    low, high = (_last_possible(is_possible, share, end) for end in (0.0, 1.0))
    return Interval(low / (1 - low), high / (1 - high))


def independent(value: float, interval: Interval, other: float, other_interval: Interval) -> Interval:
    """Interval of ``value - other`` of two samples that are not paired, from the interval of each.

    Of Wilson's intervals it is Newcombe's hybrid score interval (Statistics in Medicine 17, 1998, method 10).
    """
    below = math.hypot(value - interval.low, other_interval.high - other)
    above = math.hypot(interval.high - value, other - other_interval.low)
    return Interval(value - other - below, value - other + above)


def num_to_show(limit: float, confidence: float = CONFIDENCE) -> int:
    """How many items, none of them lost, it takes to show that no more than a share of ``limit`` is lost."""
    return max(0, math.ceil(deviations(confidence) ** 2 * (1 / limit - 1)))


def tail(successes: int, n: int, limit: float) -> float:
    """The chance of as many successes or more where the rate is the limit: the p-value of a test that it is above."""
    if successes == 0 or limit >= 1:
        return 1.0
    chances = (
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + k * math.log(limit)
        + (n - k) * math.log1p(-limit)
        for k in range(successes, n + 1)
    )
    return math.fsum(map(math.exp, chances))


def _last_possible(is_possible: Callable[[float], bool], inside: float, outside: float) -> float:
    """The value farthest towards ``outside`` that the counts do not contradict, by bisection."""
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if is_possible(middle):
            inside = middle
        else:
            outside = middle
    return inside
