"""Scorers credit what is right, in the forms an answer may take, and say so when they cannot judge."""

import pytest

from worker.evals.scorers import SCORERS, CannotScore, infer_scorer, json_field_f1


@pytest.mark.parametrize(
    ("scorer", "answer", "expected", "right"),
    [
        ("exact", " lamp.on(kitchen)\n", "lamp.on(kitchen)", True),
        ("exact", "Lamp.on(kitchen)", "lamp.on(kitchen)", False),
        ("normalized", "  The  snow is WHITE", "The snow is white.", True),
        ("normalized", '"team=shipping".', "team=shipping", True),
        ("normalized", "lamp on kitchen", "lamp.on(kitchen)", False),
        ("normalized", "lamp.on(kitchen), please", "lamp.on(kitchen)", False),
        ("contains", "The capital of France is Paris.", "Paris", True),
        ("contains", "The parish is old.", "Paris", False),
        ("contains", "2 + 3 = 15", "5", False),
        ("contains", "Hello, Mr. Lee!", "Mr Lee", True),
        ("contains", "", "Paris", False),
        ("json", '{"b": [1, 2], "a": 1.0}', '{"a": 1, "b": [1, 2]}', True),
        ("json", '{"a": true}', '{"a": 1}', False),
        ("json", "[2, 1]", "[1, 2]", False),
        ("json", '{"a": 1} and more', '{"a": 1}', False),
        ("json", '{"a": NaN}', '{"a": 1}', False),
        ("json", "[" * 100_000, "[]", False),
    ],
)
def test_a_scorer_tells_right_from_wrong(scorer: str, answer: str, expected: str, right: bool) -> None:
    assert SCORERS[scorer].score(answer, [expected]) == float(right)


def test_any_of_the_expected_answers_is_right() -> None:
    assert SCORERS["contains"].score("It is cool.", ["cold", "cool"]) == 1.0


def test_an_expectation_that_is_not_json_is_not_a_wrong_answer() -> None:
    with pytest.raises(CannotScore):
        SCORERS["json"].score("{}", ["not json"])


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
        (["one\ntwo"], "nll"),
        (["word " * 40], "nll"),
    ],
)
def test_the_look_of_the_demonstrations_decides_the_scorer(completions: list[str], name: str) -> None:
    assert infer_scorer(completions).name == name
