"""Keys and values that are computed once: of what all rows of a batch begin with, and of prompts that come again."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from worker.sdft.side_by_side import on_one_thread, side_by_side

MAX_REMEMBERED_BYTES = 1 << 30
"""What remembered prompts may take: 46 KB a token on a model of 135M parameters in fp32."""

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of one prompt, [heads, length, size] each, a pair a layer."""

LONG_TOKENS = 512
"""Of a prompt that keeps all threads busy by itself."""


def slides(backbone: Any) -> bool:
    """Whether some layers see less than all that came: a state that they made of it, or a window.

    Either would count the padding between a prefix and what follows.
    """
    layers: list[Any] = DynamicCache(config=backbone.config).layers
    return keeps_state(backbone) or any(layer.is_sliding for layer in layers)


def keeps_state(backbone: Any) -> bool:
    """Whether some layers make a state of what they have read, which is not repeated row by row."""
    layers = DynamicCache(config=backbone.config).layers
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


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
        self._known: dict[tuple[int, ...], Layers] = {}

    def forget(self) -> None:
        """Hold nothing: what comes is read anew."""
        self._bytes_left = self._max_bytes
        self._known.clear()

    def read(self, prompts: Sequence[list[int]], *, num_lanes: int = 1) -> list[Layers]:
        """What the weights make of each prompt.

        Each is read alone, and on as many threads as its length says, so that its bits depend on nothing else: a run
        that goes on starts with no memory, and meets prompts in other company.
        """
        new = list(dict.fromkeys(key for key in map(tuple, prompts) if key not in self._known))
        short = [key for key in new if len(key) < LONG_TOKENS]
        layers = dict(zip(short, side_by_side(self._read_on_one_thread, short, num_lanes), strict=True))
        layers |= {key: self._read(key) for key in new if len(key) >= LONG_TOKENS}
        for key, read in layers.items():
            num_bytes = sum(part.nbytes for pair in read for part in pair)
            if num_bytes <= self._bytes_left:
                self._bytes_left -= num_bytes
                self._known[key] = read
        return [self._known.get(tuple(prompt)) or layers[tuple(prompt)] for prompt in prompts]

    def open(self, prompts: Sequence[Layers]) -> tuple[DynamicCache, Tensor]:
        """A cache with a prompt in each row, padded on the right, and the mask of it, [B, P]."""
        lengths = [layers[0][0].shape[1] for layers in prompts]
        longest = max(lengths)
        cache = DynamicCache(config=self._backbone.config)
        for number, pairs in enumerate(zip(*prompts, strict=True)):
            keys, values = (
                torch.stack([pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])
                for parts in zip(*pairs, strict=True)
            )
            cache.update(keys, values, number)
        return cache, (torch.arange(longest) < torch.tensor(lengths)[:, None]).long().to(self._device)

    def _read_on_one_thread(self, prompt: tuple[int, ...]) -> Layers:
        with on_one_thread():
            return self._read(prompt)

    @torch.no_grad()
    def _read(self, prompt: tuple[int, ...]) -> Layers:
        cache = DynamicCache(config=self._backbone.config)
        self._backbone(input_ids=torch.tensor([prompt], device=self._device), past_key_values=cache, use_cache=True)
        read: list[Any] = cache.layers
        return [(layer.keys[0], layer.values[0]) for layer in read]
