"""A process that goes on to the next job is, for that job, a new one: the same bits come out, whatever came between."""

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

from app.domain.trainer_protocol import BaseModelRef, ParentRef, Stay, checkpoint_path
from app.domain.training import SdftHyperparameters, SupervisedHyperparameters
from tests.training.test_pipeline import LONG, QUICK, STAY, Process, Stopping, base, lay_out, run
from worker import memory, pipeline
from worker.hf.base import Base
from worker.hf.model import HfPolicy
from worker.reporting import ORPHANED_EXIT_CODE
from worker.trainer_process import Upkeep

__all__ = ["base"]

WEIGHTS = "out/adapter/adapter_model.safetensors"


@pytest.fixture
def _without_load_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of its own, which nothing can leak into."""
    monkeypatch.setattr(pipeline, "check_loading", lambda *_: None)


def made(folder: Path) -> tuple[bytes, Any]:
    """What a job left: its weights, and all that was measured."""
    report = json.loads((folder / "out" / "report.json").read_text())
    return (folder / WEIGHTS).read_bytes(), (report["suites"], report["drift"], report["behaviour"])


@pytest.fixture(scope="module")
def cold(base: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Job A in a process that has done nothing before."""
    folder = lay_out(tmp_path_factory.mktemp("cold") / "a", base)
    with Process(folder) as trainer:
        trainer.read_until("finished")
    return folder


def another(place: Path, base: BaseModelRef, loaded: Base, _: Path) -> None:
    run(lay_out(place / "b", base, word="fan", seed=9), loaded=loaded)


def with_parent(place: Path, base: BaseModelRef, loaded: Base, before: Path) -> None:
    parent = ParentRef(adapter="lamp", version=1, model_id="ft:tiny:default:lamp:1")
    folder = lay_out(place / "b", base, word="fan", parent=parent)
    shutil.copytree(before / "out" / "adapter", folder / "parent")
    run(folder, loaded=loaded)


def of_another_rank(place: Path, base: BaseModelRef, loaded: Base, _: Path) -> None:
    asked = SdftHyperparameters.model_validate(QUICK | {"lora_rank": 8, "lora_alpha": 4, "template": "paper"})
    run(lay_out(place / "b", base, hyperparameters=asked), loaded=loaded)


def supervised(place: Path, base: BaseModelRef, loaded: Base, _: Path) -> None:
    asked = SupervisedHyperparameters.model_validate({"batch_size": 4, "n_epochs": 2, "lora_rank": 2})
    run(lay_out(place / "b", base, method="supervised", hyperparameters=asked), loaded=loaded)


def cancelled(place: Path, base: BaseModelRef, loaded: Base, _: Path) -> None:
    run(lay_out(place / "b", base, word="fan"), Stopping, loaded, after_step=2)


def resumed(place: Path, base: BaseModelRef, loaded: Base, _: Path) -> None:
    cut = lay_out(place / "cut", base, word="fan")
    [resolved] = [one.config for one in run(cut, Stopping, loaded, after_step=3) if one.kind == "resolved"]
    again = lay_out(place / "b", base, word="fan", resolved=resolved, resume_step=3, attempt=2)
    shutil.copytree(cut / checkpoint_path(3), again / "resume")
    run(again, loaded=loaded)


@pytest.mark.usefixtures("_without_load_check")
@pytest.mark.parametrize("between", [another, with_parent, of_another_rank, supervised, cancelled, resumed])
def test_a_job_leaves_nothing_to_the_next(
    base: BaseModelRef, cold: Path, tmp_path: Path, between: Callable[[Path, BaseModelRef, Base, Path], None]
) -> None:
    loaded = Base.load(Path(base.path), num_threads=1)
    checksum = loaded.checksum()
    first, second = lay_out(tmp_path / "first", base), lay_out(tmp_path / "second", base)
    run(first, loaded=loaded)
    between(tmp_path, base, loaded, first)
    run(second, loaded=loaded)
    assert made(first) == made(cold)
    assert made(second) == made(cold)
    assert loaded.checksum() == checksum


def test_adapters_stay_out_of_the_base(base: BaseModelRef) -> None:
    loaded = Base.load(Path(base.path))
    modules = [(name, type(module)) for name, module in loaded.model.named_modules()]
    weights = {name: weight.data_ptr() for name, weight in loaded.model.named_parameters()}
    policy = HfPolicy.on(loaded, lora_rank=2, lora_alpha=4, parent=None, seed=0)
    assert any(isinstance(module, LoraLayer) for module in policy._peft.modules())
    assert [(name, type(module)) for name, module in loaded.model.named_modules()] == modules
    shared = {weight.data_ptr() for weight in policy._peft.parameters()}
    assert set(weights.values()) <= shared  # nothing was copied either


