"""Products with a frozen weight, outside of autograd: what a step spends its time on."""

import sys
from pathlib import Path

import torch
from torch import Tensor

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _made_for_mkl() -> bool:
    try:
        return torch.backends.mkl.is_available() and b"GenuineIntel" in Path("/proc/cpuinfo").read_bytes()
    except OSError:
        return False


ONEDNN_ROWS = 48 if _made_for_mkl() else sys.maxsize
"""From so many on, MKL is the faster one on its own maker's processors, and far slower than oneDNN on another's."""


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Map [..., I] to [..., O]; has no graph.

    In fp32 on a CPU by the library that is the faster there.
    """
    fits = _ONEDNN and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel()
    if fits and x.numel() < ONEDNN_ROWS * x.shape[-1]:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_OI, bias_O, "none", [], "")  # noqa: SLF001 - torch has no public name for it
        return product
    return torch.nn.functional.linear(x, weight_OI, bias_O)
