"""Checkpoints on disk: a run goes on bit for bit, and a stranger's PEFT reads the adapter."""

import json
import os
import subprocess
import sys
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from app.domain.demonstrations import Demonstration
from app.domain.distillation import ObjectiveConfig, TeacherConfig
from app.domain.training import TrainingConfig
from tests.unit.sdft.records import Remembered
from worker.hf import checkpoint, load_check
from worker.hf.base import Base
from worker.hf.checkpoint import Checkpoints, read_checkpoint
from worker.hf.model import HfPolicy
from worker.sdft import side_by_side, student
from worker.trainer import train

STEPS = 6
DEMONSTRATIONS = [
    Demonstration(({"role": "user", "content": f"Turn on lamp {number}."},), f"lamp.on({number})", line=number)
    for number in range(1, 13)
]
NEUTRAL = [[{"role": "user", "content": question}] for question in ("Who are you?", "What is 2 + 2?")]


def load(base, parent=None):
    return HfPolicy.on(Base.load(base), lora_rank=4, lora_alpha=8, parent=parent, seed=3)


def run(base, folder, *, parent=None, resume_from=None, every_seconds=0.0, policy=None, **changes):
    policy = policy or load(base, parent)
    fixed = {
        "method": "sdft", "seed": 3, "num_epochs": 2, "batch_size": 4, "total_steps": STEPS, "learning_rate": 1e-2,
        "warmup_steps": 2, "lora_rank": 4, "lora_alpha": 8, "max_completion_tokens": 10, "loss_skip_tokens": 1,
        "template": "multi_turn", "rehearsal_share": 0.4,
    }  # fmt: skip
    reporter = Remembered()
    checkpoints = Checkpoints(folder, every_seconds=every_seconds, base_name="tiny/base", base_revision="abc")
    resume = read_checkpoint(resume_from) if resume_from else None
    train(policy, DEMONSTRATIONS, {"base": NEUTRAL}, TrainingConfig(**(fixed | changes)), reporter, checkpoints, resume)
    return policy, reporter


def factors(policy):
    return {name: parameter.detach().clone() for name, parameter in policy.parameters().items()}


def step_folder(folder, step):
    return folder / "checkpoints" / f"step-{step:06d}"


def written(folder):
    """All that a checkpoint says, but how long its steps took."""
    saved = read_checkpoint(folder)
    state = {name: (tensor.dtype, tensor.shape, tensor.numpy().tobytes()) for name, tensor in saved.tensors.items()}
    adapter = {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.rglob("adapter*") if path.is_file()}
    return adapter, state, {name: value for name, value in saved.facts.items() if name != "seconds"}


@pytest.fixture(scope="module")
def parent(llama, tmp_path_factory):
    """An adapter to go on from."""
    folder = tmp_path_factory.mktemp("parent")
    run(llama, folder, total_steps=3)
    return step_folder(folder, 3) / "adapter"


