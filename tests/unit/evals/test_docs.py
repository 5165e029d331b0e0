"""The page on evaluation says what is so."""

import re
from pathlib import Path

import pytest

from app.domain.evaluation import SCORER_NAMES
from app.domain.questions import parse_question
from worker.evals.scorers import SCORERS
from worker.evals.suites import general_suite

PAGE = Path("docs/evaluation.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^\| `(\w+)`: .* \| `(.+)` \| `(.+)` \| `(.+)` \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("scorer", "expected", "right", "wrong"), EXAMPLES, ids=[row[0] for row in EXAMPLES])
def test_examples_of_scorers_come_out_as_they_are_shown(scorer: str, expected: str, right: str, wrong: str) -> None:
    assert SCORERS[scorer].score(right, [expected]) == 1.0
    assert SCORERS[scorer].score(wrong, [expected]) == 0.0


def test_every_scorer_has_its_example() -> None:
    assert {row[0] for row in EXAMPLES} == set(SCORERS) == set(SCORER_NAMES) - {"nll"}


def test_lines_of_a_suite_can_be_uploaded_as_they_are_shown() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("{")]
    assert [parse_question(line.encode(), 1).scorer for line in lines] == ["numeric", "contains"]


def test_the_general_suite_is_as_described() -> None:
    suite = general_suite()
    kinds = {item.kind for item in suite.items}
    assert f"{len(suite.items)} short questions of {len(kinds)} kinds" in PAGE
    rehearsed, others = re.search(
        r"\*\*General ability\*\*: (.*?) are \*rehearsed.*?sort\. (.*?) are \*other", PAGE, re.DOTALL
    ).groups()
    assert _names(rehearsed) == kinds & suite.rehearsed
    assert _names(others) == kinds - suite.rehearsed


def _names(text: str) -> set[str]:
    return {name.lower().replace(" ", "_") for name in re.split(r", | and ", " ".join(text.split()))}
