"""The plot of the study: what was learned against what was forgotten, a panel for each skill and each loss, as SVG."""

from collections.abc import Sequence
from html import escape

from benchmarks.study.cells import ARMS, SKILLS, USUAL_ARMS, Cell
from benchmarks.study.figures import LOSSES, Outcome, pool
from benchmarks.study.table import Outcomes

COLOURS = ("#1f4e9e", "#d1495b", "#8d5a97", "#2e8b57", "#16a0ad", "#7a7a7a", "#b7791f", "#8c2f1b", "#222222")
"""Of the ways that are compared, which are circles, and again of the others, which are squares."""
PANEL_WIDTH, PANEL_HEIGHT = 330, 280
LEFT, TOP, RIGHT, BOTTOM = 48, 30, 14, 44
WIDTH, HEIGHT = PANEL_WIDTH - LEFT - RIGHT, PANEL_HEIGHT - TOP - BOTTOM
LEGEND_LINE = 20
TICKS = (0, 25, 50, 75, 100)


def render(outcomes: Outcomes) -> str:
    """All panels for which there is something, and a legend.

    A large mark with a number is a way to train over its seeds, with 95 % intervals both ways; small ones are seeds.
    """
    done = {cell: one for cell, one in outcomes.items() if isinstance(one, Outcome)}
    skills = [skill for skill in SKILLS if any(cell.skill == skill for cell in done)]
    losses = [name for name in LOSSES if any(name in one.lost for one in done.values())]
    panels = []
    for row, skill in enumerate(skills):
        here = {cell: one for cell, one in done.items() if cell.skill == skill}
        for column, loss in enumerate(name for name in losses if any(name in one.lost for one in here.values())):
            shown = _panel(here, loss, f"{SKILLS[skill].label}: {LOSSES[loss]}")
            panels.append(f'<g transform="translate({column * PANEL_WIDTH},{row * PANEL_HEIGHT})">{shown}</g>')
    width, top = max(2, len(losses)) * PANEL_WIDTH, len(skills) * PANEL_HEIGHT
    arms = [arm for arm in ARMS if any(cell.arm == arm for cell in done)]
    legend = _legend(arms, top, width)
    height = top + (len(arms) // 2 + 2) * LEGEND_LINE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="11" fill="#222"><title>Learned against forgotten</title>'
        f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(panels)}{legend}</svg>\n'
    )


def _panel(done: dict[Cell, Outcome], loss: str, title: str) -> str:
    parts = [_axes(title)]
    for arm in reversed(ARMS):  # the default lies on top
        mine = [one for cell, one in done.items() if cell.arm == arm and loss in one.lost]
        parts += [_seed(arm, one, loss) for one in mine]
        forgotten, learned = pool([one.lost[loss] for one in mine]), pool([one.learned for one in mine])
        if forgotten and learned:
            x, y = _x(forgotten.value), _y(learned.value)
            stroke = f'stroke="{_colour(arm)}" stroke-width="1.5" opacity="0.6"'
            parts.append(
                f'<path d="M{_x(forgotten.low):.1f} {y:.1f}H{_x(forgotten.high):.1f}'
                f'M{x:.1f} {_y(learned.low):.1f}V{_y(learned.high):.1f}" {stroke}/>{_dot(arm, x, y)}'
            )
    return "".join(parts)


def _axes(title: str) -> str:
    lines = [
        f'<path d="M{_x(tick / 100):.1f} {TOP}v{HEIGHT}M{LEFT} {_y(tick / 100):.1f}h{WIDTH}" stroke="#e3e3e3"/>'
        f'<text x="{_x(tick / 100):.1f}" y="{TOP + HEIGHT + 14}" text-anchor="middle">{tick}</text>'
        f'<text x="{LEFT - 6}" y="{_y(tick / 100) + 4:.1f}" text-anchor="end">{tick}</text>'
        for tick in TICKS
    ]
    middle = TOP + HEIGHT / 2
    return (
        f'<text x="{LEFT}" y="{TOP - 10}" font-weight="600">{escape(title)}</text>{"".join(lines)}'
        f'<text x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 30}" text-anchor="middle">'
        f"forgotten, % (left is better)</text>"
        f'<text transform="translate(14,{middle}) rotate(-90)" text-anchor="middle">learned, % (up is better)</text>'
    )


def _seed(arm: str, one: Outcome, loss: str) -> str:
    lost = one.lost[loss]
    if lost.of == 0:
        return ""
    x, y = _x(lost.num / lost.of), _y(one.learned.num / one.learned.of)
    return _mark(arm, x, y, 3, 'opacity="0.55"')


def _dot(arm: str, x: float, y: float) -> str:
    number = list(ARMS).index(arm) + 1
    mark = _mark(arm, x, y, 8, 'stroke="#fff"')
    return f'{mark}<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" fill="#fff" font-weight="700">{number}</text>'


def _mark(arm: str, x: float, y: float, size: int, look: str) -> str:
    fill = f'fill="{_colour(arm)}" {look}'
    if arm in USUAL_ARMS:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" {fill}/>'
    return f'<rect x="{x - size:.1f}" y="{y - size:.1f}" width="{2 * size}" height="{2 * size}" {fill}/>'


def _legend(arms: Sequence[str], top: int, width: int) -> str:
    entries = []
    for place, arm in enumerate(arms):
        x, y = 20 + place % 2 * width / 2, top + (place // 2 + 0.8) * LEGEND_LINE
        entries.append(f'{_dot(arm, x, y)}<text x="{x + 16}" y="{y + 4:.1f}">{escape(ARMS[arm].label)}</text>')
    return "".join(entries)


def _colour(arm: str) -> str:
    alike = [one for one in ARMS if (one in USUAL_ARMS) == (arm in USUAL_ARMS)]
    return COLOURS[alike.index(arm)]


def _x(share: float) -> float:
    return LEFT + WIDTH * share


def _y(share: float) -> float:
    return TOP + HEIGHT * (1 - share)
