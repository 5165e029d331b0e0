"""The same code on a CUDA device: bf16 base, fp32 factors and loss, everything on the device. Not run without one."""

import math

import pytest
import torch

from tests.tiny_models import save_tiny
from tests.training.test_checkpoint import KINDS, STEPS, run, step_folder
from tests.training.test_policy import aligned, answers_of, load, prompts_of
from tests.training.test_prompt_memory import score
from worker.hf.base import Base
from worker.hf.generation import LOOK_TOKENS
from worker.hf.model import HfPolicy
from worker.sdft.student import backward
from worker.sdft.teacher import teacher_hidden
from worker.trainer_process import Upkeep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


DEVICE = "cuda"


def on_device(base):
    return HfPolicy.on(base, lora_rank=4, lora_alpha=8, parent=None, seed=0)


@pytest.fixture(params=["llama", "gemma3"])
def folder(request, tmp_path):
    """A family whose layers see everything, and one with windows and a soft cap."""
    return save_tiny(request.param, tmp_path / request.param)


@pytest.fixture
def policy(folder):
    return on_device(Base.load(folder, device=DEVICE))


@pytest.fixture
def llama(tmp_path):
    return on_device(Base.load(save_tiny("llama", tmp_path / "llama"), device=DEVICE))


def differs(one, other):
    """Norm of the difference by that of the whole."""
    return ((one - other).float().norm() / other.float().norm()).item()


def test_the_base_is_bf16_and_what_is_trained_is_fp32(policy):
    assert policy.head.weight_VH.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in policy.parameters().values()} == {torch.float32}
    assert {parameter.device.type for parameter in policy.parameters().values()} == {DEVICE}


def test_likelihoods_are_those_of_the_cpu_within_bf16(folder, policy):
    on_cpu = load(folder, stir=False)
    prompts, answers = prompts_of(policy), answers_of(policy)
    expected = on_cpu.nll(prompts, answers, arm="base")
    assert policy.nll(prompts, answers, arm="base") == pytest.approx(expected, rel=0.05)


def test_a_step_has_a_finite_gradient_on_the_device(policy):
    sequences = aligned(policy)
    known = backward(policy, sequences, teacher_hidden(policy, sequences, max_tokens=4096), max_tokens=4096)
    gradients = [parameter.grad for parameter in policy.parameters().values() if parameter.grad is not None]
    assert gradients
    assert all(gradient.is_cuda and gradient.isfinite().all() for gradient in gradients)
    assert all(means["loss"] >= 0 for means in known)


def test_equal_seeds_sample_equal_tokens(policy):
    first, second = (policy.sample(prompts_of(policy), 8, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert [rollout.ids for rollout in first] == [rollout.ids for rollout in second]


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_trains_and_goes_on_from_a_checkpoint(folder, tmp_path, kind):
    """Fault caught: moments, a teacher that moves or randomness on another device than what they belong to."""
    bases = [Base.load(folder, device=DEVICE) for _ in range(2)]
    _, whole = run(folder, tmp_path / "whole", policy=on_device(bases[0]), **KINDS[kind])
    _, rest = run(
        folder, tmp_path / "rest", policy=on_device(bases[1]), resume_from=step_folder(tmp_path / "whole", 3),
        **KINDS[kind],
    )  # fmt: skip
    assert all(map(math.isfinite, whole.curve("train_loss") + whole.curve("grad_norm")))
    assert len(rest.steps) == STEPS - 3
    assert rest.curve("train_loss")[0] == pytest.approx(whole.curve("train_loss")[3], rel=1e-2)


def test_a_second_job_on_the_same_base_is_the_first_again(folder, tmp_path):
    base, upkeep = Base.load(folder, device=DEVICE), Upkeep(memory_growth=1.5)
    losses = []
    for job in ("first", "second"):
        losses.append(run(folder, tmp_path / job, policy=on_device(base))[1].curve("train_loss"))
        assert upkeep.is_sound(base)
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_a_remembered_prompt_gives_what_reading_it_gives(llama):
    """Fault caught: keys, mask or lengths of a remembered prompt that are left on the CPU."""
    read, first, again = (torch.cat(score(llama, remembers=remembers)) for remembers in (False, True, True))
    assert llama._memory._known
    assert differs(first, read) < 0.05
    assert differs(again, first) < 0.01


def test_a_step_of_a_tree_is_the_step_of_padded_rows(llama):
    assert llama.reads_trees
    gradients = {}
    sequences = aligned(llama)
    for trees in (True, False):
        llama.reads_trees = trees
        backward(llama, sequences, teacher_hidden(llama, sequences, max_tokens=4096), max_tokens=4096)
        gradients[trees] = torch.cat(
            [one.grad.flatten() for one in llama.parameters().values() if one.grad is not None]
        )
        for parameter in llama.parameters().values():
            parameter.grad = None
    assert differs(gradients[True], gradients[False]) < 0.1


def test_rows_that_stop_between_two_looks_end_where_they_stopped(policy):
    """Fault caught: words after the end, which were said before anyone looked."""
    prompts, limits = prompts_of(policy), [3 * LOOK_TOKENS, 3, LOOK_TOKENS, 2 * LOOK_TOKENS + 1]
    free = policy.greedy(prompts, limits, arm="student")
    policy.stop_ids = frozenset({free[0].ids[LOOK_TOKENS + 1], free[3].ids[1]})
    said = policy.greedy(prompts, limits, arm="student")
    for rollout, limit in zip(said, limits, strict=True):
        ends = [place for place, token in enumerate(rollout.ids, 1) if token in policy.stop_ids]
        assert ends == ([len(rollout.ids)] if rollout.stopped else [])
        assert rollout.stopped or len(rollout.ids) == limit
    assert any(rollout.stopped and len(rollout.ids) % LOOK_TOKENS for rollout in said)
