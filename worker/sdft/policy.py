"""What the algorithm needs of a language model, and the values that pass between the two.

Knows nothing of tokenizers, adapters or devices: a table of bigrams is a policy too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from worker.sdft.loss import Head

Arm = Literal["base", "parent", "teacher", "student", "twin"]
"""Which weights answer: the frozen base, the point the job starts from, a teacher that moves, the adapter in training,
or another one that was trained beside it. A job that continues nothing starts from the base: its ``parent`` is the
base."""


@dataclass(frozen=True)
class Rollout:
    """What a policy said to a prompt.

    Args:
        prompt: Token ids of the context.
        ids: Token ids said, the stop id included. These travel to the loss as they are; text is never tokenised again.
        stopped: Whether a stop id ended it, rather than the length limit.
        sampled: Whether the policy said it now; else it was known before.
    """

    prompt: list[int]
    ids: list[int]
    stopped: bool
    sampled: bool = True


@dataclass(frozen=True)
class TokenBatch:
    """Sequences in two parts: what they begin with, and the rest, right-padded with explicit mask and positions.

    A pad id may be a stop id, so ids tell nothing of padding.

    Args:
        prefixes: What each sequence begins with: the same for all, or each its own prompt. B, L and the rows below are
            of what follows it.
        ids_BL: Token ids.
        mask_BL: 1 on tokens, 0 on padding.
        positions_BL: Position of each token in its sequence.
        rows_T: Where the loss positions' hidden states lie in the flattened [B * L].
        targets_T: The token that each loss position predicts.
        num_rows: Loss positions of each sequence, in order; they sum to T.
        sees_LL: Of sequences that lie in one row as a tree (``worker.sdft.tree``): which token sees which.
        whole_prompts: Whether each prefix is a prompt of its own, to be remembered, rather than what all share.
    """

    prefixes: list[list[int]]
    ids_BL: Tensor
    mask_BL: Tensor
    positions_BL: Tensor
    rows_T: Tensor
    targets_T: Tensor
    num_rows: list[int]
    sees_LL: Tensor | None = None
    whole_prompts: bool = False

    def part(self, rows: slice) -> Self:
        """Some of its sequences, which are rows."""
        ends = list(accumulate(self.num_rows, initial=0))
        positions = slice(ends[rows.start], ends[rows.stop])
        return replace(
            self,
            prefixes=self.prefixes[rows],
            ids_BL=self.ids_BL[rows],
            mask_BL=self.mask_BL[rows],
            positions_BL=self.positions_BL[rows],
            rows_T=self.rows_T[positions] - rows.start * self.ids_BL.shape[1],
            targets_T=self.targets_T[positions],
            num_rows=self.num_rows[rows],
        )

    def whole(self) -> Self:
        """The same with what all begin with in each row, instead of beside them."""
        past, rows_in = len(self.prefixes[0]), self.rows_T // self.ids_BL.shape[1] + 1
        prefix_BP = self.ids_BL.new_tensor(self.prefixes)
        return replace(
            self,
            prefixes=[[] for _ in self.prefixes],
            ids_BL=torch.cat([prefix_BP, self.ids_BL], dim=-1),
            mask_BL=torch.nn.functional.pad(self.mask_BL, (past, 0), value=1),
            positions_BL=torch.arange(past + self.ids_BL.shape[1], device=self.ids_BL.device).expand(
                len(prefix_BP), -1
            ),
            rows_T=self.rows_T + rows_in * past,
        )

    def to(self, device: torch.device) -> Self:
        """The same batch on a device."""
        return replace(
            self,
            ids_BL=self.ids_BL.to(device),
            mask_BL=self.mask_BL.to(device),
            positions_BL=self.positions_BL.to(device),
            rows_T=self.rows_T.to(device),
            targets_T=self.targets_T.to(device),
            sees_LL=None if self.sees_LL is None else self.sees_LL.to(device),
        )


class Policy(Protocol):
    """One network that plays student and teacher.

    Attributes:
        context_tokens: Longest sequence.
        vocab_size: Rows of the head.
        device: Where tensors go.
        head: From hidden states to logits.
        remembers_prompts: Whether ``hidden`` takes batches of whole prompts for the parent, which it then need not read
            twice.
        reads_trees: Whether ``hidden`` takes sequences that lie in one row as a tree.
        num_lanes: How many threads may ask the student at the same time, each with its share of the processor.
    """

    context_tokens: int
    vocab_size: int
    device: torch.device
    head: Head
    remembers_prompts: bool
    reads_trees: bool
    num_lanes: int

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids of a conversation up to where the assistant begins to speak."""

    def encode_completion(self, text: str) -> list[int]:
        """Ids of an assistant turn, its end included."""

    def user_turn(self) -> tuple[list[int], int | None]:
        """Ids of an empty conversation up to where the user begins to speak, and the id that ends such a turn."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""

    def sample(
        self,
        prompts: list[list[int]],
        max_new_tokens: int,
        *,
        generator: torch.Generator,
        arm: Arm = "student",
    ) -> list[Rollout]:
        """One rollout a prompt, from an arm's undistorted distribution."""

    def greedy(self, prompts: list[list[int]], max_new_tokens: int | list[int], *, arm: Arm) -> list[Rollout]:
        """The most likely next token, again and again."""

    def nll(self, prompts: list[list[int]], completions: list[list[int]], *, arm: Arm) -> list[float]:
        """Mean negative log-likelihood of a completion's tokens, one number a pair."""

    def hidden(self, batch: TokenBatch, *, arm: Arm) -> Tensor:
        """Final hidden states at the loss positions, [T, H]; with a graph unless the caller turned gradients off."""

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What training moves, by the names that the adapter file gives them."""

    def add_teacher(self) -> None:
        """Give the arm ``teacher`` weights of its own, at first the student's."""

    def teacher_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Those weights by the same names; empty before."""

    def load_student(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the values of ``parameters``."""

    def save_adapter(self, folder: Path, *, base_name: str, base_revision: str) -> None:
        """Write the student as a PEFT folder."""
