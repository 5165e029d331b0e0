"""The fused loss against plain autograd on full logits in fp64."""

import math
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from worker.sdft import loss as loss_module
from worker.sdft.isdft import isdft
from worker.sdft.loss import Head, cross_entropy, distil

pytestmark = pytest.mark.usefixtures("torchs_products")
NUM_ROWS, HIDDEN, VOCABULARY = 13, 8, 50
HEADS = {
    "plain": {},
    "bias": {"bias_V": torch.linspace(-2, 2, VOCABULARY)},
    "scaled": {"scale": 0.25},
    "soft-capped": {"softcap": 3.0},
    "all": {"bias_V": torch.linspace(-2, 2, VOCABULARY), "scale": 1.5, "softcap": 3.0},
}


def make_rows(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states of student and teacher, a head's weight, and weights of which some are zero."""
    generator = torch.Generator().manual_seed(seed)
    student_TH, teacher_TH = torch.randn(2, NUM_ROWS, HIDDEN, generator=generator)
    weight_VH = torch.randn(VOCABULARY, HIDDEN, generator=generator)
    weights_T = torch.rand(NUM_ROWS, generator=generator) * (torch.arange(NUM_ROWS) % 3 > 0)
    return student_TH, teacher_TH, weight_VH, weights_T


def reference_logits(hidden_TH: Tensor, weight_VH: Tensor, head: dict) -> Tensor:
    logits_TV = hidden_TH @ weight_VH.double().T
    if "bias_V" in head:
        logits_TV = logits_TV + head["bias_V"].double()
    logits_TV = logits_TV * head.get("scale", 1.0)
    return head["softcap"] * torch.tanh(logits_TV / head["softcap"]) if "softcap" in head else logits_TV


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
@pytest.mark.parametrize("chunk_rows", [1, 4, NUM_ROWS, 100])
def test_forward_kl_and_its_gradient_are_those_of_autograd(head, chunk_rows):
    student_TH, teacher_TH, weight_VH, weights_T = make_rows()
    exact_TH = student_TH.double().requires_grad_()
    log_p_TV = reference_logits(exact_TH, weight_VH, head).log_softmax(-1)
    log_t_TV = reference_logits(teacher_TH.double(), weight_VH, head).log_softmax(-1)
    exact = (weights_T * (log_t_TV.exp() * (log_t_TV - log_p_TV)).sum(-1)).sum()
    exact.backward()

    fused_TH = student_TH.clone().requires_grad_()
    loss, known = distil(
        fused_TH, teacher_TH, Head(weight_VH, **head), weights_T, chunk_elements=chunk_rows * VOCABULARY
    )
    (2 * loss).backward()

    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    assert (fused_TH.grad / 2 - exact_TH.grad).norm() < 1e-6 * exact_TH.grad.norm()
    entropy_T = -(log_p_TV.exp() * log_p_TV).sum(-1)
    torch.testing.assert_close(known.student_entropy_T, entropy_T.float().detach(), rtol=1e-5, atol=1e-5)
    assert not known.loss_T.requires_grad


def test_cross_entropy_and_its_gradient_are_those_of_autograd():
    student_TH, _, weight_VH, weights_T = make_rows()
    targets_T = torch.arange(NUM_ROWS) * 3
    exact_TH = student_TH.double().requires_grad_()
    each_T = torch.nn.functional.cross_entropy(exact_TH @ weight_VH.double().T, targets_T, reduction="none")
    (each_T * weights_T).sum().backward()

    fused_TH = student_TH.clone().requires_grad_()
    loss, _ = cross_entropy(fused_TH, targets_T, Head(weight_VH), weights_T, chunk_elements=4 * VOCABULARY)
    loss.backward()

    assert loss.item() == pytest.approx((each_T * weights_T).sum().item(), rel=1e-6)
    assert (fused_TH.grad - exact_TH.grad).norm() < 1e-6 * exact_TH.grad.norm()


def test_equal_distributions_have_no_loss_and_no_gradient():
    student_TH, _, weight_VH, weights_T = make_rows()
    student_TH.requires_grad_()
    loss, known = distil(student_TH, student_TH.detach().clone(), Head(weight_VH), weights_T)
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert student_TH.grad.abs().max() < 1e-6
    assert known.overlap_T.eq(1).all()
    assert known.agreement_T.eq(1).all()


def test_gradient_of_the_logits_sums_to_zero_and_is_student_minus_teacher():
    """With the identity as head, hidden states are logits."""
    student_TV, teacher_TV = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1))
    student_TV.requires_grad_()
    distil(student_TV, teacher_TV, Head(torch.eye(12)), torch.ones(5))[0].backward()
    torch.testing.assert_close(student_TV.grad, student_TV.detach().softmax(-1) - teacher_TV.softmax(-1))
    assert student_TV.grad.sum(-1).abs().max() < 1e-6


