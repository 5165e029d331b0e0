"""Batched decoding with a KV cache on any transformers causal LM. Knows ids and a head, no chat and no adapters.

Prompts are padded on the left with explicit mask and positions; rows that are done leave the batch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from worker.hf.prompt_memory import open_cache, slides
from worker.hf.token_pass import TokenPass
from worker.sdft.align import shared_prefix
from worker.sdft.loss import Head
from worker.sdft.policy import Rollout
from worker.sdft.side_by_side import side_by_side
from worker.sdft.tree import TREE_TOKENS, alike, make_tree

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


class _CachedRows:
    """Rows of any decoder that have read their prompts, and read on a token at a time.

    Args:
        decoder: Backbone that returns final hidden states.
        head: From those to logits.
        cache: What the decoder has made of the prompts.
        mask_BL: 1 on the tokens that are in the cache.
    """

    def __init__(self, decoder: Any, head: Head, cache: DynamicCache, mask_BL: Tensor) -> None:
        self._decoder, self._head, self._cache, self._mask_BL = decoder, head, cache, mask_BL
        self._lengths_B = mask_BL.sum(-1)

    def read(self, ids_B: Tensor) -> Tensor:
        """Logits [B, V] after one more token in each row."""
        self._mask_BL = nn.functional.pad(self._mask_BL, (0, 1), value=1)
        hidden_B1H = self._decoder(
            input_ids=ids_B[:, None],
            attention_mask=self._mask_BL,
            position_ids=self._lengths_B[:, None],
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        self._lengths_B = self._lengths_B + 1
        return self._head.logits(hidden_B1H[:, 0])

    def keep(self, rows_B: Tensor) -> None:
        """Go on with some of the rows."""
        self._mask_BL, self._lengths_B = self._mask_BL[rows_B], self._lengths_B[rows_B]
        self._cache.reorder_cache(rows_B)  # type: ignore[arg-type]


@torch.no_grad()
def decode(
    decoder: Any, head: Head, prompts: Sequence[list[int]], *, limits: Sequence[int], stop_ids: frozenset[int],
    quantiles_BT: Tensor | None, by_token_pass: bool = False, num_lanes: int = 1,
) -> list[Rollout]:  # fmt: skip
    """Extend each prompt until a stop id or its limit.

    Args:
        decoder: Backbone that returns final hidden states.
        head: From those to logits.
        prompts: One row each.
        limits: New tokens allowed, a prompt each.
        stop_ids: Any of these ends a row, and is part of it.
        quantiles_BT: Where each token of each prompt's answer lies in its distribution; None for the most likely.
        by_token_pass: Whether the decoder ``takes_token_pass``, and trees.
        num_lanes: How many threads may then read prompts at the same time.

    Raises:
        ValueError: A limit leaves no room for an answer.
    """
    if min(limits) < 1:
        raise ValueError("an answer has one token at least")
    device = head.weight_VH.device
    quantiles_BT = None if quantiles_BT is None else quantiles_BT.to(device)
    said: list[list[int]] = [[] for _ in prompts]
    rows, rows_B = list(range(len(prompts))), torch.arange(len(prompts), device=device)
    unseen: list[Tensor] = []
    # No row goes on beyond its limit, where there may be no position for it.
    place, look = 0, min([_look_tokens(device), *limits])
    last_BH, reader = _read_prompts(decoder, head, prompts, max(limits), num_lanes if by_token_pass else None)
    logits_BV = head.logits(last_BH)
    while True:
        next_B = choose(logits_BV, None if quantiles_BT is None else quantiles_BT[rows_B, place])
        unseen.append(next_B)
        place += 1
        if place == look:
            for row, tokens in zip(rows, torch.stack(unseen, -1).tolist(), strict=True):
                end = next((index for index, token in enumerate(tokens, 1) if token in stop_ids), len(tokens))
                said[row] += tokens[:end]
            unseen.clear()
            going = [index for index, row in enumerate(rows) if said[row][-1] not in stop_ids and place < limits[row]]
            if not going:
                break
            if len(going) < len(rows):
                kept = torch.tensor(going, device=device)
                rows, rows_B, next_B = [rows[index] for index in going], rows_B[kept], next_B[kept]
                reader.keep(kept)
            look = min([place + _look_tokens(device), *(limits[row] for row in rows)])
        logits_BV = reader.read(next_B)
    return [Rollout(prompt, ids, stopped=ids[-1] in stop_ids) for prompt, ids in zip(prompts, said, strict=True)]


def _read_prompts(
    decoder: Any, head: Head, prompts: Sequence[list[int]], room: int, num_lanes: int | None
) -> tuple[Tensor, TokenPass | _CachedRows]:
    """Hidden states [B, H] at each prompt's end, and what reads on from there: by token pass if it has lanes."""
    if num_lanes is not None and max(map(len, prompts)) <= TREE_TOKENS:
        last_BH, caches, masks, slots_B = _read_trees(decoder, prompts, min(num_lanes, torch.get_num_threads()))
        return last_BH, TokenPass(decoder, head, caches, masks, slots_B, room=room)
    last_BH, cache, mask_BL = _read_rows(decoder, prompts, head.weight_VH.device)
    if num_lanes is None:
        return last_BH, _CachedRows(decoder, head, cache, mask_BL)
    return last_BH, TokenPass(decoder, head, [cache], [mask_BL], torch.arange(len(prompts)), room=room)


