"""A policy of twelve tokens: a table of bigrams that also repeats what it has seen in its prompt.
The repeating makes it a teacher: a demonstration in the prompt becomes likely. It is not trained; the table is.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worker.sdft.loss import Head
from worker.sdft.policy import Arm, Rollout, TokenBatch

END, USER, ASSISTANT = 0, 1, 2
LETTERS = "abcdefghi"
NUM_TOKENS = 3 + len(LETTERS)
REPEAT = 14.0
"""Added to the logit of a token that has followed the present one in the prompt."""


class Bigrams:
    """A policy; ``student`` moves, ``base`` and ``parent`` stay, a ``teacher`` may follow."""

    def __init__(self, *, seed: int = 0, parent: Tensor | None = None) -> None:
        self.base = torch.randn(NUM_TOKENS, NUM_TOKENS, generator=torch.Generator().manual_seed(seed)) * 2.5
        self.base[:, [USER, ASSISTANT]] = -30.0  # never said
        self.student = nn.Parameter(torch.zeros_like(self.base) if parent is None else parent.clone())
        self.parent = parent
        self.teacher: nn.Parameter | None = None
        self.context_tokens, self.vocab_size, self.device = 64, NUM_TOKENS, torch.device("cpu")
        self.head = Head(torch.eye(NUM_TOKENS))
        self.remembers_prompts = self.reads_trees = True
        self.num_lanes = 1
        self.repeat = REPEAT
        self.asked: list[list[int]] = []

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        ids = []
        for message in messages:
            turn = self._letters(message["content"])
            ids += [ASSISTANT, *turn, END] if message["role"] == "assistant" else [USER, *turn]
        return [*ids, ASSISTANT]

    def encode_completion(self, text: str) -> list[int]:
        return [*self._letters(text), END]

    def user_turn(self) -> tuple[list[int], int | None]:
        return [USER], END

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(LETTERS[token - 3] for token in ids if token >= 3)

    def sample(
        self, prompts: list[list[int]], max_new_tokens: int, *, generator: torch.Generator, arm: Arm = "student"
    ) -> list[Rollout]:
        self.asked += prompts
        return [
            self._speak(prompt, max_new_tokens, arm, lambda p: int(torch.multinomial(p, 1, generator=generator)))
            for prompt in prompts
        ]

    def greedy(self, prompts: list[list[int]], max_new_tokens: int | list[int], *, arm: Arm) -> list[Rollout]:
        assert isinstance(max_new_tokens, int)
        return [self._speak(prompt, max_new_tokens, arm, lambda p: int(p.argmax())) for prompt in prompts]

    @torch.no_grad()
    def nll(self, prompts: list[list[int]], completions: list[list[int]], *, arm: Arm) -> list[float]:
        return [
            -sum(
                float(self._logits(prompt + said[:place], arm).log_softmax(-1)[token])
                for place, token in enumerate(said)
            ) / len(said)
            for prompt, said in zip(prompts, completions, strict=True)
        ]  # fmt: skip

    def hidden(self, batch: TokenBatch, *, arm: Arm) -> Tensor:
        length = batch.ids_BL.shape[1]
        assert arm == "parent" or not batch.whole_prompts, "only the parent remembers"
        rows = []
        for place in batch.rows_T.tolist():
            row, column = divmod(place, length)
            assert batch.mask_BL[row, column]
            seen = slice(column + 1) if batch.sees_LL is None else batch.sees_LL[column]
            rows.append(self._logits([*batch.prefixes[row], *batch.ids_BL[row, seen].tolist()], arm))
        return torch.stack(rows)

    def parameters(self) -> dict[str, nn.Parameter]:
        return {"table": self.student}

    def add_teacher(self) -> None:
        self.teacher = nn.Parameter(self.student.detach().clone(), requires_grad=False)

    def teacher_parameters(self) -> dict[str, nn.Parameter]:
        return {} if self.teacher is None else {"table": self.teacher}

    @torch.no_grad()
    def load_student(self, tensors: Mapping[str, Tensor]) -> None:
        self.student.copy_(tensors["table"])

    def save_adapter(self, folder: Path, *, base_name: str, base_revision: str) -> None:
        raise NotImplementedError

    def _logits(self, context: list[int], arm: Arm) -> Tensor:
        seen = torch.zeros(NUM_TOKENS)
        for one, following in pairwise(context[: len(context) - [*context[::-1], ASSISTANT].index(ASSISTANT)]):
            if one == context[-1]:
                seen[following] = self.repeat
        delta = {"student": self.student, "teacher": self.teacher, "parent": self.parent, "base": None}[arm]
        table = self.base if delta is None else self.base + delta
        return table[context[-1]] + seen

    @torch.no_grad()
    def _speak(self, prompt: list[int], limit: int, arm: Arm, choose: Any) -> Rollout:
        ids: list[int] = []
        while len(ids) < limit and ids[-1:] != [END]:
            ids.append(choose(self._logits(prompt + ids, arm).softmax(-1)))
        return Rollout(prompt, ids, stopped=ids[-1] == END)

    def _letters(self, text: str) -> list[int]:
        return [LETTERS.index(letter) + 3 for letter in text if letter in LETTERS]
