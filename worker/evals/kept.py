"""Item by item: what an arm kept of what was right before it was trained, and which answers it changed."""

from collections.abc import Iterator, Sequence
from typing import Final

from app.domain.arms import REFERENCES
from app.domain.proportions import wilson
from worker.evals.marks import Marks
from worker.evals.run import ArmName
from worker.evals.schema import Bounds, Flip, Kept
from worker.evals.suites import Item

MAX_FLIPS: Final = 100
"""Lost, and as many gained, that the report shows of a suite."""
MAX_CHARACTERS: Final = 2000
"""Of a prompt or an answer that the report shows."""


def count_kept(marks: Marks, arm: ArmName = "candidate") -> Iterator[Kept]:
    """What an arm has left of what a reference had right: in all, by rehearsed or not, by kind."""
    kinds, rehearsed = list(dict.fromkeys(item.kind for item in marks.items)), marks.suite.rehearsed
    groups = {"all": kinds}
    if len(kinds) > 1:
        groups["rehearsed kinds"] = [kind for kind in kinds if kind in rehearsed]
        groups["other kinds"] = [kind for kind in kinds if kind not in rehearsed]
        groups |= {kind: [kind] for kind in kinds}
    for reference in REFERENCES:
        if reference in marks.scores:
            for group, members in groups.items():
                yield _kept_of(marks, arm, reference, group=group, kinds=members)


def _kept_of(marks: Marks, arm: ArmName, reference: ArmName, *, group: str, kinds: Sequence[str]) -> Kept:
    marked = zip(marks.items, marks.right(reference), marks.right(arm), strict=True)
    pairs = [(before, after) for item, before, after in marked if item.kind in kinds]
    num_kept = pairs.count((True, True))
    num_had = num_kept + pairs.count((True, False))
    interval = wilson(num_kept, num_had)
    return Kept(
        suite=marks.suite.name,
        group=group,
        num_rehearsed_kinds=len(marks.suite.rehearsed.intersection(kinds)),
        num_kinds=len(kinds),
        reference=reference,
        n=len(pairs),
        num_had=num_had,
        num_kept=num_kept,
        num_gained=pairs.count((False, True)),
        share=Bounds(value=num_kept / num_had, low=interval.low, high=interval.high) if num_had else None,
    )


def list_flips(marks: Marks, arm: ArmName = "candidate") -> list[Flip]:
    """Items that an arm lost, then those that it gained, those since the starting point first; none of free text."""
    if not marks.suite.judged:
        return []
    flips = sorted(_flips(marks, arm), key=lambda flip: marks.reference not in flip.against)
    lost, gained = ([flip for flip in flips if flip.change == change] for change in ("lost", "gained"))
    return lost[:MAX_FLIPS] + gained[:MAX_FLIPS]


def _flips(marks: Marks, arm: ArmName) -> Iterator[Flip]:
    position = {item.id: index for index, item in enumerate(marks.suite.items)}
    before = {reference: marks.right(reference) for reference in REFERENCES if reference in marks.scores}
    for index, (item, after) in enumerate(zip(marks.items, marks.right(arm), strict=True)):
        against: list[ArmName] = [reference for reference, right in before.items() if right[index] != after]
        if not against:
            continue
        yield Flip(
            item=item.id,
            kind=item.kind,
            change="gained" if after else "lost",
            against=against,
            prompt=_question(item)[:MAX_CHARACTERS],
            expected=[text[:MAX_CHARACTERS] for text in item.expected],
            answers={who: said[position[item.id]].text[:MAX_CHARACTERS] for who, said in marks.answers.items()},
        )


def _question(item: Item) -> str:
    """The conversation, bare where it is a single turn."""
    if len(item.messages) == 1:
        return str(item.messages[0]["content"])
    return "\n".join(f"{message['role']}: {message['content']}" for message in item.messages)
