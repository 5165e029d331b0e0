"""Answers that were given before are given again, and never to another question or by other weights."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.unit.evals.fake_policy import FakePolicy
from worker.evals import memory as module
from worker.evals.memory import AnswerMemory
from worker.evals.run import Measured, evaluate
from worker.evals.suites import Item, Suite
from worker.sdft.policy import Rollout

PROMPTS, LIMITS = [[1, 2], [3]], [5, 6]
SAID = [Rollout([1, 2], [7, 0], stopped=True), Rollout([3], [8] * 6, stopped=False)]
WEIGHTS: dict[Any, str] = {"base": "b", "parent": "b p", "student": "b s"}


def _memory(folder: Path, *, weights: dict[Any, str] | None = None, **settings: Any) -> AnswerMemory:
    return AnswerMemory(folder / "answers", weights or WEIGHTS, {"device": "cpu"} | settings)


def test_the_same_weights_asked_the_same_are_not_asked_again(tmp_path: Path) -> None:
    _memory(tmp_path).keep("student", PROMPTS, LIMITS, SAID)
    next_job = _memory(tmp_path, weights=WEIGHTS | {"parent": "b s", "student": "b t"})
    assert next_job.recall("parent", PROMPTS, LIMITS) == SAID


def test_whatever_decides_an_answer_is_part_of_the_question(tmp_path: Path) -> None:
    _memory(tmp_path).keep("base", PROMPTS, LIMITS, SAID)
    assert _memory(tmp_path).recall("base", PROMPTS, LIMITS) == SAID
    assert _memory(tmp_path).recall("student", PROMPTS, LIMITS) is None
    assert _memory(tmp_path).recall("base", [[1, 2], [4]], LIMITS) is None
    assert _memory(tmp_path).recall("base", PROMPTS[::-1], LIMITS) is None
    assert _memory(tmp_path).recall("base", PROMPTS, [5, 7]) is None
    assert _memory(tmp_path, device="cuda").recall("base", PROMPTS, LIMITS) is None
    assert _memory(tmp_path, weights=WEIGHTS | {"base": "c"}).recall("base", PROMPTS, LIMITS) is None


@pytest.mark.parametrize(
    "damage",
    [lambda body: body[:-9], lambda body: body.replace(b"8", b"9", 1), lambda _: b""],
    ids=["cut", "changed", "emptied"],
)
def test_a_damaged_file_is_no_answer_and_is_replaced(tmp_path: Path, damage: Any) -> None:
    memory = _memory(tmp_path)
    memory.keep("base", PROMPTS, LIMITS, SAID)
    (file,) = (tmp_path / "answers").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert memory.recall("base", PROMPTS, LIMITS) is None
    memory.keep("base", PROMPTS, LIMITS, SAID)
    assert memory.recall("base", PROMPTS, LIMITS) == SAID


def test_a_writer_that_is_killed_leaves_nothing_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", kill)
        with pytest.raises(Killed):
            _memory(tmp_path).keep("base", PROMPTS, LIMITS, SAID)
    assert _memory(tmp_path).recall("base", PROMPTS, LIMITS) is None


def test_a_folder_that_cannot_be_used_costs_time_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "answers").write_text("a file where the folder would be")
    _memory(tmp_path).keep("base", PROMPTS, LIMITS, SAID)
    assert _memory(tmp_path).recall("base", PROMPTS, LIMITS) is None


def test_the_longest_unused_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 2)
    memory = _memory(tmp_path)
    for age, limit in ((300, 1), (200, 2)):
        memory.keep("base", PROMPTS, [limit, 9], SAID)
        for file in (tmp_path / "answers").iterdir():
            os.utime(file, (file.stat().st_atime, file.stat().st_mtime - age))
    assert memory.recall("base", PROMPTS, [1, 9]) == SAID  # the older file, and now the last one used
    memory.keep("base", PROMPTS, [3, 9], SAID)
    assert [bool(memory.recall("base", PROMPTS, [limit, 9])) for limit in (1, 2, 3)] == [True, False, True]


def _suite(name: str, role: Any) -> Suite:
    return Suite(name, role, (Item("1", name, ({"role": "user", "content": f"{name}?"},), ("yes",), "exact", 9),))


def _evaluate(policy: FakePolicy, memory: AnswerMemory, *, has_parent: bool) -> Measured:
    suites = (_suite("skill", "skill"), _suite("general", "general"))
    return evaluate(policy, suites, has_parent=has_parent, template=None, memory=memory, on_progress=lambda *_: None)


def test_the_candidate_of_one_job_is_the_parent_of_the_next(tmp_path: Path) -> None:
    first = FakePolicy(lambda arm, _: arm)
    measured = _evaluate(first, _memory(tmp_path), has_parent=False)
    assert measured.reused == set()
    second = FakePolicy(lambda arm, _: f"{arm} again")
    weights = WEIGHTS | {"parent": WEIGHTS["student"], "student": "b t"}
    again = _evaluate(second, _memory(tmp_path, weights=weights), has_parent=True)
    assert again.reused == {("general", "base"), ("general", "parent")}
    assert {arm: again.answers["general", arm][0].text for arm in again.arms(again.suites[1])} == {
        "base": "base",
        "parent": "student",
        "candidate": "student again"[:9],
    }
    assert [arm for arm, question in second.asked if question == "general?"] == ["student"]


def test_what_a_client_asked_leaves_nothing_behind(tmp_path: Path) -> None:
    policy = FakePolicy(lambda arm, _: arm)
    suites = (_suite("skill", "skill"), _suite("older", "earlier"))
    evaluate(policy, suites, has_parent=True, template=None, memory=_memory(tmp_path), on_progress=lambda *_: None)
    assert not (tmp_path / "answers").exists()
