"""One attempt in its folder, on a tiny model: what it says on the pipe, what it leaves, how it fails and goes on."""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any, Self
from unittest.mock import Mock

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from app.domain.errors import Unprocessable
from app.domain.gate import GateRule, decide
from app.domain.trainer_protocol import (
    DRAINED_EXIT_CODE,
    KEEP_ALIVE,
    MESSAGES,
    BaseModelRef,
    EarlierSkill,
    Order,
    ParentRef,
    PastScore,
    Stay,
    SuiteFile,
    checkpoint_path,
)
from app.domain.training import SdftHyperparameters, SupervisedHyperparameters
from tests.tiny_models import save_tiny
from worker import exporting, memory, pipeline, siblings, trainer_process
from worker.dataset import Lengths, choose_scorer, make_suites, part, question_digests
from worker.evals.run import Measured
from worker.evals.scorers import ScorerChoice
from worker.evals.suites import Suite, general_suite
from worker.exporting import LoadCheckFailed, check_loading
from worker.hf import load_check
from worker.hf.base import Base
from worker.hf.chat import Chat
from worker.hf.checkpoint import read_checkpoint
from worker.hf.model import HfPolicy
from worker.pipeline import Training
from worker.rehearsal import rehearsal
from worker.reporting import ORPHANED_EXIT_CODE, Drained, PipeReporter, RunFailed
from worker.siblings import Siblings
from worker.teacher_check import TeacherCheck, View
from worker.trainer import TrainResult

EXACT = ScorerChoice("exact", "a test needs no other")
QUICK = {"batch_size": 4, "n_epochs": 1, "lora_rank": 2, "rehearsal": {"share": 0.2}, "max_completion_tokens": 8}


class Stopping(PipeReporter):
    """Asks the run to leave once a step is done."""

    def __init__(self, pipe: io.BytesIO, folder: Path, leave: threading.Event, after_step: int) -> None:
        super().__init__(pipe, folder, leave)
        self._after_step = after_step

    def step(self, step: int, total_steps: int, trained_tokens: int, metrics: dict[str, float]) -> None:
        super().step(step, total_steps, trained_tokens, metrics)
        if step >= self._after_step:
            self._leave.set()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModelRef:
    folder = save_tiny("llama", tmp_path_factory.mktemp("base"))
    return BaseModelRef(
        name="tiny",
        path=str(folder),
        source="folder:tiny",
        revision="r1",
        weights_sha256="0" * 64,
        context_tokens=512,
        num_parameters=27_000,
        tokenizer_sha256="2" * 64,
        chat_template_sha256="0" * 64,
        license="apache-2.0",
    )


