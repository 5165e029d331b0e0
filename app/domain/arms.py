"""Arms of a report by name, as far as report, gate and terminal have to agree on them."""

from collections.abc import Container
from typing import Final, Literal

Reference = Literal["base", "parent"]
REFERENCES: Final[tuple[Reference, ...]] = ("base", "parent")
"""What was there before the job."""
TRAINED: Final[tuple[Literal["candidate", "supervised"], ...]] = ("candidate", "supervised")
"""What a run makes: the version and its twin."""


def starting_point(arms: Container[str]) -> Reference:
    """Where the version started from, of the arms that were asked: with a parent that, whatever else there is."""
    return "parent" if "parent" in arms else "base"
