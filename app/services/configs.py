"""What a job would train with, as far as the service can tell: of a large file it counts a sample.

The worker measures the lengths exactly, and fixes what counts.
"""

import math
import statistics

from app.db.models import File
from app.domain.distillation import Contradiction
from app.domain.errors import Invalid
from app.domain.training import (
    DatasetFacts,
    TrainingConfig,
    count_heldout,
    depends_on_data,
    peak_learning_rate,
    resolve,
)
from app.services.jobs import Checked, JobRequest
from app.services.lengths import FileLengths, measure
from app.storage.store import Store


def check(store: Store, asked: JobRequest, checked: Checked) -> None:
    """Whether the hyperparameters can be, on this base and this data. Reads files only where it depends on them.

    Raises:
        Invalid: They cannot; ``param`` is the one to change.
    """
    if depends_on_data(checked.hyperparameters):
        training = measure(checked.counter, store, checked.training)
        config(asked, checked, training, num_trained=parts(checked.training, checked.validation)[1])
        return
    try:
        peak_learning_rate(checked.hyperparameters, method=asked.method, num_parameters=checked.base.num_parameters)
    except Contradiction as error:
        raise _refused(asked, error) from error


def parts(training: File, validation: File | None) -> tuple[int, int]:
    """Examples held out and trained on, as ``worker.evals.suites`` parts them."""
    num_examples, num_prompts = _count(training)
    if validation:
        return count_heldout(_count(validation)[1], of_validation=True), num_examples
    held_out = count_heldout(num_prompts, of_validation=False)
    return held_out, num_examples - round(held_out * num_examples / num_prompts)


def _count(file: File) -> tuple[int, int]:
    """Examples of a file and their different prompts, of all its lines and blind to case and spacing.

    A file of before these were counted is taken to have no two of the same.
    """
    found = file.validation or {}
    return found["n_examples"], found["stats"].get("prompts", found["n_examples"])


def config(asked: JobRequest, checked: Checked, training: FileLengths, *, num_trained: int) -> TrainingConfig:
    """Every hyperparameter as far as it is known before the run.

    Raises:
        Invalid: They cannot be; ``param`` is the one to change.
    """
    try:
        return resolve(
            checked.hyperparameters,
            method=asked.method,
            seed=checked.row.seed,
            facts=DatasetFacts(
                num_examples=num_trained,
                demonstration_tokens_p50=math.ceil(statistics.median(training.demonstrations)) + 1,
                demonstration_tokens_p99=training.demonstration_percentile(0.99),
                demonstration_tokens_max=training.demonstration_percentile(1.0),
            ),
            num_parameters=checked.base.num_parameters,
            has_earlier=checked.parent is not None,
        )
    except Contradiction as error:
        raise _refused(asked, error) from error


def _refused(asked: JobRequest, error: Contradiction) -> Invalid:
    return Invalid("invalid_value", str(error), param=f"{asked.hyperparameters_at}.{error.param}")
