"""What the loss alone takes: forward KL and its gradient at 1,024 positions on a vocabulary of 150,000.

Once as we compute it, in chunks from hidden states; once from the logits of all positions, as autograd does it with the
function that TRL uses.
"""

import json
import sys
import time

import torch

from benchmarks.turnstile import peak_memory_bytes
from worker.sdft.loss import Head, distil

NUM_TOKENS, HIDDEN, VOCABULARY = 1024, 896, 151_936
"""Hidden size and vocabulary of a Qwen of half a billion parameters."""


def main() -> None:
    """Run one way and print what it took."""
    torch.set_num_threads(int(sys.argv[2]))
    generator = torch.Generator().manual_seed(0)
    weight_VH = torch.randn(VOCABULARY, HIDDEN, generator=generator).mul_(0.05)
    student_TH = torch.randn(NUM_TOKENS, HIDDEN, generator=generator).requires_grad_()
    teacher_TH = torch.randn(NUM_TOKENS, HIDDEN, generator=generator)
    before, began = peak_memory_bytes(), time.perf_counter()
    loss = (fused if sys.argv[1] == "fused" else whole)(student_TH, teacher_TH, weight_VH)
    (gradient_TH,) = torch.autograd.grad(loss, student_TH)
    seconds = time.perf_counter() - began
    print(
        json.dumps(
            {
                "loss": loss.item(),
                "gradient": gradient_TH.norm().item(),
                "seconds": seconds,
                "extra_bytes": peak_memory_bytes() - before,
            }
        )
    )


def fused(student_TH: torch.Tensor, teacher_TH: torch.Tensor, weight_VH: torch.Tensor) -> torch.Tensor:
    """Ours."""
    return distil(student_TH, teacher_TH, Head(weight_VH), torch.full((NUM_TOKENS,), 1 / NUM_TOKENS))[0]


def whole(student_TH: torch.Tensor, teacher_TH: torch.Tensor, weight_VH: torch.Tensor) -> torch.Tensor:
    """From all logits at once."""
    from trl.experimental.sdft.loss_utils import compute_full_logit_self_distillation_loss  # noqa: PLC0415

    with torch.no_grad():
        teacher_TV = teacher_TH @ weight_VH.T
    student_TV = student_TH @ weight_VH.T
    loss_T: torch.Tensor = compute_full_logit_self_distillation_loss(student_TV, teacher_TV, distillation_alpha=0.0)
    return loss_T.mean()


if __name__ == "__main__":
    main()
