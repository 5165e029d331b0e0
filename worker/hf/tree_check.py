"""Whether a base takes sequences that lie in one row as a tree: asked of the base itself, not of its name."""

from typing import Any

import torch

from worker.hf.prompt_memory import slides
from worker.sdft.tree import make_tree

_PROMPTS, _COMPLETIONS = [[1, 2, 3], [1, 2, 3]], [[4, 5, 6], [5, 4, 7, 6]]


@torch.no_grad()
def reads_trees(backbone: Any, device: torch.device) -> bool:
    """Compare a tree of two short sequences with each of them alone.

    A mask over pairs of tokens is an offer of most architectures, not of all: some make positions from the mask, some
    add it as it is, and one whose layers see a window only would need a mask for those.
    """
    if slides(backbone):
        return False
    batch = make_tree(_PROMPTS, _COMPLETIONS, [0] * len(_PROMPTS)).to(device)
    alone = []
    for prompt, completion in zip(_PROMPTS, _COMPLETIONS, strict=True):
        ids_1L = torch.tensor([prompt + completion[:-1]], device=device)
        alone.append(backbone(input_ids=ids_1L, use_cache=False).last_hidden_state[0, len(prompt) - 1 :])
    expected_TH = torch.cat(alone)
    try:
        together_LH = backbone(
            input_ids=batch.ids_BL,
            attention_mask=None if batch.sees_LL is None else batch.sees_LL[None, None],
            position_ids=batch.positions_BL,
            use_cache=False,
        ).last_hidden_state[0]
    except (ValueError, RuntimeError, TypeError, IndexError):
        return False
    differs = (together_LH[batch.rows_T] - expected_TH).float().norm() / expected_TH.float().norm()
    return bool(differs < (1e-3 if expected_TH.dtype == torch.float32 else 3e-2))
