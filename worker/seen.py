"""Which questions of an evaluation its arms were trained on: two versions compared need not be of one lineage."""

from pathlib import Path

from app.domain.trainer_protocol import EvaluationOrder
from worker.dataset import prompts_of
from worker.evals.suites import Suite, count_trained


class Seen:
    """What the arms of an evaluation, or versions that they go on from, were trained on.

    Args:
        order: Of the evaluation.
        folder: Of the attempt.
    """

    def __init__(self, order: EvaluationOrder, folder: Path) -> None:
        self._lineages = {"candidate": order.taught, "parent": order.against_taught}
        self._labels = {"candidate": order.version.label, "parent": order.against.label if order.against else None}
        self._prompts = {
            arm: prompts_of(folder, taught.files) - prompts_of(folder, taught.held_out)
            for arm, taught in self._lineages.items()
        }

    def count(self, suite: Suite, *, skill_of: str | None = None) -> Suite:
        """The suite, with how many of its questions each arm has seen.

        Args:
            suite: Any.
            skill_of: The version whose held-out questions these are, if they are.
        """
        in_doubt = [
            arm
            for arm, taught in self._lineages.items()
            if taught.deleted and not self._are_apart(self._labels[arm], skill_of)
        ]
        return count_trained(suite, self._prompts, in_doubt=in_doubt)

    def _are_apart(self, version: str | None, skill_of: str | None) -> bool:
        """Whether both are of one lineage, of which no version is trained on what another one is measured on."""
        return any({version, skill_of} <= set(taught.versions) for taught in self._lineages.values())


def deleted(order: EvaluationOrder) -> list[str]:
    """Versions whose training file is gone, of both arms, each once."""
    return list(dict.fromkeys([*order.taught.deleted, *order.against_taught.deleted]))
