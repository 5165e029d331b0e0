"""Nothing asked was ever trained on, and what ships keeps its two halves apart."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from app.domain.demonstrations import Demonstration, read_demonstrations
from worker.evals.scorers import SCORERS
from worker.evals.suites import general_suite, hold_out, neutral_prompts, prompt_sha256, render_demonstrations, split


def _demonstration(prompt: str, completion: str = "yes") -> Demonstration:
    return Demonstration(({"role": "user", "content": prompt},), completion, 1)


def _many(count: int) -> list[Demonstration]:
    return [_demonstration(f"question {index}") for index in range(count)]


@pytest.mark.parametrize(("count", "heldout"), [(23, 0), (24, 8), (80, 8), (100, 10), (5000, 200)])
def test_a_tenth_is_held_out_within_bounds(count: int, heldout: int) -> None:
    parts = split(_many(count), seed=1)
    assert (len(parts.training), len(parts.heldout)) == (count - heldout, heldout)


def test_the_parts_share_no_prompt_even_when_a_prompt_is_repeated_in_another_spelling() -> None:
    demonstrations = [*_many(60), *(_demonstration(f"  QUESTION  {index}", "no") for index in range(60))]
    parts = split(demonstrations, seed=1)
    trained = {prompt_sha256(one) for one in parts.training}
    assert parts.heldout
    assert trained.isdisjoint(prompt_sha256(one) for one in parts.heldout)


def test_the_split_depends_on_the_seed_and_not_on_the_order() -> None:
    demonstrations = _many(100)
    assert split(demonstrations, seed=1).sha256 == split(demonstrations[::-1], seed=1).sha256
    assert split(demonstrations, seed=1).sha256 != split(demonstrations, seed=2).sha256


def test_a_validation_file_is_cleared_of_what_is_trained_on() -> None:
    validation = [_demonstration("question 3"), _demonstration("new"), _demonstration("New"), _demonstration("newer")]
    parts = hold_out(_many(30), validation, seed=0)
    assert {one.messages[0]["content"] for one in parts.heldout} == {"new", "newer"}
    assert len(parts.training) == 30
    assert "1 repeated a prompt, 1 were in the training file" in parts.statement


def test_held_out_demonstrations_can_be_read_back(tmp_path: Path) -> None:
    heldout = [_demonstration('say "é\n"', "ü"), _demonstration("two")]
    file = tmp_path / "heldout.jsonl"
    file.write_text(render_demonstrations(heldout), encoding="utf-8")
    again = read_demonstrations(file)
    assert [(one.messages, one.completion) for one in again] == [(one.messages, one.completion) for one in heldout]


def test_the_general_suite_is_large_and_even() -> None:
    suite = general_suite()
    kinds = Counter(item.kind for item in suite.items)
    assert len(suite.items) >= 160
    assert len(kinds) >= 8
    assert len(set(kinds.values())) == 1
    assert len({item.id for item in suite.items}) == len(suite.items)
    assert len({item.messages[0]["content"] for item in suite.items}) == len(suite.items)


def test_half_of_the_general_kinds_are_never_rehearsed() -> None:
    suite = general_suite()
    kinds = {item.kind for item in suite.items}
    assert len(kinds & suite.rehearsed) == len(kinds - suite.rehearsed)


def test_a_general_item_accepts_its_own_expected_answers() -> None:
    for item in general_suite().items:
        assert item.max_new_tokens <= 24
        for answer in item.expected:
            assert SCORERS[item.scorer].score(answer, item.expected) == 1.0, item.id


def test_a_general_question_does_not_give_itself_away_to_an_echo() -> None:
    """Kinds whose answer is not in the question: repeating the question must not score."""
    for item in general_suite().items:
        if item.kind in {"facts", "opposites", "common_sense", "vocabulary", "arithmetic", "grammar"}:
            assert SCORERS[item.scorer].score(item.messages[0]["content"], item.expected) == 0.0, item.id


FRAMES = """
a about after an and are as at before by call can capital day did do does famous for from good has have her his how i if
in is it keep like made make me mean more my name need no of on one only opposite or people person put say see sentence
short so start tell that the this they three to two up us use was way we what when where which who why with word write
you your
"""
"""Words that only frame a question; any other word is a subject."""


def _stems(text: str) -> set[str]:
    return {word.removesuffix("s") for word in re.findall(r"[a-z0-9]{2,}", text.lower())}


def test_general_and_neutral_prompts_share_no_subject() -> None:
    asked = {subject for item in general_suite().items for subject in _stems(item.messages[0]["content"])}
    rehearsed = {subject for prompt in neutral_prompts() for subject in _stems(prompt[0]["content"])}
    assert not asked & rehearsed - _stems(FRAMES)


def test_no_rehearsal_prompt_holds_the_answer_to_a_general_question() -> None:
    prompts = " \n ".join(prompt[0]["content"] for prompt in neutral_prompts())
    answers = {answer for item in general_suite().items for answer in item.expected if not answer.isdigit()}
    small = {"two", "three", "five", "down"}
    assert not [answer for answer in answers - small if SCORERS["contains"].score(prompts, [answer])]


def test_neutral_prompts_are_all_different_and_of_several_kinds() -> None:
    path = Path("worker/data/rehearsal.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len({row["prompt"] for row in rows}) == len(rows) >= 150
    assert len({row["kind"] for row in rows}) >= 8
