"""The shipped demonstrations are what the generators make, and their held-out parts are really unseen."""

import json
import re

import pytest

from app.demo.skills import CITIES, NUMBERS, PARTS, PEOPLE, PRODUCTS, ROOMS, SIZES, SKILLS, Part, data_path, render

SLOTS = {"home": [ROOMS], "route": [PRODUCTS], "tool": [PEOPLE, CITIES, NUMBERS]}


def _pairs(skill: str, part: Part) -> list[tuple[str, str]]:
    lines = data_path(skill, part).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line)["messages"] for line in lines]
    assert all([message["role"] for message in row] == ["user", "assistant"] for row in rows)
    return [(question["content"], answer["content"]) for question, answer in rows]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("skill", SKILLS)
def test_the_shipped_file_is_what_the_generator_makes(skill: str, part: Part) -> None:
    assert data_path(skill, part).read_bytes() == render(skill, part).encode()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("skill", SKILLS)
def test_questions_are_all_different(skill: str, part: Part) -> None:
    questions = {question for question, _ in _pairs(skill, part)}
    assert len(questions) == SIZES[part]


@pytest.mark.parametrize("skill", SKILLS)
def test_held_out_slot_values_never_occur_in_training(skill: str) -> None:
    training = " ".join(f"{question} {answer}" for question, answer in _pairs(skill, "training"))
    words = set(re.findall(r"\w+", training.lower()))
    for slot in SLOTS[skill]:
        assert not {str(value).lower() for value in slot["heldout"]} & words
        assert {str(value).lower() for value in slot["training"]} & words


@pytest.mark.parametrize("part", PARTS)
def test_a_routing_team_is_no_more_frequent_than_another(part: Part) -> None:
    answers = [answer for _, answer in _pairs("route", part)]
    assert {answers.count(answer) for answer in answers} == {SIZES[part] // 4}
