"""Batched decoding with a KV cache on any transformers causal LM. Knows ids and a head, no chat and no adapters.

Prompts are padded on the left with explicit mask and positions; rows that are done leave the batch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from worker.hf.prompt_memory import open_cache, slides
from worker.sdft.align import shared_prefix
from worker.sdft.loss import Head
from worker.sdft.policy import Rollout

LOOK_TOKENS = 8
"""On an accelerator what was said is looked at only every so often: each look waits for all that is queued there. Rows
that have stopped go on until then, and what they say is dropped."""


def choose(logits_BV: Tensor, quantiles_B: Tensor | None) -> Tensor:
    """Token ids [B]: the most likely, or those that lie at a quantile of the softmax as it is, temperature 1.

    Uniform quantiles sample from it; ``torch.multinomial`` takes 20 times as long on a CPU.
    """
    if quantiles_B is None:
        return logits_BV.argmax(-1)
    cdf_BV = logits_BV.softmax(-1).cumsum(-1)
    chosen_B1 = torch.searchsorted(cdf_BV, quantiles_B[:, None] * cdf_BV[:, -1:], right=True)
    return chosen_B1.clamp_(max=cdf_BV.shape[-1] - 1)[:, 0]


@torch.no_grad()
def decode(
    decoder: Any, head: Head, prompts: Sequence[list[int]], *, limits: Sequence[int], stop_ids: frozenset[int],
    quantiles_BT: Tensor | None,
) -> list[Rollout]:  # fmt: skip
    """Extend each prompt until a stop id or its limit.

    Args:
        decoder: Backbone that returns final hidden states.
        head: From those to logits.
        prompts: One row each.
        limits: New tokens allowed, a prompt each.
        stop_ids: Any of these ends a row, and is part of it.
        quantiles_BT: Where each token of each prompt's answer lies in its distribution; None for the most likely.
    """
    device = head.weight_VH.device
    quantiles_BT = None if quantiles_BT is None else quantiles_BT.to(device)
    said: list[list[int]] = [[] for _ in prompts]
    rows, rows_B = list(range(len(prompts))), torch.arange(len(prompts), device=device)
    unseen: list[Tensor] = []
    # No row goes on beyond its limit, where there may be no position for it.
    place, look = 0, min([_look_tokens(device), *limits])
    different = list({tuple(prompt): prompt for prompt in prompts}.values())
    prefix = [] if slides(decoder) else shared_prefix(different)
    cache = open_cache(decoder, prefix, len(different), device)
    ids_BL, mask_BL = _pad_left([prompt[len(prefix) :] for prompt in different], device)
    mask_BL = nn.functional.pad(mask_BL, (len(prefix), 0), value=1)
    positions_BL = (mask_BL.cumsum(-1) - 1).clamp_(min=0)[:, len(prefix) :]
    while rows:
        hidden_BLH = decoder(
            input_ids=ids_BL, attention_mask=mask_BL, position_ids=positions_BL, past_key_values=cache, use_cache=True
        ).last_hidden_state
        last_BH = hidden_BLH[:, -1]
        if len(last_BH) < len(rows):  # a prompt that comes several times was read once
            places_B = torch.tensor([different.index(prompt) for prompt in prompts], device=device)
            last_BH, positions_BL, mask_BL = last_BH[places_B], positions_BL[places_B], mask_BL[places_B]
            cache.batch_select_indices(places_B)
        next_B = choose(head.logits(last_BH), None if quantiles_BT is None else quantiles_BT[rows_B, place])
        ids_BL, positions_BL = next_B[:, None], positions_BL[:, -1:] + 1
        mask_BL = nn.functional.pad(mask_BL, (0, 1), value=1)
        unseen.append(next_B)
        place += 1
        if place < look:
            continue
        for row, tokens in zip(rows, torch.stack(unseen, -1).tolist(), strict=True):
            end = next((index for index, token in enumerate(tokens, 1) if token in stop_ids), len(tokens))
            said[row] += tokens[:end]
        unseen.clear()
        going = [index for index, row in enumerate(rows) if said[row][-1] not in stop_ids and place < limits[row]]
        if len(going) < len(rows):
            kept = torch.tensor(going, dtype=torch.long, device=device)
            rows, rows_B = [rows[index] for index in going], rows_B[kept]
            ids_BL, positions_BL, mask_BL = ids_BL[kept], positions_BL[kept], mask_BL[kept]
            cache.batch_select_indices(kept)
        look = min([place + _look_tokens(device), *(limits[row] for row in rows)])
    return [Rollout(prompt, ids, stopped=ids[-1] in stop_ids) for prompt, ids in zip(prompts, said, strict=True)]


def _look_tokens(device: torch.device) -> int:
    return 1 if device.type == "cpu" else LOOK_TOKENS


def _pad_left(prompts: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    length = max(len(prompt) for prompt in prompts)
    ids = [[0] * (length - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
