"""A base with an adapter folded into a second set of linear weights, for a CPU; the base's own are never touched.

There, the two thin products that an adapter adds to each layer cost more than folding it in once for all that a step
does with it: sampling, and the forward and backward pass on what was sampled. Knows nothing of what it computes.
"""

import copy
import threading
from collections.abc import Mapping
from typing import Any

import torch
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from worker.sdft.products import linear
from worker.sdft.side_by_side import side_by_side


def adapts_plain_layers(adapted: nn.Module) -> bool:
    """Whether all that PEFT has adapted are plain linear layers.

    Some old architectures hold theirs transposed, and a mixture of experts is one tensor for all, which PEFT changes
    while it is asked.
    """
    layers: list[Any] = [module for module in adapted.modules() if isinstance(module, LoraLayer)]
    return all(type(layer) is Linear and not isinstance(layer.base_layer, Conv1D) for layer in layers)


class FoldedCopy:
    """A causal LM with folded linear layers.

    Args:
        model: Before adapters are put in; all but its linear layers is shared with it.
    """

    def __init__(self, model: Any) -> None:
        shared = {id(tensor): tensor for tensor in model.parameters()}
        self._model: Any = copy.deepcopy(model, memo=shared)
        self._holds: tuple[str, int] | None = None
        self._folding = threading.Lock()

    def backbone(self, adapted: nn.Module, adapter: str) -> Any:
        """The backbone with ``adapter``'s present weights; a backward pass through it reaches their gradients.

        Args:
            adapted: The same model with PEFT's layers.
            adapter: One of its adapters.
        """
        layers = {name: layer for name, layer in adapted.named_modules() if isinstance(layer, Linear)}
        factors = [factor for layer in layers.values() for factor in factors_of(layer, adapter)]
        # Every change in place counts up a tensor's version, an optimizer's step too.
        holds = adapter, sum(factor._version for factor in factors)  # noqa: SLF001 - torch has no public name for it
        with self._folding:
            if holds != self._holds:
                self._holds = None  # of what breaks off half-way
                self._fold(layers, adapter)
                self._holds = holds
        return self._model.get_decoder()

    def forget(self) -> None:
        """Give back the memory of the folded weights until they are needed again."""
        self._holds = None
        for module in self._model.modules():
            if isinstance(module, FoldedLinear):
                module.forget()

    def _fold(self, layers: Mapping[str, Linear], adapter: str) -> None:
        pairs = [(self._folded(name, layer), layer) for name, layer in layers.items()]

        @torch.no_grad()
        def take(part: list[tuple[FoldedLinear, Linear]]) -> None:
            for folded, layer in part:
                folded.take(layer, adapter)

        num_lanes = torch.get_num_threads()
        side_by_side(take, [pairs[lane::num_lanes] for lane in range(num_lanes)], num_lanes)

    def _folded(self, name: str, layer: Linear) -> "FoldedLinear":
        folded = self._model.get_submodule(name)
        if not isinstance(folded, FoldedLinear):
            folded = FoldedLinear(layer.base_layer)
            self._model.set_submodule(name, folded)
        return folded


class FoldedLinear(nn.Module):
    """A linear layer whose weight is the base's and an adapter's together.

    Attributes:
        folded_OI: That weight.
        bias_O: The base's.
    """

    def __init__(self, base: Any) -> None:
        super().__init__()
        self._base_OI: Tensor = base.weight
        self.bias_O: Tensor | None = base.bias
        self.forget()

    def forget(self) -> None:
        """Hold no folded weight; ``take`` makes room for one again."""
        self.folded_OI = self._base_OI.new_empty(0)

    def take(self, layer: Linear, adapter: str) -> None:
        """Fold an adapter's weights in."""
        self._down_RI, self._up_OR = factors_of(layer, adapter)
        self._scale: float = layer.scaling[adapter]
        torch.addmm(self._base_OI, self._up_OR, self._down_RI, alpha=self._scale, out=self.folded_OI)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., I] to [..., O]."""
        if not torch.is_grad_enabled():
            return linear(x, self.folded_OI, self.bias_O)
        folded: Tensor = _Product.apply(x, self._down_RI, self._up_OR, self.folded_OI, self.bias_O, self._scale)  # type: ignore[no-untyped-call]
        return folded


class _Product(torch.autograd.Function):
    """y = x (W + s B A)^T + bias from the folded weight, with the gradients of x, A and B."""

    @staticmethod
    def forward(  # noqa: PLR0917 - torch passes arguments by position
        ctx: Any, x: Tensor, down_RI: Tensor, up_OR: Tensor, folded_OI: Tensor, bias_O: Tensor | None, scale: float
    ) -> Tensor:
        ctx.save_for_backward(x, down_RI, up_OR, folded_OI)
        ctx.scale = scale
        return linear(x, folded_OI, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None, None]:
        x, down_RI, up_OR, folded_OI = ctx.saved_tensors
        grad_NO, x_NI = grad.flatten(0, -2), x.flatten(0, -2)
        inner_NR = (grad_NO @ up_OR).mul_(ctx.scale)
        grad_x = linear(grad, folded_OI.T) if ctx.needs_input_grad[0] else None
        return grad_x, inner_NR.T @ x_NI, grad_NO.T @ (x_NI @ down_RI.T).mul_(ctx.scale), None, None, None


def factors_of(layer: Linear, adapter: str) -> tuple[nn.Parameter, nn.Parameter]:
    """An adapter's A [R, I] and B [O, R] at a layer."""
    down: Any = layer.lora_A[adapter]
    up: Any = layer.lora_B[adapter]
    return down.weight, up.weight
