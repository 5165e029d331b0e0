"""The keys and values of what all rows of a batch begin with, computed once."""

from typing import Any

import torch
from transformers import DynamicCache


def open_cache(backbone: Any, prefix: list[int], num_rows: int, device: torch.device) -> DynamicCache:
    """A cache that holds ``prefix`` in each of ``num_rows`` rows; with a graph unless gradients are off.

    The student's factors act on the prefix too: the gradient of every row flows back into the one pass.
    """
    cache = DynamicCache(config=backbone.config)
    if prefix:
        backbone(input_ids=torch.tensor([prefix], device=device), past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(num_rows)
    return cache
