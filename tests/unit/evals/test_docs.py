"""The page on evaluation says what is so."""

import re
from pathlib import Path

import pytest

from app.domain.evaluation import SCORER_NAMES, unusable
from app.domain.questions import parse_question
from worker.evals.schema import Report
from worker.evals.scorers import SCORERS
from worker.evals.suites import general_suite

PAGE = Path("docs/evaluation.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL))
"""What is said of each scorer."""
EXAMPLES = [
    pytest.param(scorer, *row, id=f"{scorer} {number}")
    for scorer, text in SECTIONS.items()
    for number, row in enumerate(re.findall(r"^\| (.+) \| (.+) \| (right|wrong) \|$", text, re.MULTILINE), 1)
]


def _code(cell: str) -> list[str]:
    """What a cell of a table shows as code, by the rules of CommonMark."""
    spans = [text for _, text in re.findall(r"(`+)(.+?)(?<!`)\1(?!`)", cell)]
    return [text[1:-1] if text[0] == text[-1] == " " else text for text in spans]


@pytest.mark.parametrize(("scorer", "expected", "answer", "verdict"), EXAMPLES)
def test_examples_of_scorers_come_out_as_they_are_shown(scorer: str, expected: str, answer: str, verdict: str) -> None:
    wanted = [text if scorer == "regex" else text.replace(r"\n", "\n") for text in _code(expected)]
    [said] = _code(answer)
    tolerance = float(expected.partition("tolerance ")[2] or 0)
    assert not [reason for text in wanted if (reason := unusable(scorer, text))]
    score = SCORERS[scorer].score(said.replace(r"\n", "\n"), wanted, tolerance=tolerance)
    assert score == float(verdict == "right")


def test_the_page_names_the_present_version_of_the_report() -> None:
    assert f"`schema_version` {Report.model_fields['schema_version'].default}," in PAGE


def test_every_scorer_is_explained_by_examples_right_and_wrong() -> None:
    assert list(SECTIONS) == list(SCORER_NAMES)
    shown = {(param.values[0], param.values[3]) for param in EXAMPLES}
    assert shown == {(scorer, verdict) for scorer in SCORERS for verdict in ("right", "wrong")}


def test_lines_of_a_suite_can_be_uploaded_as_they_are_shown() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("{")]
    assert [parse_question(line.encode(), 1).scorer for line in lines] == ["nll", "numeric", "contains"]


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
