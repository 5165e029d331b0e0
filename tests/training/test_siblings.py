"""Other seeds of a job, on tiny models: what a job with that seed makes, beside a version that stays as it is."""

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
from torch import Tensor

from app.domain.comparison import SupervisedTwin
from app.domain.trainer_protocol import BaseModelRef, checkpoint_path
from app.domain.training import MAX_SEED, SdftHyperparameters
from tests.training.test_pipeline import QUICK, base, lay_out, run
from worker import pipeline, siblings
from worker.hf.model import HfPolicy
from worker.reporting import PipeReporter
from worker.sdft.monitor import Diverged

__all__ = ["base"]

WEIGHTS = "out/adapter/adapter_model.safetensors"
TWIN = SupervisedTwin(method="supervised", learning_rate=5e-3)
HYPERPARAMETERS = SdftHyperparameters.model_validate(QUICK | {"template": "multi_turn"})
SEED = 3


@dataclass
class Watched:
    """A job, what it said, and what its process alone sees of every run but the version's."""

    folder: Path
    messages: list[Any] = field(default_factory=list)
    factors: list[dict[str, Tensor]] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)
    asked_anew: list[bool] = field(default_factory=list)
    held: list[bool] = field(default_factory=list)
    still_there: list[bool] = field(default_factory=list)

    @property
    def report(self) -> Any:
        return report_of(self.folder)


def report_of(folder: Path) -> Any:
    return json.loads((folder / "out" / "report.json").read_text())


def holds(policy: HfPolicy | None) -> bool:
    """Whether a policy has something in memory that can be made again."""
    return bool(policy and (policy._memory._known or (policy._folded and policy._folded._holds)))


def watch(folder: Path) -> Watched:
    watched, policies = Watched(folder), []
    train, train_twin, evaluate = siblings.train, siblings.train_twin, siblings.evaluate

    def trains(policy: HfPolicy, *given: Any) -> Any:
        watched.held += [holds(reference()) for reference in policies]
        watched.still_there.append(any(reference() for reference in policies[1:]))
        policies.append(weakref.ref(policy))
        result = train(policy, *given)
        watched.factors.append({name: factor.detach().clone() for name, factor in policy.parameters().items()})
        assert holds(policy)  # or the test would see nothing
        return result

    def trains_twin(*given: Any) -> Any:
        watched.held += [holds(reference()) for reference in policies]
        return train_twin(*given)

    def asks(policy: HfPolicy, suites: Any, **given: Any) -> Any:
        watched.asked.append([(suite.name, suite.items) for suite in suites])
        watched.asked_anew.append(given["known"] is None)
        measured = evaluate(policy, suites, **given)
        if not policies:
            policies.append(weakref.ref(policy))
            assert holds(policy)  # or the test would see nothing
        return measured

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(siblings, "train", trains)
        patch.setattr(siblings, "train_twin", trains_twin)
        patch.setattr(siblings, "evaluate", asks)
        watched.messages = run(folder)
    return watched


