"""Rollouts that go on from a part of the demonstration: the student comes to what follows before it could by itself.

The mixture of the expert's states and the learner's own is DAgger's (arXiv 1011.0686), and GKD's ``lmbda`` (arXiv
2306.13649) by the token instead of the answer. Knows ids and chances.
"""

from collections.abc import Sequence

import torch


def beginnings(
    demonstrations: Sequence[list[int]], *, share: float, longest: int, generator: torch.Generator
) -> list[list[int]]:
    """What each rollout goes on from: nothing, or so many of its demonstration's first tokens, all numbers as likely.

    One token at least is left for the student to say.

    Args:
        demonstrations: A rollout each.
        share: Of rollouts that are guided, on average.
        longest: Tokens of a rollout, its beginning included.
        generator: Nothing is drawn from it where ``share`` is 0.
    """
    if share == 0:
        return [[] for _ in demonstrations]
    chances = torch.rand(len(demonstrations), 2, generator=generator).tolist()
    return [
        ids[: int(place * min(len(ids), longest))] if is_guided < share else []
        for ids, (is_guided, place) in zip(demonstrations, chances, strict=True)
    ]