def _read_rows(decoder: Any, prompts: Sequence[list[int]], device: torch.device) -> tuple[Tensor, DynamicCache, Tensor]:
    """Hidden states [B, H] at each prompt's end, the cache of all and its mask [B, L].

    What all begin with is read once, and so is a prompt that comes several times.
    """
    different = list({tuple(prompt): prompt for prompt in prompts}.values())
    prefix = [] if slides(decoder) else shared_prefix(different)
    cache = open_cache(decoder, prefix, len(different), device)
    ids_BL, mask_BL = _pad_left([prompt[len(prefix) :] for prompt in different], device)
    mask_BL = nn.functional.pad(mask_BL, (len(prefix), 0), value=1)
    last_BH = decoder(
        input_ids=ids_BL,
        attention_mask=mask_BL,
        position_ids=(mask_BL.cumsum(-1) - 1).clamp_(min=0)[:, len(prefix) :],
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[:, -1]
    if len(different) < len(prompts):
        places_B = torch.tensor([different.index(prompt) for prompt in prompts], device=device)
        last_BH, mask_BL = last_BH[places_B], mask_BL[places_B]
        cache.reorder_cache(places_B)  # type: ignore[arg-type]
    return last_BH, cache, mask_BL


def _read_trees(
    decoder: Any, prompts: Sequence[list[int]], num_lanes: int
) -> tuple[Tensor, Sequence[DynamicCache], Sequence[Tensor], Tensor]:
    """Hidden states [B, H] at each prompt's end; trees, what of them leads to an end, where each row is in these."""
    runs = alike(prompts, max(num_lanes, sum(map(len, prompts)) // TREE_TOKENS))

    @torch.no_grad()
    def read(run: list[int]) -> tuple[Tensor, DynamicCache, Tensor]:
        batch = make_tree([prompts[row] for row in run], [[0]] * len(run), [0] * len(run))
        sees_LL: Any = batch.sees_LL
        cache = DynamicCache(config=decoder.config)
        hidden_LH = decoder(
            input_ids=batch.ids_BL,
            attention_mask=sees_LL[None, None],
            position_ids=batch.positions_BL,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[0]
        return hidden_LH[batch.rows_T], cache, sees_LL[batch.rows_T]

    ends, caches, seen = zip(*side_by_side(read, runs, num_lanes), strict=True)
    slots_B = torch.tensor([row for run in runs for row in run]).argsort()
    return torch.cat(ends)[slots_B], caches, seen, slots_B


def _look_tokens(device: torch.device) -> int:
    return 1 if device.type == "cpu" else LOOK_TOKENS


def _pad_left(prompts: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    length = max(len(prompt) for prompt in prompts)
    ids = [[0] * (length - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