@pytest.fixture(scope="module", autouse=True)
def _without_load_check() -> Iterator[None]:
    """A process of its own, tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "check_loading", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def three(base: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    place = tmp_path_factory.mktemp("seeds")
    order = {"hyperparameters": HYPERPARAMETERS, "compare": TWIN, "answers": str(place / "answers")}
    return watch(lay_out(place / "three", base, seeds=3, **order))


def with_validation(folder: Path, base: BaseModelRef, **order: Any) -> Path:
    """A job whose held-out part is the same for every seed."""
    lay_out(folder, base, hyperparameters=HYPERPARAMETERS, compare=TWIN, validation_sha256="2" * 64, **order)
    lines = [
        [{"role": "user", "content": f"lamp {n}"}, {"role": "assistant", "content": f"on {n}"}] for n in range(40, 52)
    ]
    (folder / "validation.jsonl").write_text("".join(json.dumps({"messages": line}) + "\n" for line in lines))
    return folder


def test_another_seed_is_what_a_job_with_that_seed_makes_to_the_same_bits(base: BaseModelRef, tmp_path: Path) -> None:
    watched = watch(with_validation(tmp_path / "both", base, seed=MAX_SEED, seeds=2))
    alone = with_validation(tmp_path / "alone", base, seed=0)
    run(alone)
    tensors = load_file(alone / WEIGHTS)
    [factors] = watched.factors
    assert tensors.keys() == factors.keys()
    assert all(torch.equal(tensors[name], factor) for name, factor in factors.items())

    version, other = watched.report["replicates"]["runs"]
    assert (version["seed"], other["seed"]) == (MAX_SEED, 0)  # the largest is followed by the smallest
    for of_seed, report in ((version, watched.report), (other, report_of(alone))):
        assert of_seed["recommendation"] == report["summary"]["recommendation"]
        assert {(row["suite"], row["arm"]): row["score"] for row in of_seed["scores"]} == {
            (suite["name"], arm["arm"]): arm["score"]
            for suite in report["suites"]
            for arm in suite["arms"]
            if arm["arm"] in {"candidate", "supervised"}
        }
        kept = {row["arm"]: row["kept"] for row in of_seed["scores"] if row["suite"] == "general ability"}
        for arm, rows in (("candidate", report["kept"]), ("supervised", report["supervised"]["kept"])):
            [of_all] = [one for one in rows if (one["suite"], one["group"]) == ("general ability", "all")]
            assert kept[arm] == of_all


def test_all_seeds_are_different_runs_asked_the_same(three: Watched) -> None:
    assert three.asked == [three.asked[0]] * 3
    assert three.asked_anew == [True, False, False]  # of what was there before
    first, second = three.factors
    assert not any(torch.equal(first[name], second[name]) for name in first)
    assert [run["seed"] for run in three.report["replicates"]["runs"]] == [SEED, SEED + 1, SEED + 2]


def test_a_version_and_what_is_said_of_it_are_the_same_with_other_seeds_or_without(
    base: BaseModelRef, three: Watched, tmp_path: Path
) -> None:
    alone = lay_out(tmp_path / "alone", base, hyperparameters=HYPERPARAMETERS, compare=TWIN)
    run(alone)
    assert (three.folder / WEIGHTS).read_bytes() == (alone / WEIGHTS).read_bytes()
    plain = report_of(alone)
    assert plain["replicates"] is None
    for part in ("summary", "suites", "kept", "drift", "behaviour"):
        assert three.report[part] == plain[part]
    assert (plain["caveats"][0], three.report["caveats"][1:]) == (
        "One training run: another seed may come out differently.",
        plain["caveats"][1:],
    )


def test_the_cost_counts_tokens_of_the_version_and_its_answers_and_none_of_other_seeds(three: Watched) -> None:
    steps = [message for message in three.messages if message.kind == "step"]
    rollouts = sum(step.metrics["completion_tokens_mean"] * HYPERPARAMETERS.batch_size for step in steps)
    answers = sum(sum(row["lengths"]) for row in three.report["behaviour"])
    cost = three.report["cost"]
    assert not any(three.report["method"]["answers_reused"].values())
    assert cost["trained_tokens"] == steps[-1].trained_tokens > 0
    assert rollouts > 0 < answers
    assert cost["generated_tokens"] == pytest.approx(rollouts + answers, abs=1e-3)
    assert cost["seconds"]["replicating"] > 0


def test_they_have_a_phase_and_leave_no_steps_and_no_checkpoints(three: Watched) -> None:
    said = [message for message in three.messages if message.kind in {"phase", "step", "checkpoint", "progress"}]
    phases = [message.phase for message in said if message.kind == "phase"]
    assert phases[2:] == ["training", "comparing", "evaluating", "replicating", "exporting", "load_check"]
    begins, ends = (
        next(place for place, message in enumerate(said) if message.kind == "phase" and message.phase == phase)
        for phase in ("replicating", "exporting")
    )
    within = said[begins + 1 : ends]
    assert {one.kind for one in within} == {"progress"}
    [resolved] = [message.config for message in three.messages if message.kind == "resolved"]
    total = 2 * 2 * resolved.total_steps  # two seeds, each with its twin
    assert {one.total for one in within} == {total}
    done = [one.done for one in within]
    assert done == sorted(done)
    assert set(done) == set(range(1, total + 1))


def test_none_holds_memory_while_another_needs_it(three: Watched) -> None:
    assert len(three.held) > 4
    assert not any(three.held)
    assert three.still_there == [False, False]


class Leaving(PipeReporter):
    """Asked to leave in the middle of another seed's training."""

    replicating = False

    def phase(self, phase: Any) -> None:
        super().phase(phase)
        self.replicating = phase == "replicating"

    def progress(self, done: int, total: int) -> None:
        super().progress(done, total)
        if self.replicating:
            self._leave.set()


def test_an_attempt_that_goes_on_makes_them_anew_and_reports_the_same(
    base: BaseModelRef, three: Watched, tmp_path: Path
) -> None:
    order = {"hyperparameters": HYPERPARAMETERS, "compare": TWIN, "seeds": 3}
    order |= {"answers": str(three.folder.parent / "answers")}
    cut = lay_out(tmp_path / "cut", base, **order)
    said = run(cut, Leaving)
    assert [message.phase for message in said if message.kind == "phase"][-1] == "replicating"
    assert said[-1].kind == "progress"
    assert not (cut / "out").exists()
    [resolved] = [message.config for message in said if message.kind == "resolved"]
    again = lay_out(tmp_path / "again", base, resolved=resolved, resume_step=resolved.total_steps, attempt=2, **order)
    shutil.copytree(cut / checkpoint_path(resolved.total_steps), again / "resume")
    run(again)
    resumed = report_of(again)
    assert resumed["caveats"].pop().startswith("The job went on from a checkpoint: seconds")
    for part in ("summary", "suites", "kept", "replicates", "caveats"):
        assert resumed[part] == three.report[part]


@pytest.mark.parametrize("who", ["train", "train_twin"])
def test_a_seed_that_diverges_is_reported_and_costs_nothing_else(base: BaseModelRef, tmp_path: Path, who: str) -> None:
    trains = getattr(siblings, who)

    def diverges(*given: Any) -> Any:
        if any(getattr(one, "seed", SEED) != SEED for one in given):
            raise Diverged("The train_loss became nan.")
        return trains(*given)

    folder = lay_out(tmp_path / "diverged", base, hyperparameters=HYPERPARAMETERS, compare=TWIN, seeds=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(siblings, who, diverges)
        messages = run(folder)
    assert messages[-1].kind == "finished"
    [warning] = [one.message for one in messages if one.kind == "event" and f"With seed {SEED + 1}" in one.message]
    assert "train_loss became nan" in warning
    version, other = report_of(folder)["replicates"]["runs"]
    assert {row["arm"] for row in version["scores"]} == {"candidate", "supervised"}
    caveat = report_of(folder)["caveats"][0]
    if who == "train":
        assert (other["recommendation"], other["scores"]) == (None, [])
        assert caveat.endswith(f"seed {SEED + 1}, diverged.")
    else:
        assert {row["arm"] for row in other["scores"]} == {"candidate"}
        assert "diverged" not in caveat