KINDS = {
    "frozen": {},
    "ema": {"teacher": TeacherConfig(kind="ema", rate=0.3, every=1), "anchor_weight": 0.01},
    "hard_sync": {
        "teacher": TeacherConfig(kind="hard_sync", rate=1.0, every=2),
        "objective": ObjectiveConfig(kind="isdft", rho0=0.25, rho1=1.0, ramp_steps=5),
    },
    "live": {"teacher": TeacherConfig(kind="live")},
    "partly offline": {"offline_share": 0.7},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("continued", [False, True], ids=["from the base", "from an adapter"])
def test_a_resumed_run_ends_bit_for_bit_like_one_that_was_not_interrupted(llama, parent, tmp_path, continued, kind):
    """Factors, moments, randomness, data order, schedule and a teacher that moves all come back."""
    start, changes = parent if continued else None, KINDS[kind]
    whole, straight = run(llama, tmp_path / "whole", parent=start, **changes)
    resumed, rest = run(
        llama, tmp_path / "resumed", parent=start, resume_from=step_folder(tmp_path / "whole", 3), **changes
    )
    assert rest.curve("train_loss") == straight.curve("train_loss")[3:]
    assert rest.curve("rehearsal_loss") == straight.curve("rehearsal_loss")[3:]
    for name, value in factors(whole).items():
        assert torch.equal(value, factors(resumed)[name])
    last = [written(step_folder(tmp_path / name, STEPS)) for name in ("whole", "resumed")]
    assert last[0] == last[1]


@pytest.mark.parametrize("kind", KINDS)
def test_it_does_from_every_step_with_several_rollouts_and_threads(llama, tmp_path, kind, four_threads, monkeypatch):
    """Fault caught: a sum over threads in the order in which they came, or bits of a prompt that depend on what was
    read with it."""
    monkeypatch.setattr(side_by_side, "MIN_PART_TOKENS", 16)
    changes = KINDS[kind] | {"rollouts_per_prompt": 2}
    whole, straight = run(llama, tmp_path / "whole", **changes)
    for step in range(1, STEPS):
        folder = tmp_path / f"from-{step}"
        resumed, rest = run(llama, folder, resume_from=step_folder(tmp_path / "whole", step), **changes)
        assert rest.curve("train_loss") == straight.curve("train_loss")[step:]
        assert written(step_folder(folder, STEPS)) == written(step_folder(tmp_path / "whole", STEPS))
        for name, value in factors(whole).items():
            assert torch.equal(value, factors(resumed)[name])


class MostLogits(TorchDispatchMode):
    """Notes how many rows over the vocabulary any operation returned at most, but for views of the head itself."""

    def __init__(self, weight_VH):
        super().__init__()
        self.weight_VH, self.num_rows = weight_VH, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            is_logits = isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == self.weight_VH.shape[:1]
            if is_logits and tensor.untyped_storage().data_ptr() != self.weight_VH.untyped_storage().data_ptr():
                self.num_rows = max(self.num_rows, tensor.shape[:-1].numel())
        return result


@pytest.mark.parametrize("changes", [{}, KINDS["ema"], {"method": "supervised"}], ids=["sdft", "anchor", "sft"])
def test_a_whole_step_holds_no_more_logits_than_a_chunk(llama, tmp_path, changes, monkeypatch):
    """Fault caught: logits of all positions, made anywhere between the rollout and the optimizer."""
    policy, chunk_rows = load(llama), 14
    monkeypatch.setattr(student, "CHUNK_ELEMENTS", chunk_rows * policy.vocab_size)
    with MostLogits(policy.head.weight_VH) as most:
        _, reporter = run(llama, tmp_path, policy=policy, total_steps=2, rehearsal_share=0, **changes)
    assert most.num_rows <= chunk_rows < 4 * reporter.steps[-1]["completion_tokens_mean"]


@pytest.mark.parametrize("kind", ["ema", "hard_sync"])
def test_only_a_teacher_that_moves_is_written_down_and_never_into_the_adapter(llama, parent, tmp_path, kind):
    policy, _ = run(llama, tmp_path / "a", parent=parent, **KINDS[kind])
    saved = read_checkpoint(step_folder(tmp_path / "a", STEPS))
    for name, value in policy.teacher_parameters().items():
        assert torch.equal(saved.tensors[f"teacher.{name}"], value)
        assert value.dtype == torch.float32
    assert not [name for name in saved.adapter if "teacher" in name or "parent" in name]
    run(llama, tmp_path / "b", parent=parent)
    still = read_checkpoint(step_folder(tmp_path / "b", STEPS))
    assert not [name for name in still.tensors if name.startswith("teacher.")]


def test_on_every_base_one_seed_is_one_curve_resumed_or_not_and_another_seed_another(any_base, tmp_path):
    curves = [
        run(any_base, tmp_path / name, seed=seed)[1].curve("train_loss")
        for name, seed in [("a", 3), ("b", 3), ("c", 4)]
    ]
    assert curves[0] == curves[1]
    assert curves[0] != curves[2]
    _, rest = run(any_base, tmp_path / "resumed", resume_from=step_folder(tmp_path / "a", 3))
    assert rest.curve("train_loss") == curves[0][3:]
    assert written(step_folder(tmp_path / "resumed", STEPS)) == written(step_folder(tmp_path / "a", STEPS))


def test_training_and_export_change_neither_base_nor_parent(any_base, tmp_path):
    load(any_base).save_adapter(tmp_path / "parent", base_name="tiny/base", base_revision="abc")
    policy = load(any_base, tmp_path / "parent")
    frozen = {name: value.clone() for name, value in policy._peft.state_dict().items() if ".student." not in name}
    before = factors(policy)
    run(any_base, tmp_path, policy=policy, total_steps=2, **KINDS["ema"])
    policy.save_adapter(tmp_path / "out", base_name="tiny/base", base_revision="abc")
    for name, value in frozen.items():
        assert torch.equal(policy._peft.state_dict()[name], value), name
    assert any(not torch.equal(value, before[name]) for name, value in factors(policy).items())


def test_stock_peft_reads_the_adapter_in_a_process_of_its_own(any_base, tmp_path):
    policy, _ = run(any_base, tmp_path)
    folder = step_folder(tmp_path, STEPS) / "adapter"
    prompt, answer = policy.encode_chat(DEMONSTRATIONS[0].messages), policy.encode_completion("lamp.on(1)")
    loaded = subprocess.run(
        [sys.executable, "-I", load_check.__file__, str(any_base), str(folder)],
        input=json.dumps([{"prompt": prompt, "completion": answer}]),
        capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    read_back = pytest.approx(json.loads(loaded.stdout)[0], rel=1e-4)
    assert policy.nll([prompt], [answer], arm="student")[0] == read_back
    assert policy.nll([prompt], [answer], arm="base")[0] != read_back
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("tiny/base", "abc")
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 8, 0.0)
    assert not {"lm_head", "embed_tokens"} & set(config["target_modules"])


def test_a_checkpoint_holds_only_safetensors_and_json_and_its_archive_depends_on_nothing_else(llama, tmp_path):
    run(llama, tmp_path)
    folder = step_folder(tmp_path, STEPS)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    adapter = ["adapter_config.json", "adapter_model.safetensors"]
    assert files == ["adapter.tar", *(f"adapter/{name}" for name in adapter), "state.safetensors"]
    with tarfile.open(folder / "adapter.tar") as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == adapter
    assert {(member.mtime, member.uid, member.gid, member.mode) for member in members} == {(0, 0, 0, 0o644)}


def test_checkpoints_follow_the_clock_and_the_last_step_always_has_one(llama, tmp_path):
    _, often = run(llama, tmp_path / "often", every_seconds=0)
    _, seldom = run(llama, tmp_path / "seldom", every_seconds=3600)
    assert often.checkpoints == list(range(1, STEPS + 1))
    assert seldom.checkpoints == [STEPS]


def test_a_checkpoint_that_fails_half_way_leaves_none(llama, tmp_path, monkeypatch):
    def full_disk(_folder: Path, _to: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_tar", full_disk)
    with pytest.raises(OSError, match="No space"):
        run(llama, tmp_path)
    assert not step_folder(tmp_path, 1).exists()


def test_supervised_training_lowers_the_demonstrations_loss(llama, tmp_path):
    _, reporter = run(llama, tmp_path, method="supervised", total_steps=12, loss_skip_tokens=0)
    losses = reporter.curve("train_loss")
    assert losses[-1] < 0.8 * losses[0]
    assert "rehearsal_loss" not in reporter.steps[0]