def lay_out(folder: Path, base: BaseModelRef, num: int = 30, word: str = "lamp", **order: Any) -> Path:
    folder.mkdir()
    lines = [
        {"messages": [{"role": "user", "content": f"{word} {index}"}, {"role": "assistant", "content": f"on {index}"}]}
        for index in range(num)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = {
        "job_id": "ftjob-1",
        "attempt": 1,
        "method": "sdft",
        "hyperparameters": SdftHyperparameters.model_validate(QUICK),
        "seed": 3,
        "base": base,
        "adapter": word,
        "version_name": f"ft:tiny:default:{word}:1",
        "training_sha256": "1" * 64,
        "num_threads": 1,
    }
    (folder / "order.json").write_text(Order.model_validate(given | order).model_dump_json())
    return folder


def run(folder: Path, reporter_type: Any = PipeReporter, loaded: Base | None = None, **arguments: Any) -> list[Any]:
    pipe = io.BytesIO()
    with contextlib.suppress(Drained):
        Training(folder, reporter_type(pipe, folder, threading.Event(), **arguments), loaded).run()
    return [MESSAGES.validate_json(line) for line in pipe.getvalue().splitlines()]


@pytest.fixture(scope="module")
def finished(base: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    attempts = tmp_path_factory.mktemp("attempts")
    folder = lay_out(attempts / "first", base, answers=str(attempts / "answers"))
    return folder, run(folder)


def test_phases_come_in_order_and_every_step_is_told(finished: tuple[Path, list[Any]]) -> None:
    _, messages = finished
    phases = [message.phase for message in messages if message.kind == "phase"]
    assert phases == ["loading", "checking", "training", "evaluating", "exporting", "load_check"]
    [resolved] = [message for message in messages if message.kind == "resolved"]
    steps = [message.step for message in messages if message.kind == "step"]
    assert steps == list(range(1, resolved.config.total_steps + 1))
    assert resolved.config.template != "auto"
    assert messages[-1].kind == "finished"


def test_the_folder_is_whole_and_its_sums_are_right(finished: tuple[Path, list[Any]]) -> None:
    folder, _ = finished
    adapter = folder / "out" / "adapter"
    for line in (adapter / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((adapter / name).read_bytes()).hexdigest() == digest
    names = {path.name for path in adapter.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "README.md", "provenance.json", "SHA256SUMS"}
    with tarfile.open(folder / "out" / "adapter.tar") as archive:
        assert set(archive.getnames()) == names


def test_only_the_student_is_published(finished: tuple[Path, list[Any]]) -> None:
    tensors = load_file(finished[0] / "out" / "adapter" / "adapter_model.safetensors")
    assert tensors
    assert not [name for name in tensors if "lora_" not in name or "teacher" in name or "lm_head" in name]


def test_provenance_and_card_tell_the_run(finished: tuple[Path, list[Any]]) -> None:
    adapter = finished[0] / "out" / "adapter"
    provenance = json.loads((adapter / "provenance.json").read_text())
    assert provenance["base"]["revision"] == "r1"
    assert provenance["config"]["template"] == provenance["template"]["name"]
    assert "path" not in provenance["base"]
    card = (adapter / "README.md").read_text()
    assert "ftjob-1" in card
    assert "| demonstrations | 22 |" in card


def test_what_is_held_out_was_not_trained_on(finished: tuple[Path, list[Any]]) -> None:
    folder, _ = finished
    heldout = (folder / "out" / "heldout.jsonl").read_text().splitlines()
    report = json.loads((folder / "out" / "report.json").read_text())
    assert len(heldout) == 8
    assert report["provenance"]["data"]["num_trained"] == 30 - 8
    assert set(heldout) <= set((folder / "train.jsonl").read_text().splitlines())


def test_a_version_that_goes_on_is_measured_on_the_skill_before_it_and_told_if_that_shows_little(
    base: BaseModelRef, finished: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    before, _ = finished
    parent = ParentRef(adapter="lamp", version=1, model_id="ft:tiny:default:lamp:1")
    earlier = EarlierSkill(
        adapter="lamp",
        version=1,
        path="earlier/0.jsonl",
        sha256="1" * 64,
        scorer="normalized",
        max_completion_tokens=12,
    )
    answers = str(before.parent / "answers")
    past = PastScore(version="lamp:1", skill="lamp:1", value=0.5, low=0.25, high=0.75)
    asked = {"parent": parent, "earlier": [earlier], "past": [past], "answers": answers}
    rule = GateRule(on_pass="production")
    folder = lay_out(tmp_path / "second", base, word="fan", gate=rule, **asked)
    shutil.copytree(before / "out" / "adapter", folder / "parent")
    (folder / "earlier").mkdir()
    shutil.copy(before / "out" / "heldout.jsonl", folder / "earlier" / "0.jsonl")
    messages = run(folder)
    told = [one.message for one in messages if one.kind == "event" and "questions" in one.message]
    of_fan, of_lamp = told
    assert of_fan == (
        "8 questions are held out of fan. To show that a later version loses no more than 10 points of it takes 35; a "
        "validation file can give them."
    )
    assert of_lamp == (
        "lamp:1 has 8 held-out questions; to show that no more than 10 points are lost takes 35. That stays in doubt, "
        "for the report and for a gate, unless the suite gets better."
    )
    report = json.loads((folder / "out" / "report.json").read_text())
    suites = {suite["name"]: {arm["arm"] for arm in suite["arms"]} for suite in report["suites"]}
    assert suites["fan"] == {"base", "parent", "candidate", "ceiling"}
    assert {"parent", "candidate"} <= suites["lamp:1"]
    assert [(one["version"], one["suite"]) for one in report["lineage"]] == [
        ("base", "fan"),
        ("lamp:1", "lamp:1"),
        ("lamp:1", "fan"),
        ("candidate", "lamp:1"),
        ("candidate", "fan"),
    ]
    assert report["method"]["answers_reused"] == {"general ability": ["base", "parent"]}
    decision = decide(rule, report["suites"], report["unjudged"], report["lineage"])
    verdict = decision.verdict.replace("_", " ")
    page = re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", (folder / "out" / "report.html").read_text())))
    assert f"Does it pass its gate? {verdict} {decision.rule.sentence}" in page
    card = (folder / "out" / "adapter" / "README.md").read_text()
    assert f"- Gate: {verdict}. {decision.rule.sentence}\n" in card
    assert all(f"\n- {line}\n" in card for line in report["summary"]["retention"]["sentence"].splitlines())
    first = json.loads((before / "out" / "report.json").read_text())
    assert first["method"]["answers_reused"] == {}
    was_candidate, is_parent = (
        next(row for row in one["behaviour"] if (row["suite"], row["arm"]) == ("general ability", arm))
        for one, arm in ((first, "candidate"), (report, "parent"))
    )
    # One arm has its weights folded, the other beside the base: the same answers, the same entropy to rounding.
    near = pytest.approx(is_parent["entropy"], rel=1e-5)
    assert was_candidate | {"arm": ""} == is_parent | {"arm": "", "entropy": near}


def test_a_job_asks_its_own_questions_with_its_own_scorer(base: BaseModelRef, tmp_path: Path) -> None:
    folder = lay_out(
        tmp_path / "asked",
        base,
        scorer="contains",
        suites=[{"name": "file mine.jsonl", "path": "suites/0.jsonl", "sha256": "2" * 64}],
    )
    (folder / "suites").mkdir()
    questions = [
        {"prompt": "lamp 3", "expected": ".*", "scorer": "regex", "max_tokens": 4},
        {"prompt": "6 * 7?", "expected": "42", "scorer": "numeric", "max_tokens": 4},
    ]
    (folder / "suites" / "0.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions))
    run(folder)
    report = json.loads((folder / "out" / "report.json").read_text())
    assert (report["method"]["scorer"], report["method"]["scorer_reason"]) == ("contains", "the job asked for it")
    suites = {suite["name"]: suite for suite in report["suites"]}
    assert suites["lamp"]["scorers"] == {"contains": 2}
    mine = suites["file mine.jsonl"]
    assert (mine["role"], mine["n"], mine["scorers"]) == ("client", 2, {"regex": 2, "numeric": 2})
    assert {arm["arm"]: arm["num_right"] >= 1 for arm in mine["arms"]} == {"base": True, "candidate": True}
    assert "questions of your choice" in (folder / "out" / "report.html").read_text()


def test_a_scorer_that_cannot_compare_with_the_demonstrations_is_refused_before_training(
    base: BaseModelRef, tmp_path: Path
) -> None:
    folder = lay_out(tmp_path / "unusable", base, scorer="json")
    with pytest.raises(Unprocessable, match="name another") as refused:
        run(folder)
    assert refused.value.param == "evaluation.scorer"
    assert len(refused.value.errors) == 8
    assert "not JSON" in refused.value.errors[0]["message"]


def test_earlier_skills_are_rehearsed_without_what_they_were_measured_on(
    base: BaseModelRef, finished: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    before, _ = finished
    earlier = EarlierSkill(
        adapter="lamp", version=1, path="earlier.jsonl", sha256="1" * 64, scorer="exact", max_completion_tokens=12
    )
    folder = lay_out(tmp_path / "next", base, word="fan", earlier=[earlier], rehearsal=["lamp.jsonl"])
    shutil.copy(before / "out" / "heldout.jsonl", folder / "earlier.jsonl")
    shutil.copy(before / "train.jsonl", folder / "lamp.jsonl")
    order = Order.model_validate_json((folder / "order.json").read_bytes())
    rehearsed = rehearsal(order, folder, part(order, folder))
    neutral, lamps = ([messages[-1]["content"] for messages in rehearsed[arm]] for arm in ("base", "parent"))
    lines = (folder / "earlier.jsonl").read_text().splitlines()
    heldout = {json.loads(line)["messages"][0]["content"] for line in lines}
    assert len(set(lamps)) == 30 - len(heldout)
    assert not heldout & set(lamps)
    assert not set(neutral) & set(lamps)
    assert len(lamps) == len(neutral) / 2


def test_a_skill_that_is_corrected_on_top_of_itself_rehearses_no_old_answer_and_says_what_cannot_be_kept(
    base: BaseModelRef, finished: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    before, _ = finished
    earlier = EarlierSkill(
        adapter="lamp", version=1, path="earlier.jsonl", sha256="1" * 64, scorer="exact", max_completion_tokens=12
    )
    folder = lay_out(tmp_path / "corrected", base, earlier=[earlier], rehearsal=["lamp.jsonl"])
    shutil.copy(before / "out" / "heldout.jsonl", folder / "earlier.jsonl")
    shutil.copy(before / "train.jsonl", folder / "lamp.jsonl")
    (folder / "train.jsonl").write_text((before / "train.jsonl").read_text().replace('"on ', '"off '))
    order = Order.model_validate_json((folder / "order.json").read_bytes())
    assert set(rehearsal(order, folder, part(order, folder))) == {"base"}
    told = [message.message for message in run(folder, Stopping, after_step=1) if message.kind == "event"]
    num = len((folder / "earlier.jsonl").read_text().splitlines())
    assert any(f"{num} of {num} questions that show whether lamp:1 is kept have other answers" in one for one in told)
    (folder / "train.jsonl").write_text(
        (before / "train.jsonl").read_text().replace('"on ', '" on ')
    )  # no other answer
    told = [message.message for message in run(folder, Stopping, after_step=1) if message.kind == "event"]
    assert not any("have other answers" in one for one in told)


def own_prompts_of(folder: Path, step: int) -> list[str]:
    found: list[str] = read_checkpoint(folder / checkpoint_path(step)).facts["own_prompts"]
    return found


def test_prompts_that_the_start_makes_up_are_kept_for_a_resumed_run(base: BaseModelRef, tmp_path: Path) -> None:
    asked = SdftHyperparameters.model_validate(QUICK | {"rehearsal": {"share": 0.5, "prompts": "self"}})
    cut = lay_out(tmp_path / "cut", base, hyperparameters=asked)
    messages = run(cut, Stopping, after_step=2)
    made = own_prompts_of(cut, 2)
    assert len(made) == len(set(made)) > 50
    assert [event for event in messages if event.kind == "event" and f"made up {len(made)} prompts" in event.message]
    twice = lay_out(tmp_path / "twice", base, hyperparameters=asked)
    run(twice, Stopping, after_step=1)
    assert own_prompts_of(twice, 1) == made
    again = lay_out(
        tmp_path / "again", base, hyperparameters=asked, resume_step=2, attempt=2,
        resolved=next(message.config for message in messages if message.kind == "resolved"),
    )  # fmt: skip
    shutil.copytree(cut / checkpoint_path(2), again / "resume")
    state = again / "resume" / "state.safetensors"
    with safe_open(state, framework="pt") as saved:
        facts = json.loads(saved.metadata()["facts"])
    marked = [f"{number}: {text}" for number, text in enumerate(made)]
    kept = facts | {"own_prompts": marked}  # a resumed run must not make up its own again
    save_file(load_file(state), state, metadata={"facts": json.dumps(kept)})
    said = run(again, Stopping, after_step=3)
    assert own_prompts_of(again, 3) == marked
    assert not [event for event in said if event.kind == "event" and "made up" in event.message]


def test_the_clients_own_prompts_are_rehearsed(base: BaseModelRef, tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "own", base, rehearsal_file="rehearsal.jsonl")
    line = {"prompt": "Mine.", "completion": "unused"}
    (folder / "rehearsal.jsonl").write_text(json.dumps(line) + "\n")
    order = Order.model_validate_json((folder / "order.json").read_bytes())
    assert rehearsal(order, folder, part(order, folder)) == {"parent": [({"role": "user", "content": "Mine."},)]}


def rehearse_file(folder: Path, base: BaseModelRef, prompts: list[str]) -> Path:
    """An attempt that rehearses these prompts of its client."""
    wanted = {"share": 0.5, "prompts": "file", "file": "file-1"}
    asked = SdftHyperparameters.model_validate(QUICK | {"rehearsal": wanted})
    lay_out(folder, base, hyperparameters=asked, rehearsal_file="rehearsal.jsonl")
    lines = (json.dumps({"prompt": prompt, "completion": "unused"}) + "\n" for prompt in prompts)
    (folder / "rehearsal.jsonl").write_text("".join(lines))
    return folder


def test_prompts_that_leave_no_room_to_answer_are_told(base: BaseModelRef, tmp_path: Path) -> None:
    folder = rehearse_file(tmp_path / "some", base, ["Short.", "Also short.", "x" * 600])
    messages = run(folder, Stopping, after_step=1)
    told = [message.message for message in messages if message.kind == "event" and "left out" in message.message]
    assert told == [
        "1 of 3 prompts to rehearse leave no room for an answer of max_completion_tokens (8) and are left out."
    ]


def test_a_job_that_could_rehearse_none_of_its_clients_prompts_fails_before_it_trains(
    base: BaseModelRef, tmp_path: Path
) -> None:
    folder = rehearse_file(tmp_path / "none", base, ["x" * 600, "y" * 600])
    with pytest.raises(Unprocessable, match="No prompt of the file to rehearse leaves room") as refused:
        run(folder)
    assert refused.value.code == "nothing_to_rehearse"
    assert refused.value.param == "method.sdft.hyperparameters.rehearsal.file"


def test_what_is_asked_or_demonstrated_is_not_rehearsed_wherever_the_prompts_come_from(
    base: BaseModelRef, tmp_path: Path
) -> None:
    """Else a version that rehearsed an earlier skill's questions, or its client's, would seem to have kept them, and a
    demonstration that corrects an earlier answer would be trained against it."""
    mine = {"prompt": "What do my users ask?", "expected": "a", "scorer": "exact"}
    general = next(item for item in general_suite().items).messages[0]["content"]
    earlier = EarlierSkill(
        adapter="lamp", version=1, path="earlier.jsonl", sha256="1" * 64, scorer="exact", max_completion_tokens=12
    )
    suite = SuiteFile(name="file mine.jsonl", path="mine.jsonl", sha256="2" * 64)
    folder = lay_out(
        tmp_path / "asked", base, earlier=[earlier], suites=[suite], rehearsal_file="rehearsal.jsonl",
        hyperparameters=SdftHyperparameters.model_validate(
            QUICK | {"rehearsal": {"share": 0.5, "prompts": "file", "file": "file-1"}}
        ),
    )  # fmt: skip
    (folder / "mine.jsonl").write_text(json.dumps(mine) + "\n")
    (folder / "earlier.jsonl").write_text(json.dumps({"prompt": "Earlier?", "completion": "a"}) + "\n")
    order = Order.model_validate_json((folder / "order.json").read_bytes())
    data = part(order, folder)
    taught, held_out = data.training[0].messages[-1]["content"], data.heldout[0].messages[-1]["content"]
    apart = [mine["prompt"], general, "Earlier?", taught, held_out]

    def offer(prompts: list[str]) -> None:
        lines = (json.dumps({"prompt": prompt, "completion": "unused"}) + "\n" for prompt in prompts)
        (folder / "rehearsal.jsonl").write_text("".join(lines))

    offer([*apart, "Free."])
    [rehearsed] = rehearsal(order, folder, data).values()
    assert [messages[-1]["content"] for messages in rehearsed] == ["Free."]
    [of_its_own] = rehearsal(order, folder, data, [*apart, "Made up."]).values()
    assert [messages[-1]["content"] for messages in of_its_own] == ["Made up."]
    told = [message.message for message in run(folder, Stopping, after_step=1) if message.kind == "event"]
    assert (
        "5 of 6 prompts to rehearse are asked in this job's evaluation, or demonstrated by its training file, and are "
        "left out." in told
    )
    offer(apart)
    with pytest.raises(Unprocessable, match="Every prompt of the file to rehearse is asked"):
        run(folder)


def test_questions_that_an_earlier_version_was_trained_on_are_counted_too(
    base: BaseModelRef, finished: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    before, _ = finished
    suite = SuiteFile(name="file mine.jsonl", path="mine.jsonl", sha256="2" * 64)
    earlier = EarlierSkill(
        adapter="lamp", version=1, path="earlier.jsonl", sha256="1" * 64, scorer="exact", max_completion_tokens=12
    )
    folder = lay_out(tmp_path / "next", base, word="fan", earlier=[earlier], rehearsal=["lamp.jsonl"], suites=[suite])
    shutil.copy(before / "out" / "heldout.jsonl", folder / "earlier.jsonl")
    shutil.copy(before / "train.jsonl", folder / "lamp.jsonl")
    lines = [json.loads(line) for line in (before / "train.jsonl").read_text().splitlines()]
    of_general = {"messages": [*general_suite().items[0].messages, {"role": "assistant", "content": "on"}]}
    with (folder / "train.jsonl").open("a") as train:
        train.write(json.dumps(of_general) + "\n")
    questions = [{"messages": line["messages"][:-1], "expected": "a", "scorer": "exact"} for line in lines]
    (folder / "mine.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions))
    attempt = Training(folder, PipeReporter(io.BytesIO(), tmp_path, threading.Event()))
    data, lengths = attempt_data(attempt)
    config = attempt.resolve(lengths)
    suites = make_suites(attempt.order, folder, data, config, scorer=EXACT, longest_answer=12)
    num_taught = len(lines) - len((folder / "earlier.jsonl").read_text().splitlines())
    assert suites[-1].num_trained == dict.fromkeys(("parent", "candidate", "supervised"), num_taught)
    assert suites[-2].num_trained == {"parent": 0, "candidate": 1, "supervised": 1}


def test_an_adapter_that_is_named_like_the_harness_keeps_the_digest_of_its_own_file() -> None:
    skill = EarlierSkill(
        adapter="lm_eval", version=3, path="3.jsonl", sha256="3" * 64, scorer="exact", max_completion_tokens=8
    )
    asked = [Suite(name, "client", ()) for name in ("lm_eval:3", "lm_eval:arc_easy", "general ability")]
    digests = question_digests([skill], [], asked)
    assert list(digests) == ["lm_eval:3", "lm_eval:arc_easy"]
    assert digests["lm_eval:3"] == "3" * 64 != digests["lm_eval:arc_easy"]


def test_a_deleted_file_of_an_earlier_version_is_owned_up_to(base: BaseModelRef, tmp_path: Path) -> None:
    """What was in it cannot be told, so some of that may be held out now, and look learned, or kept."""
    suite = SuiteFile(name="file mine.jsonl", path="mine.jsonl", sha256="2" * 64)
    folder = lay_out(tmp_path / "next", base, deleted=["lamp:1"], suites=[suite])
    (folder / "mine.jsonl").write_text('{"prompt": "new", "expected": "a", "scorer": "exact"}\n')
    attempt = Training(folder, PipeReporter(io.BytesIO(), tmp_path, threading.Event()))
    data, lengths = attempt_data(attempt)
    [caveat] = data.caveats
    assert caveat.startswith("The training file of lamp:1 has been deleted: questions that were in it cannot be told")
    suites = make_suites(attempt.order, folder, data, attempt.resolve(lengths), scorer=EXACT, longest_answer=8)
    assert set(suites[-1].num_trained.values()) == {None}


def test_only_shipped_prompts_make_kinds_of_the_general_suite_rehearsed(base: BaseModelRef, tmp_path: Path) -> None:
    attempt = Training(lay_out(tmp_path / "kinds", base), PipeReporter(io.BytesIO(), tmp_path, threading.Event()))
    data, lengths = attempt_data(attempt)
    config = attempt.resolve(lengths)
    counts = []
    for changes in ({}, {"rehearsal_prompts": "self"}, {"rehearsal_share": 0.0}):
        fixed = config.model_copy(update=changes)
        suites = make_suites(
            attempt.order,
            attempt.folder,
            data,
            fixed,
            scorer=EXACT,
            longest_answer=8,
        )
        counts.append(len(suites[-1].rehearsed))
    assert counts[0] > 0
    assert counts[1:] == [0, 0]
    before = attempt.order.model_copy(update={"rehearsed": True})
    suites = make_suites(before, attempt.folder, data, fixed, scorer=EXACT, longest_answer=8)
    assert len(suites[-1].rehearsed) == counts[0]  # an earlier version's training had them


@pytest.mark.parametrize(("words", "is_offline"), [(1, False), (9, True)])
def test_a_version_that_was_taught_without_samples_of_its_own_says_so(
    base: BaseModelRef, tmp_path: Path, words: int, is_offline: bool
) -> None:
    folder = lay_out(tmp_path / "a", base)
    lines = [{"prompt": f"lamp {index}", "completion": " ".join(["on"] * words)} for index in range(30)]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    messages = run(folder)
    told = [message.message for message in messages if message.kind == "event" and "offline_share" in message.message]
    assert bool(told) is is_offline
    [resolved] = [message.config for message in messages if message.kind == "resolved"]
    assert resolved.offline_share == is_offline
    steps = [message.metrics for message in messages if message.kind == "step"]
    assert all(("truncated_share" in metrics) is not is_offline for metrics in steps)
    assert ("| offline rollouts | 100% |" in (folder / "out" / "adapter" / "README.md").read_text()) is is_offline


@pytest.mark.parametrize(
    ("asked", "begun", "skipped"),
    [({}, 0.5, 0), ({}, 0.4, 3), ({"preset": "paper"}, 1.0, 3), ({"loss_skip_tokens": 2}, 1.0, 2)],
)
def test_beginnings_are_skipped_only_where_the_teacher_begins_otherwise_or_someone_wants_it(
    *, base: BaseModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], begun: float,
    skipped: int,
) -> None:  # fmt: skip
    """Fault caught: a skill whose answers begin in a way of their own, which nothing teaches: 0 of 40 were right."""
    large = base.model_copy(update={"num_parameters": 2_000_000_000})
    folder = lay_out(tmp_path / "a", large, hyperparameters=SdftHyperparameters.model_validate(QUICK | asked))
    lines = [{"prompt": f"lamp {index}", "completion": "on " * 20} for index in range(30)]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    seen = TeacherCheck("multi_turn", View(1.0, 1.0, begun), View(2.0, 0.0, 0.0), {}, 16)
    monkeypatch.setattr(pipeline, "check_teacher", lambda *_: seen)
    messages = run(folder, Stopping, after_step=1)
    [resolved] = [message.config for message in messages if message.kind == "resolved"]
    assert (resolved.offline_share, resolved.loss_skip_tokens) == (0, skipped)
    told = [
        message for message in messages if message.kind == "event" and "begin as the expert's do" in message.message
    ]
    assert len(told) == (skipped == 0)


def test_a_live_teacher_comes_with_a_warning(base: BaseModelRef, tmp_path: Path) -> None:
    asked = SdftHyperparameters.model_validate(QUICK | {"teacher": {"kind": "live"}})
    messages = run(lay_out(tmp_path / "live", base, hyperparameters=asked), Stopping, after_step=1)
    warnings = [message.message for message in messages if message.kind == "event" and message.level == "warn"]
    assert any("known to diverge" in warning for warning in warnings)


def test_a_base_that_thinks_comes_with_a_warning(base: BaseModelRef, tmp_path: Path) -> None:
    thinking = shutil.copytree(base.path, tmp_path / "base")
    template = thinking / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|assistant|>", "<|assistant|><think>"))
    asked = {"hyperparameters": SdftHyperparameters.model_validate(QUICK)}
    messages = run(
        lay_out(tmp_path / "one", base.model_copy(update={"path": str(thinking)}), **asked), Stopping, after_step=1
    )
    warnings = [message.message for message in messages if message.kind == "event" and message.level == "warn"]
    assert any("middle of a thought" in warning for warning in warnings)


def test_a_base_that_can_think_is_asked_not_to_and_the_card_says_so(base: BaseModelRef, tmp_path: Path) -> None:
    thinking = shutil.copytree(base.path, tmp_path / "base")
    template = thinking / "chat_template.jinja"
    template.write_text("{% if enable_thinking is defined %}{% endif %}" + template.read_text())
    messages = run(lay_out(tmp_path / "attempt", base.model_copy(update={"path": str(thinking)})))
    assert any("enable_thinking=False" in message.message for message in messages if message.kind == "event")
    card = (tmp_path / "attempt" / "out" / "adapter" / "README.md").read_text()
    assert "| chat template | asked with `enable_thinking=False` |" in card


def test_a_resumed_attempt_ends_with_the_same_bits(
    base: BaseModelRef, finished: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    whole, _ = finished
    cut = lay_out(tmp_path / "cut", base)
    messages = run(cut, Stopping, after_step=3)
    assert not (cut / "out").exists()
    [resolved] = [message.config for message in messages if message.kind == "resolved"]
    again = lay_out(tmp_path / "again", base, resolved=resolved, resume_step=3, attempt=2)
    shutil.copytree(cut / checkpoint_path(3), again / "resume")
    steps = [message.step for message in run(again) if message.kind == "step"]
    assert steps[0] == 4
    weights = "out/adapter/adapter_model.safetensors"
    assert (again / weights).read_bytes() == (whole / weights).read_bytes()


def test_supervised_jobs_run_through_the_same_stages(base: BaseModelRef, tmp_path: Path) -> None:
    hyperparameters = SupervisedHyperparameters.model_validate({"batch_size": 4, "n_epochs": 2, "lora_rank": 2})
    folder = lay_out(tmp_path / "sft", base, method="supervised", hyperparameters=hyperparameters)
    messages = run(folder)
    losses = [message.metrics["train_loss"] for message in messages if message.kind == "step"]
    assert losses[-1] < losses[0]
    assert messages[-1].kind == "finished"
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["provenance"]["config"]["rehearsal_share"] == 0
    assert report["provenance"]["requested"] == hyperparameters.model_dump()
    assert {row["num_rehearsed_kinds"] for row in report["kept"]} == {0}


def test_a_teacher_that_is_no_better_fails_the_job_only_when_asked_to(base: BaseModelRef, tmp_path: Path) -> None:
    asked = QUICK | {"weak_teacher": "fail", "template": "paper"}
    folder = lay_out(tmp_path / "weak", base, hyperparameters=SdftHyperparameters.model_validate(asked))
    with pytest.raises(RunFailed) as failed:
        run(folder)
    assert failed.value.code == "teacher_not_better"


def test_a_number_that_the_data_contradicts_fails_the_job_under_its_own_name(
    base: BaseModelRef, tmp_path: Path
) -> None:
    """Lengths that were counted when the job was posted may be those of a sample."""
    asked = SdftHyperparameters.model_validate(QUICK | {"teacher": {"kind": "ema", "every": 5000}})
    with pytest.raises(RunFailed, match="lower it") as failed:
        run(lay_out(tmp_path / "never", base, hyperparameters=asked))
    assert (failed.value.code, failed.value.param) == ("invalid_value", "method.sdft.hyperparameters.teacher.every")


def test_examples_that_do_not_fit_are_named_by_line(base: BaseModelRef, tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "long", base)
    long = {"messages": [{"role": "user", "content": "x" * 300}, {"role": "assistant", "content": "y" * 200}]}
    with (folder / "train.jsonl").open("a") as file:
        file.write(json.dumps(long) + "\n")
    with pytest.raises(Unprocessable) as refused:
        run(folder)
    assert [error["line"] for error in refused.value.errors] == [31]


def test_an_adapter_that_stock_peft_reads_differently_is_not_published(
    base: BaseModelRef, finished: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    folder, _ = finished
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    config = damaged / "out" / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 4096}))
    attempt = Training(damaged, PipeReporter(io.BytesIO(), damaged, threading.Event()))
    data = attempt_data(attempt)
    policy = attempt.start(attempt.load(), attempt.resolve(data[1]))
    policy.load_student(load_file(damaged / "out" / "adapter" / "adapter_model.safetensors"))
    with pytest.raises(LoadCheckFailed):
        check_loading(attempt.order, damaged, policy, data[0])


def test_who_waits_for_the_load_check_gives_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault caught: a large base that takes minutes to load, and a finished training that is taken for a stuck one."""
    monkeypatch.setattr(exporting, "WAIT_SECONDS", 0.05)
    signs: list[None] = []
    slow = "import sys, time; time.sleep(0.5); sys.stdout.write(sys.stdin.read()); sys.stderr.write('hm')"
    told = exporting._run([sys.executable, "-c", slow], "told", lambda: signs.append(None))
    assert told == (0, "told", "hm")
    assert len(signs) > 1


def test_a_scorer_that_suits_no_demonstration_is_told_by_line_where_nothing_is_held_out(
    base: BaseModelRef, tmp_path: Path
) -> None:
    """The service has looked at the validation file alone, all of whose prompts are trained on."""
    folder = lay_out(tmp_path / "unsuited", base, scorer="numeric")
    order = Order.model_validate_json((folder / "order.json").read_bytes())
    data = replace(part(order, folder), heldout=[])
    texts = [replace(one, completion="no number") for one in data.training]
    with pytest.raises(Unprocessable, match="cannot compare") as refused:
        choose_scorer(order, replace(data, training=texts))
    assert refused.value.counts == {"unusable_expected": len(texts)}


def test_a_load_check_that_the_system_ends_is_a_lack_of_memory_and_tried_again(
    base: BaseModelRef, finished: tuple[Path, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = finished
    script = tmp_path / "ended.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setattr(load_check, "__file__", str(script))
    attempt = Training(folder, PipeReporter(io.BytesIO(), folder, threading.Event()))
    data = attempt_data(attempt)
    policy = attempt.start(attempt.load(), attempt.resolve(data[1]))
    with pytest.raises(RunFailed, match="4 bytes of the worker's memory") as failed:
        check_loading(attempt.order, folder, policy, data[0])
    assert failed.value.code == "out_of_memory"


def attempt_data(attempt: Training) -> tuple[Any, Any]:
    data = part(attempt.order, attempt.folder)
    return data, Lengths.of(data, Chat.load(Path(attempt.order.base.path)))


STAY = Stay(max_jobs=10, idle_seconds=60, memory_growth=2, trust_seconds=45)


class Process:
    """The real program, with the test as its supervisor."""

    def __init__(self, folder: Path | None, stay: Stay = STAY) -> None:
        self._folder = folder
        read, write = os.pipe()
        self.child = subprocess.Popen(
            [sys.executable, "-m", "worker.trainer_process", stay.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[write],
            env=os.environ | {"SDFT_REPORT_FD": str(write), "OMP_WAIT_POLICY": "passive"},
        )
        os.close(write)
        self.pipe = os.fdopen(read)

    def __enter__(self) -> Self:
        if self._folder:
            self.begin(self._folder)
        return self

    def begin(self, folder: Path) -> None:
        assert self.child.stdin
        self.child.stdin.write(os.fsencode(folder) + b"\n" + KEEP_ALIVE)
        self.child.stdin.flush()

    def __exit__(self, *_: object) -> None:
        self.child.kill()
        self.child.wait()
        self.pipe.close()
        if self.child.stdin:
            self.child.stdin.close()

    def read_until(self, kind: str) -> Any:
        for line in self.pipe:
            message = MESSAGES.validate_json(line)
            if message.kind == kind:
                return message
        raise AssertionError(f"the trainer ended without a {kind}")


LONG = SdftHyperparameters.model_validate(QUICK | {"n_epochs": 50})


def test_a_trainer_asked_to_leave_writes_a_checkpoint_first(base: BaseModelRef, tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "drained", base, hyperparameters=LONG, checkpoint_seconds=3600)
    with Process(folder) as trainer:
        trainer.read_until("step")
        trainer.child.send_signal(signal.SIGTERM)
        written = trainer.read_until("checkpoint")
        assert trainer.child.wait(timeout=30) == DRAINED_EXIT_CODE
    assert (folder / written.path / "state.safetensors").exists()


def test_a_trainer_whose_supervisor_is_gone_ends_itself(base: BaseModelRef, tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "orphan", base, hyperparameters=LONG)
    with Process(folder) as trainer:
        trainer.read_until("step")
        assert trainer.child.stdin
        trainer.child.stdin.close()
        start = time.monotonic()
        assert trainer.child.wait(timeout=10) == ORPHANED_EXIT_CODE
        assert time.monotonic() - start < 2


def test_a_device_that_is_not_there_is_missed_and_not_replaced_by_another(
    base: BaseModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault caught: a job that was meant for a GPU trains for days on the CPU of a worker that does not see it."""
    folder = lay_out(tmp_path / "gpu", base, device="cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with Process(folder) as trainer:
        failed = trainer.read_until("failed")
    assert (failed.code, failed.message) == (
        "base_model_unavailable", "The worker was told to compute on cuda, and sees no such device.",
    )  # fmt: skip


def test_memory_that_a_cpu_does_not_have_is_called_that(
    base: BaseModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault caught: torch raises a plain RuntimeError for it, and a job that would be tried again just fails."""
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert memory.ran_out(refused.value)
    assert not memory.ran_out(RuntimeError("shapes do not fit"))
    folder, pipe = lay_out(tmp_path / "large", base), io.BytesIO()
    attempt = pipeline.open_attempt(folder, PipeReporter(pipe, folder, threading.Event()))
    monkeypatch.setattr(attempt, "load", lambda: torch.empty(1 << 60, dtype=torch.uint8))
    assert trainer_process.run(attempt) == 0
    assert MESSAGES.validate_json(pipe.getvalue().splitlines()[-1]).code == "out_of_memory"


@pytest.mark.parametrize("said", [OSError(errno.ENOSPC, "x"), RuntimeError("I/O error: No space left on device")])
def test_a_full_disk_is_not_the_jobs_fault(
    base: BaseModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Exception
) -> None:
    folder, pipe = lay_out(tmp_path / "full", base), io.BytesIO()
    attempt = pipeline.open_attempt(folder, PipeReporter(pipe, folder, threading.Event()))
    monkeypatch.setattr(attempt, "load", Mock(side_effect=said))
    assert trainer_process.run(attempt) == 0
    assert MESSAGES.validate_json(pipe.getvalue().splitlines()[-1]).code == "worker_lost"


def test_a_bug_is_told_to_the_client_without_its_text_and_to_the_log_with_it(
    base: BaseModelRef, tmp_path: Path
) -> None:
    folder = lay_out(tmp_path / "bug", base.model_copy(update={"path": str(tmp_path / "nowhere")}))
    with Process(folder) as trainer:
        failed = trainer.read_until("failed")
        assert trainer.child.wait(timeout=30) == 1
    assert failed.code == "internal_error"
    assert str(tmp_path) not in failed.message


def test_demonstrations_are_forgotten_before_questions_are_asked(
    base: BaseModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault caught: up to 1 GiB that is held through evaluation and export, where nothing reads it."""
    remembered: list[int] = []
    train, ask = pipeline.train, Siblings.ask

    def trains(policy: HfPolicy, *given: Any) -> TrainResult:
        result = train(policy, *given)
        remembered.append(len(policy._memory._known))
        return result

    def asks(one: Siblings, policy: HfPolicy, *given: Any, **named: Any) -> Measured:
        remembered.append(len(policy._memory._known))
        return ask(one, policy, *given, **named)

    monkeypatch.setattr(pipeline, "train", trains)
    monkeypatch.setattr(Siblings, "ask", asks)
    monkeypatch.setattr(pipeline, "check_loading", lambda *_: None)
    monkeypatch.setattr(siblings, "train", trains)
    run(lay_out(tmp_path / "job", base, seeds=2))
    of_version, of_other_seed = remembered[:2], remembered[2:]
    for trained, asked in (of_version, of_other_seed):
        assert trained > 0
        assert asked == 0
