"""Prompts that a policy makes up itself: rehearsal in its own distribution, without anyone's data."""

from itertools import takewhile

import torch

from worker.sdft.policy import Policy

NUM_OWN_PROMPTS = 128
MAX_PROMPT_TOKENS = 64
"""One that goes on for longer is cut here; no answer to it is cut."""


def own_prompts(policy: Policy, *, seed: int) -> list[str]:
    """What the student, as it is now, says when it is given the user's turn of an empty conversation.

    Args:
        policy: Sampled at temperature 1.
        seed: The same one gives the same prompts.
    """
    opening, end = policy.user_turn()
    generator = torch.Generator().manual_seed(seed)
    rollouts = policy.sample([opening] * NUM_OWN_PROMPTS, MAX_PROMPT_TOKENS, generator=generator)
    turns = ([*takewhile(lambda token: token != end, rollout.ids)] for rollout in rollouts)
    texts = dict.fromkeys(policy.decode(ids).strip() for ids in turns)
    return [text for text in texts if text]
