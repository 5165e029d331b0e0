"""Suites of lm-evaluation-harness, where a worker has that: an extra, loaded only where they are asked for."""

from pathlib import Path
from typing import Protocol, Self

from app.domain.evaluation import TASK_PREFIX
from app.domain.trainer_protocol import AnyOrder
from worker.evals.run import Peculiar
from worker.evals.suites import Unaskable
from worker.hf.model import HfPolicy

NOT_INSTALLED = (
    "lm-evaluation-harness is not installed on the worker. Leave its tasks out of the suites, or have the operator "
    "install the extra lm-eval (docs/evaluation.md)."
)


class Task(Peculiar, Protocol):
    """A task that is ready to be asked of the policy that it was opened with."""

    def of(self, policy: HfPolicy) -> Self:
        """The same, to be asked of another policy on the same base."""


def open_tasks(order: AnyOrder, policy: HfPolicy) -> tuple[list[Task], dict[str, str]]:
    """The tasks that an order names, ready to be asked.

    Returns:
        Those, and by name of the suite why the others cannot be: the worker lacks the harness, or it the task, or the
        task its data.
    """
    named = {f"{TASK_PREFIX}{name}": name for name in order.tasks}
    if not named:
        return [], {}
    try:
        from worker.evals.lm_eval_suite import LmEvalSuite, open_manager  # noqa: PLC0415
    except ModuleNotFoundError:
        return [], dict.fromkeys(named, NOT_INSTALLED)
    try:
        manager = open_manager(Path(order.tasks_folder) if order.tasks_folder else None)
    except Unaskable as error:
        return [], dict.fromkeys(named, str(error))
    opened: list[Task] = []
    missing: dict[str, str] = {}
    for suite, name in named.items():
        try:
            opened.append(LmEvalSuite.load(manager, name, policy))
        except Unaskable as error:
            missing[suite] = str(error)
    return opened, missing
