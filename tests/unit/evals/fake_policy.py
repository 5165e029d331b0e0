"""A policy whose answers a test writes down: characters are its tokens, 0 ends a turn."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from worker.sdft.policy import Arm, Rollout

Speak = Callable[[Arm, str], str]
"""From an arm and the whole conversation, turns joined by newlines, to what is said."""

END = 0


class FakePolicy:
    """Answers as told; a demonstration is likely to an arm that would give it, and divergence is disagreement."""

    def __init__(self, speak: Speak, *, context_tokens: int = 10_000) -> None:
        self.context_tokens = context_tokens
        self.speak = speak
        self.asked: list[tuple[Arm, str]] = []

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        return [ord(letter) for letter in "\n".join(message["content"] for message in messages)]

    def encode_completion(self, text: str) -> list[int]:
        return [*(ord(letter) for letter in text), END]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(token) for token in ids if token != END)

    def greedy(
        self, prompts: list[list[int]], max_new_tokens: list[int], *, arm: Arm, on_batch: Callable[[int], None]
    ) -> list[Rollout]:
        rollouts = []
        for prompt, limit in zip(prompts, max_new_tokens, strict=True):
            self.asked.append((arm, self.decode(prompt)))
            ids = self.encode_completion(self.speak(arm, self.decode(prompt)))
            rollouts.append(Rollout(prompt, ids[:limit], stopped=len(ids) <= limit))
        on_batch(len(prompts))
        return rollouts

    def nll(self, prompts: list[list[int]], completions: list[list[int]], *, arm: Arm) -> list[float]:
        return [
            0.1 if self.speak(arm, self.decode(prompt)) == self.decode(completion) else 2.0
            for prompt, completion in zip(prompts, completions, strict=True)
        ]

    def divergence(
        self, prompts: list[list[int]], completions: list[list[int]], *, p: Arm, q: Arm
    ) -> list[tuple[float, float, float]]:
        texts = [self.decode(prompt) for prompt, _ in zip(prompts, completions, strict=True)]
        differ = [self.speak(p, text) != self.speak(q, text) for text in texts]
        return [(1.0 * changed, 2.0 * changed, 1.0 - 0.5 * changed) for changed in differ]

    def entropy(self, prompts: list[list[int]], completions: list[list[int]], *, arm: Arm) -> list[float]:
        """Little along what the arm itself would say."""
        return [
            0.5 if self.speak(arm, self.decode(prompt)) == self.decode(completion) else 4.0
            for prompt, completion in zip(prompts, completions, strict=True)
        ]

    def weight_norms(self, *, arm: Arm) -> dict[str, tuple[float, float]]:
        return {"q_proj": (len(arm), 14.0)}