def test_a_checksum_sees_one_bit(base: BaseModelRef) -> None:
    loaded = Base.load(Path(base.path))
    before = loaded.checksum()
    with torch.no_grad():
        list(loaded.model.parameters())[-1].view(torch.int32).flatten()[3] ^= 1
    assert loaded.checksum() != before


def test_upkeep_finds_lost_memory(base: BaseModelRef, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = Base.load(Path(base.path))
    held = iter([1000, 1400, 1600])
    monkeypatch.setattr(memory, "held_bytes", lambda: next(held))
    upkeep = Upkeep(memory_growth=1.5)
    assert [upkeep.is_sound(loaded) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("num_jobs_before", [0, 1])
def test_upkeep_finds_a_base_that_any_job_changed(base: BaseModelRef, num_jobs_before: int) -> None:
    """Fault caught: a reference that is taken after the first job, which already has the change in it."""
    loaded, upkeep = Base.load(Path(base.path)), Upkeep(memory_growth=100)
    assert all(upkeep.is_sound(loaded) for _ in range(num_jobs_before))
    with torch.no_grad():
        next(loaded.model.parameters()).view(torch.int32).flatten()[0] ^= 1
    assert not upkeep.is_sound(loaded)


@pytest.mark.skipif(memory.held_bytes() is None, reason="needs a system that tells what a process holds")
def test_memory_given_back_is_not_held_and_its_peak_is_forgotten() -> None:
    before = memory.held_bytes()
    block = torch.ones(64 << 20, dtype=torch.uint8)
    assert memory.held_bytes() > before + (60 << 20)
    del block
    memory.give_back()
    assert memory.held_bytes() < before + (10 << 20)
    assert memory.peak_bytes() > before + (60 << 20)
    memory.reset_peak()
    assert memory.peak_bytes() < before + (10 << 20)


def test_one_process_does_one_job_after_the_other_as_new_ones_would(
    base: BaseModelRef, cold: Path, tmp_path: Path
) -> None:
    between, again = lay_out(tmp_path / "between", base, word="fan"), lay_out(tmp_path / "again", base)
    with Process(between) as trainer:
        trainer.read_until("finished")
        trainer.begin(again)
        trainer.read_until("finished")
        assert trainer.child.poll() is None
    assert made(again) == made(cold)


def test_it_leaves_after_its_last_job(base: BaseModelRef, tmp_path: Path) -> None:
    with Process(lay_out(tmp_path / "only", base), STAY.model_copy(update={"max_jobs": 1})) as trainer:
        trainer.read_until("finished")
        assert trainer.child.wait(timeout=10) == 0


def test_it_leaves_when_its_memory_grew(base: BaseModelRef, tmp_path: Path) -> None:
    stay = Stay(max_jobs=10, idle_seconds=60, memory_growth=1.0001, trust_seconds=45)
    with Process(lay_out(tmp_path / "small", base), stay) as trainer:
        trainer.read_until("finished")
        asked = SdftHyperparameters.model_validate(QUICK | {"lora_rank": 64, "max_completion_tokens": 64})
        trainer.begin(lay_out(tmp_path / "large", base, num=60, hyperparameters=asked))
        trainer.read_until("finished")
        assert trainer.child.wait(timeout=10) == 0


@pytest.mark.parametrize("stop", ["idle", "term", "orphaned"])
def test_while_it_waits_it_leaves_when_it_should(stop: str) -> None:
    with Process(None, STAY.model_copy(update={"idle_seconds": 0.1 if stop == "idle" else 60.0})) as trainer:
        assert trainer.child.stdin
        if stop == "term":
            while not catches_term(trainer.child.pid):
                time.sleep(0.05)
            trainer.child.send_signal(signal.SIGTERM)
        elif stop == "orphaned":
            trainer.child.stdin.close()
        assert trainer.child.wait(timeout=30) == (ORPHANED_EXIT_CODE if stop == "orphaned" else 0)


def catches_term(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text().split()
    return bool(int(status[status.index("SigCgt:") + 1], 16) >> (signal.SIGTERM - 1) & 1)


def test_a_wish_to_leave_that_comes_late_is_still_a_wish(base: BaseModelRef, tmp_path: Path) -> None:
    """SIGTERM crosses the end of a job: the process takes no other one, though it had asked for nothing yet."""
    with Process(lay_out(tmp_path / "long", base, hyperparameters=LONG, checkpoint_seconds=3600)) as trainer:
        trainer.read_until("step")
        trainer.child.send_signal(signal.SIGTERM)
        trainer.begin(lay_out(tmp_path / "next", base))
        trainer.read_until("checkpoint")
        trainer.child.wait(timeout=30)
    assert not (tmp_path / "next" / "out").exists()
