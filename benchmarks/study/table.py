"""The table of the study, in markdown."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from benchmarks.study.cells import ARMS, DEFAULT, SKILLS, USUAL_ARMS, Cell
from benchmarks.study.figures import LOSSES, Count, Outcome, Share, pool

Outcomes = Mapping[Cell, Outcome | str]
"""What came of each training that is done; a word where it failed."""

HEAD = ("skill", "way to train", "learned", "of ceiling", *LOSSES.values(), "KL to base", "minutes")
EXPLANATION = """\
The share over seeds {seeds} in percent, its 95 % interval, then their counts one by one (`-`: not done; a word: how it
failed, in no share). *Learned*: held-out questions right; *of ceiling*: of what the default's teacher has right in the
same seeds. *Forgot*: of what the base (of home: the version before) had right, what is wrong now; what is newly right
is not set off against it. An interval is Wilson's for the questions of one seed, since every seed is asked the same. It
does not hold the spread between seeds: the counts show that."""


def render(outcomes: Outcomes, planned: Sequence[Cell], notes: Sequence[str]) -> str:
    """All that is known so far, and what is missing.

    Args:
        outcomes: Of cells that are done.
        planned: All cells of the study.
        notes: To be said below.
    """
    seeds = sorted({cell.seed for cell in planned})
    skills = [skill for skill in SKILLS if any(cell.skill == skill for cell in outcomes)]
    rows = [row for skill in skills for row in _of_skill(skill, outcomes, seeds)]
    lines = ["| " + " | ".join(cells) + " |" for cells in (HEAD, ["---"] * len(HEAD), *rows)]
    missing = [cell for cell in planned if cell not in outcomes]
    return (
        "\n\n".join(
            [
                "# What is learned, and what is forgotten",
                "\n".join(lines) if rows else "No training is done yet.",
                EXPLANATION.format(seeds=", ".join(map(str, seeds))),
                *notes,
                *(line for skill in skills if (line := _at_equal_acquisition(skill, outcomes, seeds))),
                f"{len(planned) - len(missing)} of {len(planned)} trainings are done." + _named(missing),
            ]
        )
        + "\n"
    )


def summary(outcomes: Outcomes, planned: Sequence[Cell]) -> str:
    """The same for a README: shares with their intervals, a row a way that is compared and a column a skill."""
    seeds = sorted({cell.seed for cell in planned})
    skills = [skill for skill in SKILLS if any(cell.skill == skill for cell in outcomes)]

    def of(arm: str, skill: str, *parts: Callable[[Outcome], Count | None]) -> str:
        known = [one for seed in seeds if (one := outcomes.get(Cell(arm, skill, seed)))]
        done = [one for one in known if isinstance(one, Outcome)]
        failed = Counter(one for one in known if isinstance(one, str))
        shares = [_share(pool([count for one in done if (count := part(one))])) for part in parts]
        said = [f"{len(done)} of {len(seeds)} seeds", *(f"{word}: {num}" for word, num in failed.items())]
        few = f" ({'; '.join(said)})" if known and len(done) < len(seeds) else ""
        return (" · ".join(shares) if done else "-") + few

    def rows(*parts: Callable[[Outcome], Count | None]) -> list[list[str]]:
        return [
            [
                f"**{ARMS[arm].label}**" if arm == DEFAULT else ARMS[arm].label,
                *(of(arm, name, *parts) for name in skills),
            ]
            for arm in USUAL_ARMS
        ]

    labels = [SKILLS[skill].label for skill in skills]
    ceiling = ["*ceiling: the default's teacher*", *(of(DEFAULT, skill, lambda one: one.ceiling) for skill in skills)]
    learned = [["learned, %", *labels], ["---"] * (len(labels) + 1), ceiling, *rows(lambda one: one.learned)]
    forgot = [
        ["forgot, % of rehearsed kinds · of other kinds", *labels],
        ["---"] * (len(labels) + 1),
        *rows(lambda one: one.lost.get("rehearsed"), lambda one: one.lost.get("other")),
    ]
    num_done = sum(cell in outcomes for cell in planned)
    return "\n\n".join([
        *("\n".join("| " + " | ".join(cells) + " |" for cells in lines) for lines in (learned, forgot)),
        f"{num_done} of {len(planned)} trainings are done.",
    ])  # fmt: skip


def _of_skill(skill: str, outcomes: Outcomes, seeds: Sequence[int]) -> list[list[str]]:
    label = SKILLS[skill].label
    defaults = [outcomes.get(Cell(DEFAULT, skill, seed)) for seed in seeds]
    ceilings = [one.ceiling if isinstance(one, Outcome) else one for one in defaults]
    rows = []
    if any(ceilings):
        rows.append([label, "*ceiling: the default's teacher*", _shares(ceilings), *[""] * (len(HEAD) - 3)])
    for arm, way in sorted(ARMS.items(), key=lambda one: one[0] not in USUAL_ARMS and not one[1].is_plain):
        some = [outcomes.get(Cell(arm, skill, seed)) for seed in seeds]
        if any(some):
            name = f"**{way.label}**" if arm == DEFAULT else way.label
            rows.append([label, name, *_figures(skill, some, ceilings)])
    return rows


def _figures(skill: str, some: Sequence[Outcome | str | None], ceilings: Sequence[Count | str | None]) -> list[str]:
    done = [one for one in some if isinstance(one, Outcome)]
    both = zip(some, ceilings, strict=True)
    pairs = [(one, top) for one, top in both if isinstance(one, Outcome) and isinstance(top, Count)]
    reached, reachable = sum(one.learned.num for one, _ in pairs), sum(top.num for _, top in pairs)
    losses = [name for name in LOSSES if name != "earlier" or SKILLS[skill].after]
    return [
        _shares([one.learned if isinstance(one, Outcome) else one for one in some]),
        f"{100 * reached / reachable:.0f} %" if reachable else "",
        *(
            _shares([one.lost.get(name) if isinstance(one, Outcome) else one for one in some]) if name in losses else ""
            for name in LOSSES
        ),
        f"{fmean(one.drift for one in done):.3f}" if done else "",
        f"{fmean(one.seconds for one in done) / 60:.1f}" if done else "",
    ]


def _shares(seeds: Sequence[Count | str | None]) -> str:
    """``95 [84, 99] · 38/40, 38/40, -``; in the place of a count may be a word."""
    if not any(seeds):
        return ""
    share = _share(pool([one for one in seeds if isinstance(one, Count)]))
    return (f"{share} · " if share else "") + ", ".join(
        f"{one.num}/{one.of}" if isinstance(one, Count) else one or "-" for one in seeds
    )


def _share(share: Share | None) -> str:
    """``95 [84, 99]``."""
    return f"{100 * share.value:.0f} [{100 * share.low:.0f}, {100 * share.high:.0f}]" if share else ""


def _at_equal_acquisition(skill: str, outcomes: Outcomes, seeds: Sequence[int]) -> str | None:
    """What the default forgets of kinds that nobody rehearsed, beside plain fine-tuning that learns no less.

    Of the rates that do, the one that forgets least; over the seeds that are done of both. Where a seed failed, the
    others would speak for it: such a rate is no rival, and such a default is not compared.
    """
    defaults = [outcomes.get(Cell(DEFAULT, skill, seed)) for seed in seeds]
    if any(isinstance(one, str) for one in defaults):
        return f"{SKILLS[skill].label}: the default failed in a seed, so it is not compared."
    rivals: list[tuple[float, float, str, int]] = []
    tried = failed = 0
    for arm in (arm for arm, way in ARMS.items() if way.is_plain and any(defaults)):
        came = [outcomes.get(Cell(arm, skill, seed)) for seed in seeds]
        both = zip(defaults, came, strict=True)
        pairs = [(one, two) for one, two in both if isinstance(one, Outcome) and isinstance(two, Outcome)]
        has_failed = any(isinstance(one, str) for one in came)
        tried += has_failed or bool(pairs)
        failed += has_failed
        if has_failed or sum(two.learned.num - one.learned.num for one, two in pairs) < 0:
            continue
        ours, theirs = (pool([pair[side].lost["other"] for pair in pairs]) for side in (0, 1))
        if ours and theirs:
            rivals.append((theirs.value, ours.value, ARMS[arm].label, len(pairs)))
    if not tried:
        return None
    rates = f"{tried} rate{'s' if tried > 1 else ''} of plain fine-tuning"
    without = f"{failed} failed in a seed, " if failed else ""
    return f"{SKILLS[skill].label}: of {rates} {without}{len(rivals) or 'none'} learned no less{_least(rivals)}."


def _least(rivals: Sequence[tuple[float, float, str, int]]) -> str:
    """Which rate forgets least, beside the default."""
    if not rivals:
        return ""
    lost, lost_here, label, num = min(rivals)
    share = f", {lost_here / lost:.2f} of it" if lost else ""
    return (
        f" ({num} seed{'s' if num > 1 else ''}), of which {label} forgets least of other kinds, {100 * lost:.0f} %; "
        f"the default {100 * lost_here:.0f} %{share}"
    )


def _named(missing: Sequence[Cell]) -> str:
    """What is missing, a line a skill and a way."""
    seeds: dict[tuple[str, str], list[int]] = {}
    for cell in missing:
        seeds.setdefault((cell.skill, cell.arm), []).append(cell.seed)
    lines = [
        f"- {SKILLS[skill].label}, {ARMS[arm].label}: seed {', '.join(map(str, sorted(some)))}"
        for (skill, arm), some in seeds.items()
    ]
    return "\n".join([" Missing:\n", *lines]) if lines else ""
