"""The supervised twin of a job, on tiny models: what a supervised job makes, beside a version that stays as it is."""

import json
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from app.domain.comparison import SupervisedTwin
from app.domain.trainer_protocol import BaseModelRef, EarlierSkill, ParentRef, checkpoint_path
from app.domain.training import SupervisedHyperparameters
from tests.training.test_pipeline import base, lay_out, run
from worker import pipeline, siblings
from worker.hf.model import HfPolicy
from worker.reporting import PipeReporter
from worker.sdft.monitor import Diverged
from worker.twin import Twin

__all__ = ["base"]

WEIGHTS = "out/adapter/adapter_model.safetensors"
RATE = 5e-3
TWIN = SupervisedTwin(method="supervised", learning_rate=RATE)


@dataclass
class Watched:
    """A job with a twin: its folder, what it said, the twin, and what was held in memory for which of the two."""

    folder: Path
    messages: list[Any] = field(default_factory=list)
    twin: Twin | None = None
    remembered: int = -1
    twins_policy_is_gone: bool = False

    @property
    def report(self) -> Any:
        return report_of(self.folder)


def report_of(folder: Path) -> Any:
    return json.loads((folder / "out" / "report.json").read_text())


def made(report: Any) -> Any:
    """All of a report that does not depend on the clock."""
    beside = report["supervised"] | {"run": None, "sentence": report["supervised"]["sentence"].partition(". Its")[0]}
    return [report[name] for name in ("summary", "suites", "kept", "drift", "behaviour", "caveats")] + [beside]


def watch(folder: Path) -> Watched:
    """Run a job and keep what only its process sees."""
    watched, resting, training = Watched(folder), [], []
    train_twin, rest, add_twin = siblings.train_twin, HfPolicy.rest, HfPolicy.add_twin

    def trains(*given: Any) -> Twin:
        watched.remembered = len(resting[0]._memory._known)
        training.append(weakref.ref(given[0]))
        watched.twin = train_twin(*given)
        return watched.twin

    def rests(policy: HfPolicy) -> None:
        assert policy._memory._known  # or the test would see nothing
        resting.append(policy)
        rest(policy)

    def adds(policy: HfPolicy, factors: Any) -> None:
        watched.twins_policy_is_gone = training[0]() is None
        add_twin(policy, factors)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(siblings, "train_twin", trains)
        patch.setattr(HfPolicy, "rest", rests)
        patch.setattr(HfPolicy, "add_twin", adds)
        watched.messages = run(folder)
    return watched


@pytest.fixture(scope="module", autouse=True)
def _without_load_check() -> Iterator[None]:
    """A process of its own, tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "check_loading", lambda *_: None)
        yield


def on_top_of(before: Path, folder: Path, base: BaseModelRef, **order: Any) -> Path:
    """A job that goes on from another one's version."""
    earlier = EarlierSkill(
        adapter="lamp", version=1, path="earlier.jsonl", sha256="1" * 64, scorer="normalized", max_completion_tokens=12
    )
    parent = ParentRef(adapter="lamp", version=1, model_id="ft:tiny:default:lamp:1")
    lay_out(folder, base, word="fan", parent=parent, earlier=[earlier], **order)
    shutil.copytree(before / "out" / "adapter", folder / "parent")
    shutil.copy(before / "out" / "heldout.jsonl", folder / "earlier.jsonl")
    return folder


