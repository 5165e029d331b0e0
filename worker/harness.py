"""Suites of lm-evaluation-harness, where a worker has that: an extra, loaded only where they are asked for."""

from pathlib import Path

from app.domain.trainer_protocol import AnyOrder
from worker.evals.run import Peculiar
from worker.evals.suites import Unaskable
from worker.hf.model import HfPolicy


def open_tasks(order: AnyOrder, policy: HfPolicy) -> list[Peculiar]:
    """The tasks that an order names, ready to be asked.

    Raises:
        Unaskable: The worker lacks the harness, or it the task, or the task its data.
    """
    if not order.tasks:
        return []
    try:
        from worker.evals.lm_eval_suite import LmEvalSuite, open_manager  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise Unaskable(
            f"lm_eval:{order.tasks[0]} cannot be asked: lm-evaluation-harness is not installed on the worker. Leave it "
            "out of the suites, or have the operator install the extra lm-eval (docs/evaluation.md)."
        ) from error
    manager = open_manager(Path(order.tasks_folder) if order.tasks_folder else None)
    return [LmEvalSuite.load(manager, name, policy) for name in order.tasks]
