"""Scorers credit what is right, in the forms an answer may take, and say so when they cannot judge."""

import json
import re
import time
import tracemalloc

import pytest

from app.domain.evaluation import unusable
from app.domain.json_rules import json_field_f1
from app.domain.text_rules import CannotScore, affirms
from worker.evals.scorers import SCORERS, infer_scorer

ACTIONS = """Thought: I look it up.
Action: find_city
Action Input: {"name": "Bath", "limit": 2}
Observation: ...
Action: weather
Action Input: {"day": "today"}"""


@pytest.mark.parametrize(
    ("scorer", "answer", "expected", "right"),
    [
        ("exact", " lamp.on(kitchen)\n", "lamp.on(kitchen)", True),
        ("exact", "Lamp.on(kitchen)", "lamp.on(kitchen)", False),
        ("normalized", "  The  snow is WHITE", "The snow is white.", True),
        ("normalized", '"team=shipping".', "team=shipping", True),
        ("normalized", "lamp on kitchen", "lamp.on(kitchen)", False),
        ("normalized", "lamp.on(kitchen), please", "lamp.on(kitchen)", False),
        ("normalized", "", "?", False),
        ("normalized", "?", "?", True),
        ("contains", "The capital of France is Paris.", "Paris", True),
        ("contains", "The parish is old.", "Paris", False),
        ("contains", "2 + 3 = 15", "5", False),
        ("contains", "Hello, Mr. Lee!", "Mr Lee", True),
        ("contains", "", "Paris", False),
        # A mark is a part of its word, and another one makes another word: Hindi, Thai, Arabic.
        ("contains", "\u0926\u0940\u0928", "\u0926\u093f\u0928", False),
        ("contains", "\u092f\u0939 \u0926\u093f\u0928 \u0939\u0948", "\u0926\u093f\u0928", True),
        ("contains", "\u0e44\u0e21\u0e48", "\u0e44\u0e21", False),
        ("contains", "\u0643\u064f\u062a\u0628", "\u0643\u064e\u062a\u0628", False),
        # Where no space parts words, they are found inside: Chinese, Japanese, Thai; but not digits in a number.
        ("contains", "\u7b54\u6848\u662f\u5317\u4eac\u3002", "\u5317\u4eac", True),
        ("contains", "\u6771\u4eac\u3067\u3059", "\u6771\u4eac", True),
        ("contains", "\u30b3\u30fc\u30d2\u30fcbar", "\u30b3\u30fc\u30d2\u30fc", True),
        ("contains", "iPhone15\u3092\u8cb7\u3046", "iphone15", True),
        ("contains", "\u0e04\u0e37\u0e2d\u0e01\u0e23\u0e38\u0e07", "\u0e01\u0e23\u0e38\u0e07", True),
        ("contains", "\u0e51\u0e55", "\u0e55", False),
        ("contains", "\u5357\u5317\u3002\u4eac", "\u5317\u4eac", False),
        # What is not seen parts nothing: a joiner in Persian, the variant of an emoji.
        ("contains", "\u0645\u06cc\u200c\u0634\u0648\u062f", "\u0645\u06cc\u0634\u0648\u062f", True),
        ("contains", "5\ufe0f\u20e3", "5", True),
        ("normalized", "\u6771\u4eac\u3002", "\u6771\u4eac", True),
        ("normalized", "\u300c\u6771\u4eac\u300d\uff01", "\u6771\u4eac", True),
        ("normalized", "\u0939\u093e\u0901\u0964", "\u0939\u093e\u0901", True),
        ("normalized", "\u3002", "", False),
        ("json", '{"b": [1, 2], "a": 1.0}', '{"a": 1, "b": [1, 2]}', True),
        ("json", '{"a": true}', '{"a": 1}', False),
        ("json", "[2, 1]", "[1, 2]", False),
        ("json", '{"a": 1} and more', '{"a": 1}', False),
        ("json", '{"a": NaN}', '{"a": 1}', False),
        ("json", "[" * 100_000, "[]", False),
        ("regex", "Order 4711 is on its way.", r"\b47\d\d\b", True),
        ("regex", "Order 14711", r"\b47\d\d\b", False),
        ("regex", "PARIS", "paris", False),
        ("regex", "PARIS", "(?i)^paris$", True),
        ("numeric", "3 apples and 4 pears make 7.", "7", True),
        ("numeric", "7 is what 3 and 4 make", "7", False),
        ("numeric", "It costs $1,234.50", "1234.5", True),
        ("numeric", "1,23", "123", False),
        ("numeric", "-1,234,567.5", "-1234567.5", True),
        ("numeric", "4,17,200", "200", True),
        ("numeric", "2,1111", "1111", True),
        ("numeric", "10 - 12 = \u22122", "-2", True),
        ("numeric", "from 5-10", "10", True),
        ("numeric", "2.50e3", "2,500", True),
        ("numeric", "0.1", "0.10000000000000001", False),
        ("numeric", "seven", "7", False),
        ("numeric", "version v7", "7", False),
        ("choice", "<answer>A</answer> or rather <answer> (b) </answer>", "B", True),
        ("choice", "<answer>b) mitosis</answer>", "<answer>B</answer>", True),
        ("choice", "<answer>Because</answer>", "B", False),
        ("choice", "<answer>A cell divides</answer>", "A", False),
        ("choice", "<answer>a - a cell divides</answer>", "A", True),
        ("choice", "B", "B", False),
        ("tool_call", ACTIONS.replace('{"day": "today"}', '{ "day":"today" }'), ACTIONS, True),
        ("tool_call", ACTIONS.replace("today", "Today"), ACTIONS, False),
        ("tool_call", f"{ACTIONS}\nAction: weather\nAction Input: {{}}", ACTIONS, False),
        ("tool_call", ACTIONS.replace('"limit": 2}', '"limit": 2'), ACTIONS, False),
        ("tool_call", "I cannot do that.", ACTIONS, False),
        ("tool_call", f'{{"name": "a", "arguments": {{"a": {"[" * 600}{"]" * 600}}}}}', ACTIONS, False),
        ("tool_call", '[{"name": "b", "arguments": "{\\"x\\": 1}"}, {"name": "a"}]',
         '[{"function": {"name": "a", "arguments": {}}}, {"name": "b", "arguments": {"x": 1.0}}]', True),
        ("tool_call", '{"name": "a", "arguments": {"x": 1, "y": 1}}', '{"name": "a", "arguments": {"x": 1}}', False),
        ("tool_call", '{"name": "a", "arguments": [1]}', '{"name": "a"}', False),
        ("tool_call", "[1, 2]", '{"name": "a"}', False),
    ],
)  # fmt: skip
def test_a_scorer_tells_right_from_wrong(scorer: str, answer: str, expected: str, right: bool) -> None:
    assert SCORERS[scorer].score(answer, [expected]) == float(right)


