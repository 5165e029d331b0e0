"""A twin trains as long, as much and as its job does, at a learning rate of its own."""

import pytest

from app.domain.comparison import SupervisedTwin
from app.domain.training import DatasetFacts, SdftHyperparameters, SupervisedHyperparameters, TrainingConfig, resolve

FACTS = DatasetFacts(
    num_examples=64, demonstration_tokens_p50=8, demonstration_tokens_p99=12, demonstration_tokens_max=13
)
SMALL, BIG = 135_000_000, 7_000_000_000


def job(num_parameters: int, **asked: object) -> TrainingConfig:
    requested = SdftHyperparameters.model_validate(asked)
    return resolve(requested, method="sdft", seed=9, facts=FACTS, num_parameters=num_parameters, has_earlier=False)


@pytest.mark.parametrize(
    "asked", [{}, {"n_epochs": 3, "batch_size": 5, "lora_rank": 4, "learning_rate_multiplier": 2.0}]
)
@pytest.mark.parametrize(("num_parameters", "rate"), [(SMALL, 5e-4), (BIG, 2e-4)])
def test_its_budget_is_the_jobs_and_its_learning_rate_that_of_a_supervised_job(asked, num_parameters, rate):
    of = job(num_parameters, **asked)
    twin = SupervisedTwin(method="supervised").config(of, facts=FACTS, num_parameters=num_parameters)
    same = {"seed", "num_epochs", "batch_size", "total_steps", "warmup_steps", "lora_rank", "lora_alpha"}
    assert twin.model_dump(include=same) == of.model_dump(include=same)
    assert (twin.method, twin.learning_rate, twin.num_rehearsal) == ("supervised", rate, 0)
    named = {name: value for name, value in asked.items() if name != "learning_rate_multiplier"}
    alone = resolve(
        SupervisedHyperparameters.model_validate(named),
        method="supervised", seed=9, facts=FACTS, num_parameters=num_parameters, has_earlier=False,
    )  # fmt: skip
    assert twin == alone


def test_a_rank_that_its_parent_gave_the_job_is_the_twins_too():
    of = job(SMALL).model_copy(update={"lora_rank": 64, "lora_alpha": 128})
    twin = SupervisedTwin(method="supervised").config(of, facts=FACTS, num_parameters=SMALL)
    assert (twin.lora_rank, twin.lora_alpha) == (64, 128)


def test_a_learning_rate_that_was_asked_for_stays():
    asked = SupervisedTwin(method="supervised", learning_rate=3e-5)
    assert asked.fixed(num_parameters=SMALL) == asked
    assert asked.config(job(SMALL), facts=FACTS, num_parameters=SMALL).learning_rate == 3e-5
    assert SupervisedTwin(method="supervised").fixed(num_parameters=SMALL).learning_rate == 5e-4
