"""The same code on a CUDA device: bf16 base, fp32 factors and loss, everything on the device. Not run without one."""

import pytest
import torch

from tests.tiny_models import save_tiny
from tests.training.test_policy import aligned, answers_of, load, prompts_of
from worker.hf.base import Base
from worker.hf.model import HfPolicy
from worker.sdft.student import backward
from worker.sdft.teacher import teacher_hidden

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def folder(tmp_path):
    return save_tiny("llama", tmp_path / "llama")


@pytest.fixture
def policy(folder):
    return HfPolicy.on(Base.load(folder, device="cuda"), lora_rank=4, lora_alpha=8, parent=None, seed=0)


def test_the_base_is_bf16_and_what_is_trained_is_fp32(policy):
    assert policy.head.weight_VH.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in policy.parameters().values()} == {torch.float32}
    assert {parameter.device.type for parameter in policy.parameters().values()} == {"cuda"}


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
