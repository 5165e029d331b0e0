"""Nothing asked was ever trained on, and what ships keeps its two halves apart."""

import json
import operator
import re
from collections import Counter
from pathlib import Path

import pytest

from app.domain.demonstrations import Demonstration, read_demonstrations
from app.domain.questions import parse_question
from worker.evals.marks import mark
from worker.evals.run import Answer, Measured
from worker.evals.scorers import SCORERS
from worker.evals.suites import (
    Item,
    Suite,
    count_trained,
    demonstration_suite,
    general_suite,
    hold_out,
    neutral_prompts,
    prompt_sha256,
    question_suite,
    render_demonstrations,
    split,
)
from worker.sdft.prompts import teacher_messages


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
    trained = {prompt_sha256(one.messages) for one in parts.training}
    assert parts.heldout
    assert trained.isdisjoint(prompt_sha256(one.messages) for one in parts.heldout)


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


def test_a_lineage_never_trains_on_what_it_is_measured_on() -> None:
    """The same file with another seed; fault caught: 7 of 10 held-out prompts of version 1 trained on by version 2."""
    file = _many(100)
    first = split(file, seed=1)
    asked, taught = ({prompt_sha256(one.messages) for one in part} for part in (first.heldout, first.training))
    second = split(file, seed=2, asked=asked, taught=taught)
    assert {prompt_sha256(one.messages) for one in second.heldout} == asked
    assert len(second.training) == 90
    grown = split(
        [*file, *(_demonstration(f"more {index}") for index in range(100))], seed=2, asked=asked, taught=taught
    )
    assert asked < {prompt_sha256(one.messages) for one in grown.heldout}
    assert taught.isdisjoint(prompt_sha256(one.messages) for one in grown.heldout)
    assert asked.isdisjoint(prompt_sha256(one.messages) for one in grown.training)
    assert "90 prompts taught to an earlier version were not held out" in grown.statement


def test_a_validation_file_is_cleared_of_what_the_lineage_was_taught() -> None:
    asked, taught = ({prompt_sha256(_demonstration(prompt).messages)} for prompt in ("question 5", "new"))
    validation = [_demonstration(prompt) for prompt in ("question 3", "question 5", "new", "newer")]
    parts = hold_out(_many(30), validation, seed=0, asked=asked, taught=taught)
    assert {one.messages[0]["content"] for one in parts.heldout} == {"question 5", "newer"}
    assert len(parts.training) == 29


def test_a_clients_questions_become_items_and_trained_ones_are_counted() -> None:
    lines = [
        {"prompt": "Question 3", "expected": ["a", "b" * 100], "scorer": "contains"},
        {"prompt": "new", "expected": "7", "scorer": "numeric", "tolerance": 1, "max_tokens": 5},
    ]
    questions = [parse_question(json.dumps(line).encode(), number) for number, line in enumerate(lines, 1)]
    suite = question_suite("file mine.jsonl", questions)
    assert (suite.role, suite.num_trained) == ("client", {})
    seen = {prompt_sha256(one.messages) for one in _many(10)}
    trained = {"candidate": seen, "parent": set[str]()}
    assert count_trained(suite, trained).num_trained == {"candidate": 1, "parent": 0}
    # Of an arm of which not all is known, what was found is said, and nothing found is no zero.
    assert count_trained(suite, trained, in_doubt=trained).num_trained == {"candidate": 1, "parent": None}
    first, second = suite.items
    assert (first.id, first.expected, first.max_new_tokens) == ("line 1", ("a", "b" * 100), 100)
    assert (second.scorer, second.tolerance, second.max_new_tokens) == ("numeric", 1.0, 5)


def test_equal_prompts_of_a_client_are_asked_once() -> None:
    """Copies bought a narrow interval, and with it a verdict of "same"."""
    lines = [{"prompt": prompt, "expected": "a", "scorer": "exact"} for prompt in ("one", "two", "one", "one", "Two")]
    questions = [parse_question(json.dumps(line).encode(), number) for number, line in enumerate(lines, 1)]
    suite = question_suite("file mine.jsonl", questions)
    assert [item.id for item in suite.items] == ["line 1", "line 2", "line 5"]
    assert suite.num_repeated == 2


