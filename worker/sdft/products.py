"""Products with a frozen weight, outside of autograd: what a step spends its time on."""

import torch
from torch import Tensor

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Map [..., I] to [..., O]; has no graph.

    In fp32 on a CPU by oneDNN, whose kernels suit the processor they find. What ``torch.nn.functional.linear`` calls
    instead may be made for another maker's, and took up to 2.3 times as long for a few rows on an AMD EPYC.
    """
    if _ONEDNN and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel():
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_OI, bias_O, "none", [], "")  # noqa: SLF001 - torch has no public name for it
        return product
    return torch.nn.functional.linear(x, weight_OI, bias_O)
