"""Keys and values that are computed once: of what all rows of a batch begin with, and of prompts that come again."""

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from worker.sdft.side_by_side import on_one_thread

MAX_REMEMBERED_BYTES = 1 << 30
"""What remembered prompts may take: 46 KB a token on a model of 135M parameters in fp32."""

_Layers = list[tuple[Tensor, Tensor]]


def slides(backbone: Any) -> bool:
    """Whether some layers see a window only, which would count the padding between a prefix and what follows."""
    layers: list[Any] = DynamicCache(config=backbone.config).layers
    return any(layer.is_sliding for layer in layers)


def open_cache(backbone: Any, prefix: list[int], num_rows: int, device: torch.device) -> DynamicCache:
    """A cache that holds ``prefix`` in each of ``num_rows`` rows; with a graph unless gradients are off.

    The student's factors act on the prefix too: the gradient of every row flows back into the one pass.
    """
    cache = DynamicCache(config=backbone.config)
    if prefix:
        backbone(input_ids=torch.tensor([prefix], device=device), past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(num_rows)
    return cache


class PromptMemory:
    """Prompts as weights that never change have read them.

    A frozen teacher reads a demonstration in every epoch; what it makes of it is always the same. Prompts that come
    when the memory is full are read again each time.

    Args:
        backbone: Of a model whose layers see everything.
        device: Where it lies.
        max_bytes: Of keys and values.
    """

    def __init__(self, backbone: Any, device: torch.device, *, max_bytes: int = MAX_REMEMBERED_BYTES) -> None:
        self._backbone, self._device = backbone, device
        self._max_bytes = self._bytes_left = max_bytes
        self._known: dict[tuple[int, ...], _Layers] = {}
        self._keeping = threading.Lock()

    def forget(self) -> None:
        """Hold nothing: what comes is read anew."""
        self._bytes_left = self._max_bytes
        self._known.clear()

    @torch.no_grad()
    def open(self, prompts: Sequence[list[int]]) -> tuple[DynamicCache, Tensor]:
        """A cache with a prompt in each row, padded on the right, and the mask of it, [B, P]."""
        rows = [self._known.get(tuple(prompt)) or self._read(prompt) for prompt in prompts]
        longest = max(len(prompt) for prompt in prompts)
        cache = DynamicCache(config=self._backbone.config)
        for number, layers in enumerate(zip(*rows, strict=True)):
            keys, values = (
                torch.stack([pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])
                for parts in zip(*layers, strict=True)
            )
            cache.update(keys, values, number)
        lengths_B1 = torch.tensor([[len(prompt)] for prompt in prompts])
        return cache, (torch.arange(longest) < lengths_B1).long().to(self._device)

    def _read(self, prompt: list[int]) -> _Layers:
        # Alone, and so to the same bits in whatever order prompts come: a run that goes on starts with no memory.
        cache = DynamicCache(config=self._backbone.config)
        ids_1L = torch.tensor([prompt], device=self._device)
        with on_one_thread():
            self._backbone(input_ids=ids_1L, past_key_values=cache, use_cache=True)
        read: list[Any] = cache.layers
        layers = [(layer.keys[0], layer.values[0]) for layer in read]
        num_bytes = sum(part.nbytes for pair in layers for part in pair)
        with self._keeping:
            if num_bytes <= self._bytes_left:
                self._bytes_left -= num_bytes
                self._known[tuple(prompt)] = layers
        return layers
