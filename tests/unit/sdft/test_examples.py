"""Examples that do not fit a base: what their owner is told to do about them, and whether that helps."""

import pytest

from app.domain.demonstrations import Demonstration
from app.domain.errors import Unprocessable
from tests.unit.sdft.bigram import Bigrams
from tests.unit.sdft.test_trainer import configure
from worker.examples import encode_tasks


def refusal(demonstration: Demonstration, **changes: object) -> str:
    policy = Bigrams()  # 64 tokens of context
    with pytest.raises(Unprocessable) as refused:
        encode_tasks(policy, [demonstration], configure(**changes))
    assert [error["line"] for error in refused.value.errors] == [1]
    return refused.value.message


def say(num_tokens: int) -> Demonstration:
    return Demonstration(({"role": "user", "content": "i"},), "b" * num_tokens, line=1)


def test_a_demonstration_that_fits_by_no_means_can_only_be_shortened_or_removed() -> None:
    """Fault caught: the advice to lower max_completion_tokens led to the same refusal."""
    message = refusal(say(40), template="example", max_completion_tokens=30)
    assert message.startswith("Examples that do not fit the base's context with room for the demonstration shown")
    assert message.endswith("an answer: 1 of 1. Shorten or remove them.")


def test_the_limit_that_is_told_is_one_that_fits() -> None:
    message = refusal(say(20), template="example", max_completion_tokens=60)
    assert message.endswith("Shorten or remove them, or lower max_completion_tokens to 41.")
    assert encode_tasks(Bigrams(), [say(20)], configure(template="example", max_completion_tokens=41))
    refusal(say(20), template="example", max_completion_tokens=42)


def test_templates_that_are_told_are_those_that_fit() -> None:
    message = refusal(say(26), template="multi_turn_twice")
    assert message.endswith("Shorten or remove them, or set template to example or multi_turn.")
    assert encode_tasks(Bigrams(), [say(26)], configure(template="multi_turn"))


def test_plain_training_is_told_of_its_answer_alone() -> None:
    message = refusal(say(70), method="supervised")
    assert message.endswith("with room for the answer: 1 of 1. Shorten or remove them.")