def test_held_out_demonstrations_can_be_read_back(tmp_path: Path) -> None:
    heldout = [_demonstration('say "é\n"', "ü"), _demonstration("two")]
    file = tmp_path / "heldout.jsonl"
    file.write_text(render_demonstrations(heldout), encoding="utf-8")
    again = read_demonstrations(file)
    assert [(one.messages, one.completion) for one in again] == [(one.messages, one.completion) for one in heldout]


def test_a_document_stays_beside_what_is_held_out_and_asked(tmp_path: Path) -> None:
    """Fault caught: a ceiling, or a later version's measurement, without the document that the teacher had."""
    documented = Demonstration(({"role": "user", "content": "Where?"},), "Rome", 1, "It was in Rome.")
    suite = demonstration_suite("city", "skill", [documented], scorer="exact", max_new_tokens=9)
    assert "It was in Rome." in teacher_messages("paper", suite.items[0])[-1]["content"]
    file = tmp_path / "heldout.jsonl"
    file.write_text(render_demonstrations([documented]), encoding="utf-8")
    assert read_demonstrations(file) == [documented]


GENERAL = general_suite()
OF_KIND = {
    kind: [item for item in GENERAL.items if item.kind == kind] for kind in {item.kind for item in GENERAL.items}
}


def _asked(item: Item) -> str:
    return str(item.messages[0]["content"])


def _is_right(item: Item, answer: str) -> bool:
    suite = Suite("one", "general", (item,))
    measured = Measured((suite,), {("one", "base"): [Answer(answer, (), stopped=True)]})
    return mark(measured, suite).right("base") == [True]


def test_the_general_suite_is_large_and_even() -> None:
    assert len(GENERAL.items) >= 300
    assert len(OF_KIND) >= 10
    assert len({len(items) for items in OF_KIND.values()}) == 1
    assert len({item.id for item in GENERAL.items}) == len(GENERAL.items)


def test_no_general_question_is_asked_twice_however_it_is_spelt() -> None:
    spelt = [" ".join(re.findall(r"\w+|[-+*]", _asked(item).casefold())) for item in GENERAL.items]
    assert [question for question, count in Counter(spelt).items() if count > 1] == []


def test_general_questions_and_answers_are_short() -> None:
    assert max(len(_asked(item)) for item in GENERAL.items) <= 90
    assert max(item.max_new_tokens for item in GENERAL.items) <= 20
    assert max(len(answer) for item in GENERAL.items for answer in item.expected) <= 36


def test_half_of_the_general_kinds_are_never_rehearsed() -> None:
    rehearsed = {"facts", "opposites", "common_sense", "vocabulary", "instructions", "lists"}
    assert OF_KIND.keys() & GENERAL.rehearsed == rehearsed
    assert OF_KIND.keys() - rehearsed == {"arithmetic", "reading", "classification", "grammar", "copying", "extraction"}


def test_a_general_item_accepts_its_own_expected_answers() -> None:
    for item in GENERAL.items:
        assert len(set(item.expected)) == len(item.expected), item.id
        for answer in item.expected:
            assert _is_right(item, answer), item.id


def test_a_general_question_does_not_give_itself_away_to_an_echo() -> None:
    """Repeating the question must not score, but where a sentence is to be repeated."""
    for item in GENERAL.items:
        assert item.kind == "copying" or not _is_right(item, _asked(item)), item.id


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Carrot: A vegetable.", True),
        ("A carrot is a vegetable, not a vehicle.", True),
        ("It isn't a vehicle; it is a vegetable", True),
        ("It is a vegetable or a vehicle.", False),
        ("It is not a vegetable but a vehicle.", False),
        ("It is not a vegetable.", False),
        ("Vehicles are not the vegetable", False),
    ],
)
def test_a_class_is_right_alone(answer: str, right: bool) -> None:
    """Fault caught: an answer that names both classes, or the right one behind a "not"."""
    [item] = [one for one in OF_KIND["classification"] if "'carrot'" in _asked(one)]
    assert _is_right(item, answer) == right