@pytest.mark.parametrize("gap", [0.0, 1e-3, 0.1, 10.0, 1000.0])
def test_divergence_is_never_negative_and_always_finite(gap):
    teacher_TV = torch.randn(20, 1000, generator=torch.Generator().manual_seed(2))
    noise_TV = torch.randn(20, 1000, generator=torch.Generator().manual_seed(3))
    loss, known = distil(teacher_TV + gap * noise_TV, teacher_TV, Head(torch.eye(1000)), torch.ones(20))
    assert known.loss_T.min() > -1e-6
    assert math.isfinite(loss.item())


def test_a_tiny_divergence_keeps_its_precision():
    """The difference of two large sums would lose it."""
    teacher_TV = torch.randn(4, 20_000, generator=torch.Generator().manual_seed(4))
    noise_TV = torch.randn(4, 20_000, generator=torch.Generator().manual_seed(5))
    student_TV = teacher_TV + 0.01 * noise_TV
    log_p_TV, log_t_TV = student_TV.double().log_softmax(-1), teacher_TV.double().log_softmax(-1)
    exact_T = (log_t_TV.exp() * (log_t_TV - log_p_TV)).sum(-1)
    _, known = distil(student_TV, teacher_TV, Head(torch.eye(20_000)), torch.ones(4))
    torch.testing.assert_close(known.loss_T.double(), exact_T, rtol=1e-2, atol=0)


def test_a_token_the_student_would_never_say_is_learned():
    """The blind spot of losses over the student's top tokens: 57 % of the teacher's mass outside of them."""
    vocabulary, wanted = 300, 299
    student_1V = torch.linspace(8, 0, vocabulary)[None].clone()
    teacher_1V = student_1V.softmax(-1) * 0.43
    teacher_1V[0, wanted] += 0.57
    student_1V.requires_grad_()
    loss, _ = distil(student_1V, teacher_1V.log(), Head(torch.eye(vocabulary)), torch.ones(1))
    loss.backward()
    assert loss.item() > 1
    assert student_1V.grad[0, wanted].item() == pytest.approx(-0.57, abs=1e-3)


class _LargestTensor(TorchDispatchMode):
    """Notes the most elements that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.num_elements = max(self.num_elements, tensor.numel())
        return result


def with_anchor(student_TH, others, targets_T, head, weights_T, **sizes):
    return distil(
        student_TH, others[0], head, weights_T, divergence=partial(isdft, rho=0.25, entry_clip=1.0),
        parent_TH=others[1], anchor_weight=0.1, **sizes,
    )  # fmt: skip


OBJECTIVES = {
    "distil": lambda student_TH, others, _, *rest, **sizes: distil(student_TH, others[0], *rest, **sizes),
    "isdft with an anchor": with_anchor,
    "cross-entropy": lambda student_TH, _, targets_T, *rest, **sizes: cross_entropy(
        student_TH, targets_T, *rest, **sizes
    ),
}


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_logits_of_a_whole_batch_never_exist(objective):
    num_rows, vocabulary, chunk_elements = 512, 1000, 10_000
    hidden_TH, *others = torch.randn(3, num_rows, HIDDEN)
    hidden_TH.requires_grad_()
    head = Head(torch.randn(vocabulary, HIDDEN))
    with _LargestTensor() as largest:
        loss, _ = objective(
            hidden_TH, others, torch.arange(num_rows), head, torch.ones(num_rows), chunk_elements=chunk_elements
        )
        loss.backward()
    assert largest.num_elements <= chunk_elements


@pytest.mark.parametrize("head", [HEADS["plain"], HEADS["all"]], ids=["plain", "all"])
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
def test_how_many_positions_are_compared_at_a_time_changes_nothing(objective, head, monkeypatch):
    """Fault caught: a block's weights, targets or teacher taken from the start of the chunk, or of the batch."""
    student_TH, teacher_TH, weight_VH, weights_T = make_rows()
    found = {}
    for block_rows, chunk_rows in ((1, 18), (100, 100)):
        monkeypatch.setattr(loss_module, "BLOCK_ELEMENTS", block_rows * VOCABULARY)
        hidden_TH = student_TH.clone().requires_grad_()
        loss, known = objective(
            hidden_TH, [teacher_TH, make_rows(seed=9)[0]], torch.arange(NUM_ROWS) * 3, Head(weight_VH, **head),
            weights_T, chunk_elements=chunk_rows * VOCABULARY,
        )  # fmt: skip
        loss.backward()
        found[block_rows] = [loss.detach(), hidden_TH.grad, *vars(known).values()]
    for one, other in zip(found[1], found[100], strict=True):
        torch.testing.assert_close(one, other)


RESIDENT = """
import resource
import torch
from worker.sdft.loss import Head, distil
torch.set_num_threads(1)
head = Head(torch.randn(120_000, 4))
for num_rows in (64, 1024):
    student_TH, teacher_TH = torch.randn(2, num_rows, 4)
    distil(student_TH.requires_grad_(), teacher_TH, head, torch.ones(num_rows))[0].backward()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc's heap, and units of ru_maxrss are Linux's")
def test_memory_held_does_not_grow_with_positions():
    """Fault caught: tensors that the heap finds no room for between what is left of those before them."""
    output = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True).stdout
    few_kb, many_kb = map(int, output.split())
    assert many_kb - few_kb < 50_000
