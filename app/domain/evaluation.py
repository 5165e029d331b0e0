"""What a client may say about how a version is measured: scorers by name, and files of questions."""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.domain.json_rules import has_actions, is_json_container, json_equal, tool_call
from app.domain.text_rules import CannotScore, choice, contains, matches, numeric

ScorerName = Literal["exact", "normalized", "contains", "regex", "numeric", "choice", "json", "tool_call", "nll"]
SCORER_NAMES: Final[tuple[ScorerName, ...]] = get_args(ScorerName)
TAKES_TOLERANCE: Final[frozenset[ScorerName]] = frozenset({"numeric"})
MAX_SUITES: Final = 8
MAX_SEEDS: Final = 5
MAX_UNSCORED_ANSWERS: Final = 16
"""Answers shown of a suite that is judged by likelihood alone: decoding long texts costs much and decides nothing."""
MAX_SHORT_CHARACTERS: Final = 80
TASK_PREFIX: Final = "lm_eval:"
_TASK: Final = re.compile(TASK_PREFIX + r"[A-Za-z0-9][\w.+-]*", re.ASCII)
"""Names only: to the harness a path or a pattern would be a task too."""

_PARTICULAR: Final[dict[str, Callable[[str, str], bool]]] = {
    "contains": contains,
    "regex": matches,
    "numeric": numeric,
    "choice": choice,
    "json": json_equal,
    "tool_call": tool_call,
}
"""Rules that not every expected answer suits."""


class EvaluationOptions(BaseModel):
    """How a job's version is measured beyond what every version is."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    scorer: ScorerName | None = Field(
        None, description="Of the skill's held-out answers; from the look of the demonstrations if left out."
    )
    tolerance: float | None = Field(None, ge=0, description="Largest difference that still counts as right: numeric.")
    suites: list[Annotated[str, Field(min_length=1, max_length=128)]] = Field(
        [],
        max_length=MAX_SUITES,
        description="What every arm is asked besides: files of purpose evals by id, and tasks of "
        "lm-evaluation-harness as lm_eval:NAME, where the worker has it and their data.",
    )
    seeds: int = Field(
        1, ge=1, le=MAX_SEEDS, description="Runs with seeds of their own, the version's among them, to tell luck by."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.tolerance is not None and self.scorer not in TAKES_TOLERANCE:
            raise ValueError('tolerance needs scorer "numeric"; no other scorer has one')
        if len(set(self.suites)) < len(self.suites):
            raise ValueError("suites names the same twice; keep one")
        for name in self.suites:
            task_of(name)
        return self

    @property
    def files(self) -> dict[int, str]:
        """Ids of the files among the suites, by their place."""
        return {place: name for place, name in enumerate(self.suites) if task_of(name) is None}

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks of lm-evaluation-harness among the suites."""
        return [task for name in self.suites if (task := task_of(name)) is not None]


def task_of(suite: str) -> str | None:
    """The task or group of lm-evaluation-harness that a suite is, if it is one.

    No task is called a number: ``lm_eval:3`` is a version of an adapter of that name.

    Raises:
        ValueError: It is to be one and names none.
    """
    if not suite.startswith(TASK_PREFIX) or suite.removeprefix(TASK_PREFIX).isdecimal():
        return None
    if not _TASK.fullmatch(suite):
        raise ValueError(
            f"{suite!r} names no task; write {TASK_PREFIX} and the name of a task or group of lm-evaluation-harness, "
            f"like {TASK_PREFIX}arc_easy"
        )
    return suite.removeprefix(TASK_PREFIX)


def count_decoded(num_items: int, *, judged: bool) -> int:
    """How many of a suite's items are decoded: the first few where answers are not judged."""
    return num_items if judged else min(num_items, MAX_UNSCORED_ANSWERS)


def unmeasured(*, has_gate: bool) -> str:
    """What it means for a job that nothing is held out."""
    gate = ", and the gate cannot pass, as no gain can be shown" if has_gate else ""
    return f"The report will have no skill to measure{gate}."


def scorer_by_look(completions: Sequence[str]) -> ScorerName:
    """The scorer for a suite of demonstrations where nobody names one."""
    if completions and all(map(is_json_container, completions)):
        return "json"
    if completions and all(map(has_actions, completions)):
        return "tool_call"
    if completions and all("<answer>" in text and unusable("choice", text) is None for text in completions):
        return "choice"
    longest = max((len(text) for text in completions), default=0)
    if longest <= MAX_SHORT_CHARACTERS and not any("\n" in text.strip() for text in completions):
        return "normalized"
    return "nll"


def unusable(scorer: str, expected: str) -> str | None:
    """Why a scorer cannot compare with an expected answer, if it cannot."""
    try:
        if scorer in _PARTICULAR:
            _PARTICULAR[scorer](expected, expected)
    except CannotScore as error:
        return str(error)
    return None