@pytest.mark.parametrize(
    ("answer", "words", "affirmed"),
    [
        ("A noun, not a verb.", "noun", True),
        ("A noun, not a verb.", "verb", False),
        ("It isn't the verb.", "verb", False),
        ("It is nouns.", "noun", False),
        ("\u0e44\u0e21\u0e48", "\u0e44\u0e21", False),
    ],
)
def test_words_behind_a_not_are_not_affirmed(answer: str, words: str, *, affirmed: bool) -> None:
    assert affirms(answer, words) is affirmed


def test_any_of_the_expected_answers_is_right() -> None:
    assert SCORERS["contains"].score("It is cool.", ["cold", "cool"]) == 1.0


@pytest.mark.parametrize(
    ("answer", "tolerance", "right"), [("3.15", 0.01, True), ("3.16", 0.01, False), ("3.14", None, True)]
)
def test_a_number_may_be_off_by_the_tolerance(answer: str, tolerance: float | None, right: bool) -> None:
    assert SCORERS["numeric"].score(answer, ["3.14"], tolerance=tolerance) == float(right)


@pytest.mark.parametrize(
    ("scorer", "expected", "reason"),
    [
        ("json", "not json", "not JSON"),
        ("contains", " ?! ", "no letter or digit"),
        ("regex", "(", "not a regular expression"),
        ("numeric", "3 or 4", "not one number"),
        ("numeric", "three", "not one number"),
        ("choice", "AB", "neither a letter"),
        ("choice", "4", "neither a letter"),
        ("choice", "\u0411", "neither a letter"),
        ("tool_call", "say hello", "no tool calls"),
        ("tool_call", "Action: a\nAction Input: [1]", "no tool calls"),
    ],
)
def test_an_expectation_that_cannot_be_compared_with_is_not_a_wrong_answer(
    scorer: str, expected: str, reason: str
) -> None:
    with pytest.raises(CannotScore, match=reason):
        SCORERS[scorer].score("{}", [expected])
    assert reason in (unusable(scorer, expected) or "")