@pytest.fixture(scope="module")
def first(base: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    place = tmp_path_factory.mktemp("twin")
    return watch(lay_out(place / "first", base, compare=TWIN, answers=str(place / "answers")))


@pytest.fixture(scope="module")
def second(base: BaseModelRef, first: Watched) -> Watched:
    return watch(on_top_of(first.folder, first.folder.parent / "second", base, compare=TWIN))


@pytest.mark.parametrize("start", ["base", "parent"])
def test_the_twin_is_what_a_supervised_job_makes_to_the_same_bits(
    base: BaseModelRef, first: Watched, second: Watched, tmp_path: Path, start: str
) -> None:
    asked = SupervisedHyperparameters.model_validate(
        {"batch_size": 4, "n_epochs": 1, "lora_rank": 2, "learning_rate": RATE}
    )
    order = {"method": "supervised", "hyperparameters": asked}
    if start == "base":
        watched, plain = first, lay_out(tmp_path / "plain", base, **order)
    else:
        watched, plain = second, on_top_of(first.folder, tmp_path / "plain", base, **order)
    [resolved] = [message.config for message in run(plain) if message.kind == "resolved"]
    assert watched.twin is not None
    assert watched.twin.config.model_dump() == resolved.model_dump()
    tensors = load_file(plain / WEIGHTS)
    assert tensors.keys() == watched.twin.factors.keys()
    assert all(torch.equal(tensors[name], factor) for name, factor in watched.twin.factors.items())

    # What is asked of it beside the candidate is what it is asked by itself.
    scores = {suite["name"]: arm for suite in watched.report["suites"] for arm in suite["arms"] if is_twin(arm)}
    alone = {suite["name"]: arm for suite in report_of(plain)["suites"] for arm in suite["arms"] if is_candidate(arm)}
    assert scores == {name: arm | {"arm": "supervised"} for name, arm in alone.items()}
    looks = [row for row in watched.report["behaviour"] if is_twin(row)]
    assert looks == [row | {"arm": "supervised"} for row in report_of(plain)["behaviour"] if is_candidate(row)]
    moved = [(one["base_to_supervised"], one["supervised_to_base"]) for one in watched.report["drift"]]
    assert moved == [(one["base_to_candidate"], one["candidate_to_base"]) for one in report_of(plain)["drift"]]


def is_twin(arm: Any) -> bool:
    return bool(arm["arm"] == "supervised")


def is_candidate(arm: Any) -> bool:
    return bool(arm["arm"] == "candidate")


def test_a_version_and_what_is_said_of_it_are_the_same_compared_or_not(
    base: BaseModelRef, second: Watched, first: Watched, tmp_path: Path
) -> None:
    alone = on_top_of(first.folder, tmp_path / "alone", base)
    run(alone)
    assert (second.folder / WEIGHTS).read_bytes() == (alone / WEIGHTS).read_bytes()
    compared, plain = second.report, report_of(alone)
    assert plain["supervised"] is None
    assert compared["summary"] == plain["summary"]
    assert compared["kept"] == plain["kept"]
    for suite, expected in zip(compared["suites"], plain["suites"], strict=True):
        assert [one for one in suite["comparisons"] if one["against"] != "supervised"] == expected["comparisons"]


def test_the_twin_has_a_phase_and_leaves_no_steps_and_no_checkpoints(first: Watched) -> None:
    said = [message for message in first.messages if message.kind in {"phase", "step", "checkpoint", "progress"}]
    phases = [message.phase for message in said if message.kind == "phase"]
    assert phases == ["loading", "checking", "training", "comparing", "evaluating", "exporting", "load_check"]
    begins, ends = (
        next(place for place, message in enumerate(said) if message.kind == "phase" and message.phase == phase)
        for phase in ("comparing", "evaluating")
    )
    within = said[begins + 1 : ends]
    assert first.twin is not None
    total = first.twin.config.total_steps
    assert [(one.kind, one.done, one.total) for one in within] == [
        ("progress", step, total) for step in range(1, total + 1)
    ]
    assert {message.step for message in said if message.kind == "checkpoint"} == {total}
    [event] = [one.message for one in first.messages if one.kind == "event" and "to compare with" in one.message]
    assert f"{total} steps of 4 examples, learning rate 0.005" in event


def test_the_report_has_it_beside_the_version_with_what_it_took(first: Watched) -> None:
    report = first.report
    beside = report["supervised"]
    assert beside["sentence"].startswith("Plain fine-tuning on the same data: learned ")
    assert beside["run"]["config"]["learning_rate"] == RATE
    assert first.twin is not None
    assert beside["run"]["seconds"] == first.twin.result.seconds < report["cost"]["seconds"]["comparing"]
    assert beside["run"]["cost_ratio"] * beside["run"]["seconds"] <= report["cost"]["seconds"]["training"]
    assert beside["run"]["cost_ratio"] > 1
    assert {arm["arm"] for arm in report["suites"][0]["arms"]} == {"base", "candidate", "supervised", "ceiling"}
    assert beside["sentence"] in (first.folder / "out" / "adapter" / "README.md").read_text()
    assert "supervised" in (first.folder / "out" / "report.html").read_text()


def test_nothing_of_it_is_published(first: Watched) -> None:
    assert not [name for name in load_file(first.folder / WEIGHTS) if "twin" in name]
    assert "supervised" not in (first.folder / "out" / "adapter" / "adapter_config.json").read_text()


def test_neither_holds_memory_while_the_other_needs_it(first: Watched) -> None:
    assert first.remembered == 0
    assert first.twins_policy_is_gone


class Leaving(PipeReporter):
    """Asked to leave in the middle of the twin's training."""

    def progress(self, done: int, total: int) -> None:
        super().progress(done, total)
        self._leave.set()


def test_an_attempt_that_goes_on_trains_the_twin_anew_and_reports_the_same(
    base: BaseModelRef, first: Watched, tmp_path: Path
) -> None:
    cut = lay_out(tmp_path / "cut", base, compare=TWIN)
    said = run(cut, Leaving)
    assert [message.phase for message in said if message.kind == "phase"][-1] == "comparing"
    assert said[-1].kind == "progress"
    assert not (cut / "out").exists()
    [resolved] = [message.config for message in said if message.kind == "resolved"]
    order = {"resolved": resolved, "resume_step": resolved.total_steps, "attempt": 2, "compare": TWIN}
    order |= {"answers": str(first.folder.parent / "answers")}
    again = lay_out(tmp_path / "again", base, **order)
    shutil.copytree(cut / checkpoint_path(resolved.total_steps), again / "resume")
    messages = run(again)
    assert not [message for message in messages if message.kind in {"step", "checkpoint"}]
    assert (again / WEIGHTS).read_bytes() == (first.folder / WEIGHTS).read_bytes()
    resumed = report_of(again)
    assert resumed["caveats"].pop().startswith("The job went on from a checkpoint: seconds")
    assert made(resumed) == made(first.report)
    assert report_of(again)["method"]["answers_reused"] == {"general ability": ["base", "candidate", "supervised"]}
    # Of all attempts, the first one's steps among them, and not of the last one, which had none.
    assert report_of(again)["supervised"]["run"]["cost_ratio"] > 1


def test_a_twin_that_diverges_costs_the_comparison_and_not_the_job(base: BaseModelRef, tmp_path: Path) -> None:
    def diverges(*_: Any) -> Twin:
        raise Diverged("The train_loss became nan.")

    folder = lay_out(tmp_path / "diverged", base, compare=TWIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(siblings, "train_twin", diverges)
        messages = run(folder)
    assert messages[-1].kind == "finished"
    [warning] = [one.message for one in messages if one.kind == "event" and "nothing to compare with" in one.message]
    assert "train_loss became nan" in warning
    report = report_of(folder)
    assert report["supervised"] is None
    assert any("diverged" in note for note in report["caveats"])
    assert {arm["arm"] for arm in report["suites"][0]["arms"]} == {"base", "candidate", "ceiling"}
