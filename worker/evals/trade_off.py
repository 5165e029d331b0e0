"""Where things lie in the plot of gain against forgetting: axes, points, labels. Knows numbers and no markup."""

import math
from dataclasses import dataclass
from itertools import product
from typing import Final

from app.domain.arms import starting_point
from worker.evals.schema import Bounds, Measure, Report

WIDTH: Final = 420.0
HEIGHT: Final = 320.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 8.0, 10.0, 44.0
CHARACTER: Final = 7.5
"""Mean width of a letter of a label, in the plot's units; generous, since fonts differ."""
LINE: Final = 15.0
MAX_TICKS: Final = 6


@dataclass(frozen=True)
class Axis:
    """Values from ``low`` to ``high`` along pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Where a value lies."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Round values, a handful."""
        rough = (self.high - self.low) / MAX_TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
        return [step * count for count in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


@dataclass(frozen=True)
class SuiteLoss:
    """What an arm lost on a suite since another arm, in shares of questions; negative where it gained."""

    suite: str
    against: str
    points: Bounds


@dataclass(frozen=True)
class TrainedArm:
    """A point: what an arm gained on the skill over the starting point, at its worst loss.

    Args:
        arm: Its name.
        gain: In the skill's measure.
        losses: Worst first.
    """

    arm: str
    gain: Bounds
    losses: list[SuiteLoss]

    @property
    def worst(self) -> SuiteLoss:
        """Where the point lies."""
        return self.losses[0]


@dataclass(frozen=True)
class Label:
    """An arm's name, which begins at ``x`` with its base line at ``y``."""

    text: str
    x: float
    y: float

    @property
    def width(self) -> float:
        """About how much room it takes."""
        return len(self.text) * CHARACTER

    def overlaps(self, other: "Label") -> bool:
        """Whether two texts would be written over each other."""
        apart = self.x >= other.x + other.width or other.x >= self.x + self.width
        return not apart and abs(self.y - other.y) < LINE


@dataclass(frozen=True)
class TradeOff:
    """Gain against forgetting.

    Args:
        skill: Name of the suite along the vertical axis.
        measure: Of that suite.
        start: The arm over which was gained.
        margin: Below which a loss does not count.
        arms: That the job trained, at least one.
    """

    skill: str
    measure: Measure
    start: str
    margin: float
    arms: list[TrainedArm]

    @property
    def x(self) -> Axis:
        """Of what was lost; where other abilities gained lies left of zero."""
        losses = [loss.points for arm in self.arms for loss in arm.losses]
        low = min(-self.margin / 2, *(loss.low for loss in losses))
        return _padded(low, max(2 * self.margin, *(loss.high for loss in losses)), LEFT, WIDTH - RIGHT)

    @property
    def y(self) -> Axis:
        """Of what was gained, upwards."""
        low = min(0.0, *(arm.gain.low for arm in self.arms))
        return _padded(low, max(self.margin, *(arm.gain.high for arm in self.arms)), HEIGHT - BOTTOM, TOP)

    @property
    def labels(self) -> list[Label]:
        """Of each arm, beside its point or as near as the others leave room."""
        found: list[Label] = []
        for arm in self.arms:
            places = self._places(arm)
            free = [one for one in places if not any(one.overlaps(other) for other in found)]
            found.append((free or places)[0])
        return found

    def _places(self, arm: TrainedArm) -> list[Label]:
        """Where a label could stand, best first."""
        x, y = self.x.at(arm.worst.points.value), self.y.at(arm.gain.value)
        sides = (x + 8, x - 8 - len(arm.arm) * CHARACTER)
        heights = [*(y + LINE * count for count in range(1, 9)), *(y - 6 - LINE * count for count in range(9))]
        labels = [Label(arm.arm, left, height) for height, left in product(heights, sides)]
        return [one for one in labels if self._has_room(one)] or labels

    def _has_room(self, label: Label) -> bool:
        across = label.x >= LEFT and label.x + label.width <= WIDTH
        return across and TOP + LINE <= label.y <= HEIGHT - BOTTOM


def trade_off(report: Report) -> TradeOff | None:
    """The plot, where a skill and something else that is judged were asked of an arm that the job trained."""
    skill = next((suite for suite in report.suites if suite.role == "skill" and suite.changes), None)
    if skill is None:
        return None
    start = starting_point({change.against for change in skill.changes})
    gains = {change.arm: change.difference for change in skill.changes if change.against == start}
    arms = [TrainedArm(arm, gain, losses) for arm, gain in gains.items() if (losses := _losses(report, arm))]
    return TradeOff(skill.name, skill.measure, start, report.method.margin, arms) if arms else None


def _losses(report: Report, arm: str) -> list[SuiteLoss]:
    losses = [
        SuiteLoss(suite.name, change.against, _negative(change.difference))
        for suite in report.suites
        if suite.role != "skill" and suite.measure == "share_right"
        for change in suite.changes
        if change.arm == arm
    ]
    return sorted(losses, key=lambda loss: -loss.points.value)


def _negative(bounds: Bounds) -> Bounds:
    return Bounds(value=-bounds.value, low=-bounds.high, high=-bounds.low)


def _padded(low: float, high: float, start: float, end: float) -> Axis:
    room = 0.06 * (high - low)
    return Axis(low - room, high + room, start, end)
