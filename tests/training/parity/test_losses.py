"""Our loss from hidden states against TRL's from logits, and what TRL's other supports are worth.

TRL's support of the student's most likely tokens and its importance weights are no options of ours; they are written
out here, as they are defined, so that a benchmark which runs them is known to run what it says.
"""

from functools import partial

import pytest
import torch
from trl.experimental.sdft.loss_utils import (
    apply_importance_sampling_clipping,
    compute_full_logit_self_distillation_loss,
    compute_topk_self_distillation_loss,
)

from worker.sdft.divergences import forward_kl, jsd, reverse_kl
from worker.sdft.loss import Head, distil

NUM_TOKENS, HIDDEN, VOCABULARY = 11, 16, 97


@pytest.fixture
def apart():
    """Student and teacher, apart enough for every direction to give another number."""
    return torch.randn(2, NUM_TOKENS, HIDDEN, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def head():
    return Head(torch.randn(VOCABULARY, HIDDEN, generator=torch.Generator().manual_seed(1)))


OURS = {0.0: forward_kl, 1.0: reverse_kl} | {alpha: partial(jsd, alpha=alpha) for alpha in (0.01, 0.1, 0.5, 0.9)}


@pytest.mark.parametrize("alpha", OURS)
def test_value_and_gradient_of_a_divergence_are_trls(apart, head, alpha):
    """Fault caught: the wrong direction, a mixture weighed the wrong way round, a gradient that is not the value's."""
    student_TH, teacher_TH = (hidden_TH.clone().requires_grad_() for hidden_TH in apart)
    weights_T = torch.rand(NUM_TOKENS, generator=torch.Generator().manual_seed(2))
    loss, known = distil(student_TH, teacher_TH, head, weights_T, divergence=OURS[alpha], chunk_elements=3 * VOCABULARY)
    loss.backward()

    theirs_TH = apart[0].double().requires_grad_()
    weight_VH = head.weight_VH.double()
    theirs_T = compute_full_logit_self_distillation_loss(
        theirs_TH @ weight_VH.T, teacher_TH.detach().double() @ weight_VH.T, distillation_alpha=alpha
    )
    (theirs_T * weights_T).sum().backward()
    torch.testing.assert_close(known.loss_T.double(), theirs_T.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(student_TH.grad.double(), theirs_TH.grad, rtol=1e-4, atol=1e-4)
    assert teacher_TH.grad is None


def kl(p_K, q_K):
    return (p_K * (p_K / q_K).log()).sum()


def with_tail(*parts):
    return (torch.cat([part_K, 1 - part_K.sum(0, keepdim=True)]) for part_K in parts)


def renormalised(*parts):
    return (part_K / part_K.sum() for part_K in parts)


@pytest.mark.parametrize("add_tail", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.1, 0.5, 0.9, 1.0])
def test_trls_support_is_the_students_most_likely_tokens_and_a_tail_or_none(apart, head, alpha, add_tail):
    student_TV, teacher_TV = apart.double() @ head.weight_VH.double().T
    found_T = compute_topk_self_distillation_loss(
        student_TV, teacher_TV, distillation_topk=7, distillation_alpha=alpha, distillation_add_tail=add_tail
    )
    for p_V, t_V, found in zip(student_TV.softmax(-1), teacher_TV.softmax(-1), found_T, strict=True):
        seen = p_V.argsort(descending=True)[:7]
        p_K, t_K = with_tail(p_V[seen], t_V[seen]) if add_tail else renormalised(p_V[seen], t_V[seen])
        mixture_K = (1 - alpha) * p_K + alpha * t_K
        ends = {0.0: kl(t_K, p_K), 1.0: kl(p_K, t_K)}
        expected = ends.get(alpha, alpha * kl(t_K, mixture_K) + (1 - alpha) * kl(p_K, mixture_K))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_trls_support_never_sees_what_only_the_teacher_knows():
    """A difference on purpose: TRL's default gives no loss and no gradient where ours gives the whole of it.

    The two agree but for one token that has 57 % of the teacher's mass and lies outside the student's 100.
    """
    student_1V = torch.linspace(5, 0, 300, dtype=torch.float64)[None]
    teacher_1V = student_1V.clone()
    teacher_1V[0, 250] = student_1V.logsumexp(-1) + torch.tensor(0.57 / 0.43).log()
    theirs_1V = student_1V.clone().requires_grad_()
    loss_1 = compute_topk_self_distillation_loss(
        theirs_1V, teacher_1V, distillation_topk=100, distillation_alpha=0.5, distillation_add_tail=False
    )
    loss_1.sum().backward()
    assert loss_1.item() == pytest.approx(0, abs=1e-12)
    assert theirs_1V.grad.abs().max() < 1e-12

    identity = Head(torch.eye(300))
    ours_1V = student_1V.float().requires_grad_()
    loss, known = distil(ours_1V, teacher_1V.float(), identity, torch.ones(1))
    loss.backward()
    assert known.loss_T.item() > 1
    assert ours_1V.grad[0, 250].item() == pytest.approx(-0.57, abs=0.01)


def test_trls_importance_weight_is_the_ratio_up_to_two_and_has_no_gradient():
    old_T = torch.tensor([-1.0, -1.0, -1.0, -30.0])
    new_T = torch.tensor([-1.0, -1.5, -0.1, -1.0], requires_grad=True)
    loss_T = torch.tensor([3.0, 3.0, 3.0, 3.0])
    weighted_T = apply_importance_sampling_clipping(loss_T, new_T, old_T, 2.0)
    expected_T = loss_T * (new_T.detach() - old_T).exp().clamp(max=2.0)
    torch.testing.assert_close(weighted_T, expected_T)
    assert not weighted_T.requires_grad
