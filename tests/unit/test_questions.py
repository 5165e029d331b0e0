"""A suite file: what a line may say, and everything that is wrong with it, by line."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.domain import validation
from app.domain.questions import Question, parse_question, stream_questions
from app.domain.strict_json import Malformed
from app.domain.validation import validate_suite

GOOD: dict[str, Any] = {"prompt": "What is 6 * 7?", "expected": "42", "scorer": "numeric"}


def _line(**changes: Any) -> bytes:
    return json.dumps({key: value for key, value in (GOOD | changes).items() if value is not ...}).encode()


def _write(folder: Path, *lines: bytes) -> Path:
    path = folder / "suite.jsonl"
    path.write_bytes(b"\n".join(lines))
    return path


def test_a_line_is_a_question_with_its_scorer(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    path = _write(
        tmp_path,
        _line(tolerance=0.5, max_tokens=32),
        _line(prompt=..., messages=chat, expected=["Paris", "in Paris"], scorer="contains"),
    )
    assert list(stream_questions(path)) == [
        Question(
            ({"role": "user", "content": "What is 6 * 7?"},),
            "42",
            1,
            expected=("42",),
            scorer="numeric",
            tolerance=0.5,
            max_tokens=32,
        ),
        Question(
            tuple(chat),
            "Paris",
            2,
            expected=("Paris", "in Paris"),
            scorer="contains",
            tolerance=None,
            max_tokens=None,
        ),
    ]


@pytest.mark.parametrize(
    ("changes", "code", "path"),
    [
        ({"scorer": ...}, "unknown_scorer", "scorer"),
        ({"scorer": "rouge"}, "unknown_scorer", "scorer"),
        ({"scorer": ["exact"]}, "unknown_scorer", "scorer"),
        ({"expected": ...}, "missing_expected", "expected"),
        ({"expected": 42}, "missing_expected", "expected"),
        ({"expected": []}, "missing_expected", "expected"),
        ({"expected": ["42", " "]}, "missing_expected", "expected"),
        ({"expected": "\u200b"}, "missing_expected", "expected"),
        ({"expected": ["1"] * 65}, "missing_expected", "expected"),
        ({"expected": ["42", "many"]}, "unusable_expected", "expected[1]"),
        ({"expected": "(", "scorer": "regex"}, "unusable_expected", "expected[0]"),
        ({"expected": "x" * 1001, "scorer": "regex"}, "unusable_expected", "expected[0]"),
        ({"expected": "{", "scorer": "json"}, "unusable_expected", "expected[0]"),
        ({"expected": ["a", "b"], "scorer": "nll"}, "too_many_expected", "expected"),
        ({"tolerance": -1}, "unrecognized_key", "tolerance"),
        ({"tolerance": True}, "unrecognized_key", "tolerance"),
        ({"tolerance": 0.1, "scorer": "exact"}, "unrecognized_key", "tolerance"),
        ({"max_tokens": 0}, "unrecognized_key", "max_tokens"),
        ({"max_tokens": 4097}, "unrecognized_key", "max_tokens"),
        ({"max_tokens": 1.5}, "unrecognized_key", "max_tokens"),
        ({"weight": 1}, "unrecognized_key", ""),
        ({"messages": []}, "unrecognized_key", ""),
        ({"prompt": ...}, "missing_messages", ""),
        ({"prompt": 5}, "missing_content", "prompt"),
        ({"prompt": ..., "messages": [{"role": "assistant", "content": "x"}]}, "missing_messages", "messages[0]"),
        ({"prompt": ..., "messages": [{"role": "user", "content": " "}]}, "empty_prompt", "messages"),
        ({"prompt": ..., "messages": [{"role": "developer", "content": "x"}]}, "unrecognized_role", "messages[0].role"),
        ({"prompt": ..., "messages": []}, "missing_messages", ""),
        ({"prompt": ""}, "empty_prompt", "prompt"),
        ({"prompt": " \n"}, "empty_prompt", "prompt"),
        ({"prompt": "\u2060"}, "empty_prompt", "prompt"),
    ],
)
def test_what_is_wrong_with_a_line_is_told_with_its_place(changes: dict[str, Any], code: str, path: str) -> None:
    with pytest.raises(Malformed) as refused:
        parse_question(_line(**changes), 1)
    assert (refused.value.code, refused.value.path) == (code, path)
    assert refused.value.hint


@pytest.mark.parametrize("roles", [["user", "assistant"], ["system"], ["tool"]])
def test_a_question_that_asks_nothing_is_told_in_words_for_questions(roles: list[str]) -> None:
    """Fault caught: it was told about the answer to learn, which a question does not have."""
    messages = [{"role": role, "content": "x"} for role in roles]
    with pytest.raises(Malformed, match="nothing is asked") as refused:
        parse_question(_line(prompt=..., messages=messages), 1)
    assert 'put the answer into "expected"' in refused.value.hint
    assert refused.value.path == f"messages[{len(roles) - 1}]"


def test_a_file_is_read_to_its_end_and_every_error_is_named(tmp_path: Path) -> None:
    report = validate_suite(_write(tmp_path, _line(), _line(scorer="x"), _line(), b"", _line(expected="no")))
    assert [(finding.code, finding.line) for finding in report.errors] == [
        ("unknown_scorer", 2),
        ("invalid_json", 4),
        ("unusable_expected", 5),
    ]
    assert [(finding.code, finding.line) for finding in report.warnings] == [("duplicate_example", 3)]


def test_a_prompt_that_comes_again_is_warned_of_whatever_its_answer(tmp_path: Path) -> None:
    [warning] = validate_suite(_write(tmp_path, _line(), _line(expected="43"))).warnings
    assert (warning.line, warning.code) == (2, "duplicate_example")
    assert warning.message.startswith("The same prompt as line 1: only that line is asked")


def test_one_question_is_enough_and_none_is_not(tmp_path: Path) -> None:
    assert validate_suite(_write(tmp_path, _line())).valid
    assert [finding.code for finding in validate_suite(_write(tmp_path)).errors] == ["too_few_examples"]


def test_a_file_is_judged_by_answers_or_by_likelihood_and_not_by_both(tmp_path: Path) -> None:
    text = _line(scorer="nll", expected="a long story")
    assert validate_suite(_write(tmp_path, text, text)).valid
    report = validate_suite(_write(tmp_path, text, _line(), text))
    assert [(finding.code, finding.line) for finding in report.errors] == [("mixed_scorers", 2)]


def test_a_suite_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "MAX_QUESTIONS", 2)
    report = validate_suite(_write(tmp_path, *[_line(prompt=f"{n}?") for n in range(4)]))
    assert [(finding.code, finding.line) for finding in report.errors] == [("too_many_examples", 3)]