TO_TWENTY = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty
"""
NUMBER_WORDS = dict(enumerate(TO_TWENTY.split())) | {40: "forty", 60: "sixty", 100: "one hundred"}


def test_arithmetic_is_right() -> None:
    for item in OF_KIND["arithmetic"]:
        asked = re.fullmatch(r"What is (\d+) ([-+*]) (\d+)\? Answer with a number\.", _asked(item))
        assert asked, item.id
        compute = {"+": operator.add, "-": operator.sub, "*": operator.mul}[asked[2]]
        result = compute(int(asked[1]), int(asked[3]))
        assert item.expected[0] == str(result)
        assert set(item.expected[1:]) <= {NUMBER_WORDS.get(result)}, item.id


def test_what_is_to_be_copied_is_the_answer() -> None:
    for item in OF_KIND["copying"]:
        assert (_asked(item), item.scorer) == (f"Repeat this sentence: {item.completion}", "normalized")


def test_what_is_to_be_read_is_in_the_question() -> None:
    """An answer, or what it comes from, stands in the text before the question."""
    for item in OF_KIND["reading"] + OF_KIND["extraction"]:
        text = _asked(item).partition("? ")[2] if item.kind == "extraction" else _asked(item).rpartition(". ")[0]
        assert SCORERS["contains"].score(text, item.expected) == 1.0, item.id


def test_what_is_to_be_extracted_stands_there_once() -> None:
    for item in OF_KIND["extraction"]:
        assert len(re.findall(rf"\b{item.expected[0]}\b", _asked(item))) == 1, item.id


def test_a_class_is_one_of_two_and_either_is_right_about_as_often() -> None:
    is_first = []
    for item in OF_KIND["classification"]:
        asked = re.fullmatch(r"Classify the word '\w+' as (?:an? )?(\w+) or (?:an? )?(\w+)\.", _asked(item))
        assert asked, item.id
        assert {item.expected, item.refused} == {(asked[1],), (asked[2],)}, item.id
        is_first.append(item.completion == asked[1])
    assert 0.4 <= sum(is_first) / len(is_first) <= 0.6


IRREGULAR = {
    "child": "children", "mouse": "mice", "foot": "feet", "man": "men", "tooth": "teeth", "goose": "geese",
    "go": "went", "eat": "ate", "see": "saw", "take": "took", "sing": "sang", "speak": "spoke", "buy": "bought",
    "drink": "drank", "come": "came", "drive": "drove",
}  # fmt: skip


def _regular(word: str, *, plural: bool) -> str:
    """By the rules of spelling."""
    if not plural:
        return f"{word.removesuffix('e')}ed"
    if word.endswith(("s", "x")):
        return f"{word}es"
    if word.endswith("y"):
        return f"{word[:-1]}ies"
    return f"{word.removesuffix('e').removesuffix('f')}ves" if word.endswith(("f", "fe")) else f"{word}s"


def test_forms_of_words_are_right() -> None:
    for item in OF_KIND["grammar"]:
        word = _asked(item).split("'")[1]
        assert item.expected == (IRREGULAR.get(word, _regular(word, plural="plural" in _asked(item))),)


def test_instructions_name_the_word_that_an_answer_must_have() -> None:
    for item in OF_KIND["instructions"]:
        assert SCORERS["contains"].score(_asked(item), item.expected[:1]) == 1.0, item.id


FRAMES = """
a about after an and are as at before by call can capital day did do does example famous for from give good happen has
have he her his how i if in is it keep like list made make me mean more my name need new no now of off on one only
opposite or people person put say see sentence she short so start tell that the this they three to two up us use was
way we what when where which who why with word write you your
"""
"""Words that only frame a question; any other word is a subject."""


def _stems(text: str) -> set[str]:
    return {word.removesuffix("s") for word in re.findall(r"[a-z0-9]{2,}", text.lower())}


def test_neutral_prompts_share_no_subject_with_general_questions_nor_with_their_answers() -> None:
    asked = {stem for item in GENERAL.items for text in (_asked(item), *item.expected) for stem in _stems(text)}
    rehearsed = {stem for prompt in neutral_prompts() for stem in _stems(prompt[0]["content"])}
    assert asked & rehearsed - _stems(FRAMES) == set()


def test_neutral_prompts_are_all_different_and_of_several_kinds() -> None:
    path = Path("worker/data/rehearsal.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len({row["prompt"] for row in rows}) == len(rows) >= 150
    assert len({row["kind"] for row in rows}) >= 8