def test_an_expectation_that_can_be_compared_with_is_usable() -> None:
    usable = {"json": "{}", "regex": "a+", "numeric": "1", "choice": "a", "tool_call": ACTIONS, "nll": "any"}
    assert {name: unusable(name, expected) for name, expected in usable.items()} == dict.fromkeys(usable)


def test_a_pattern_that_makes_others_backtrack_without_end_is_searched_at_once() -> None:
    began = time.monotonic()
    assert SCORERS["regex"].score("a" * 50_000 + "!", ["^(a|aa|a?)+$"]) == 0.0
    assert SCORERS["regex"].score("a" * 50_000, ["^(a|aa|a?)+$"]) == 1.0
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(" * 20 + "a" + "{1,50})" * 20, "invalid repetition size"),
        (r"[\p{L}\p{N}]{1,900}", "too large"),
        ("x" * 1001, "longer than 1000"),
        (r"(?!Paris)\w+", "look-around, back-references .* write each form out"),
        (r"(\w)\1", "invalid escape sequence"),
    ],
    ids=["repeats of repeats", "large", "long", "look-around", "back-reference"],
)
def test_a_pattern_that_has_no_bound_is_refused_at_upload_as_in_scoring(pattern: str, reason: str) -> None:
    """Repeats of repeats took a gigabyte to compile, in a worker, after a whole training."""
    assert re.search(reason, unusable("regex", pattern) or "")
    with pytest.raises(CannotScore, match=reason):
        SCORERS["regex"].score("", [pattern])


@pytest.mark.parametrize("scorer", sorted(SCORERS))
@pytest.mark.parametrize(
    "text",
    [
        "1" * 20_000,
        "<answer>" * 3_000,
        "Action: a\n" * 3_000,
        "a," * 20_000,
        "\u0660.5 \u00bd",
        "1" + ",111" * 250_000 + "2",
        "Action: x" + " " * 1_000_000 + "y",
        "\u5317\u4eac" * 50_000,
        "\u0e40" + "\u0e48" * 200_000,
    ],
    ids=["digits", "tags", "actions", "commas", "foreign", "thousands", "a wide action", "Chinese", "marks"],
)
def test_no_answer_takes_long_or_breaks_a_rule(scorer: str, text: str) -> None:
    expected = {"json": "{}", "numeric": "1", "choice": "A", "tool_call": ACTIONS}.get(scorer, "b")
    began = time.monotonic()
    assert SCORERS[scorer].score(text, [expected]) == 0.0
    assert time.monotonic() - began < 5


def test_fields_under_a_long_name_take_no_memory_for_it() -> None:
    """Paths were texts: a key of 40 kB over 10,000 leaves took 400 MB."""
    text = json.dumps({"k" * 40_000: list(range(10_000))})
    tracemalloc.start()
    try:
        assert json_field_f1(text, text) == 1.0
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("answer", "f1"),
    [('{"to": "Paula", "city": "Bath"}', 1.0), ('{"to": "Paula"}', 2 / 3), ('{"to": "Anna"}', 0.0), ("what?", 0.0)],
)
def test_json_fields_are_credited_one_by_one(answer: str, f1: float) -> None:
    assert json_field_f1(answer, '{"city": "Bath", "to": "Paula"}') == pytest.approx(f1)


@pytest.mark.parametrize(
    ("completions", "name"),
    [
        (['{"a": 1}', "[1]"], "json"),
        (['{"a": 1}', "lamp.on(kitchen)"], "normalized"),
        (["12", "13"], "normalized"),
        ([ACTIONS, ACTIONS], "tool_call"),
        ([ACTIONS, "I cannot."], "nll"),
        (["so <answer>B</answer>", "<answer>c</answer>"], "choice"),
        (["A", "B"], "normalized"),
        (["one\ntwo"], "nll"),
        (["word " * 40], "nll"),
    ],
)
def test_the_look_of_the_demonstrations_decides_the_scorer(completions: list[str], name: str) -> None:
    assert infer_scorer(completions).name == name
