"""How far an adapter moves a base's weights, by kind of module. What it adds to them is never made."""

import math
from collections import defaultdict

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from worker.hf.folded import factors_of


@torch.no_grad()
def weight_norms(adapted: nn.Module, adapter: str) -> dict[str, tuple[float, float]]:
    """Frobenius norms over all layers: of scale * B A, and of the base's weights that it is added to.

    Args:
        adapted: A model with PEFT's layers.
        adapter: One of its adapters.

    Returns:
        By the last part of a module's name, such as ``q_proj``.
    """
    added: dict[str, float] = defaultdict(float)
    base: dict[str, float] = defaultdict(float)
    for name, layer in adapted.named_modules():
        if isinstance(layer, Linear) and adapter in layer.lora_A:
            kind = name.rpartition(".")[2]
            added[kind] += layer.scaling[adapter] ** 2 * _squared_norm(
                *(factor.double() for factor in factors_of(layer, adapter))
            )
            base[kind] += float(torch.linalg.vector_norm(layer.base_layer.weight, dtype=torch.float32)) ** 2
    return {kind: (math.sqrt(added[kind]), math.sqrt(base[kind])) for kind in added}


def _squared_norm(down_RI: Tensor, up_OR: Tensor) -> float:
    """||B A||^2 = tr(A^T B^T B A) = sum((B^T B) * (A A^T)), where rounding alone could be negative."""
    return max(0.0, float(((up_OR.T @ up_OR) * (down_RI @ down_RI.T)).sum()))
