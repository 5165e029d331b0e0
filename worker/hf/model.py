"""A transformers causal LM as a policy: what each arm says, and what it makes of what is said.

Alone knows device and dtype.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor

from worker.hf.adapted import WEIGHTS_NAME, AdaptedModel, copy_factors, lora_of, new_lora
from worker.hf.base import Base
from worker.hf.chat import Chat
from worker.hf.generation import decode
from worker.hf.prompt_memory import Layers, PromptMemory, keeps_state, open_cache, slides
from worker.hf.token_pass import takes_token_pass
from worker.hf.tree_check import reads_trees
from worker.sdft.align import Aligned, buckets
from worker.sdft.loss import CHUNK_ELEMENTS, Positions, cross_entropy, distil
from worker.sdft.policy import Arm, Rollout, TokenBatch
from worker.sdft.side_by_side import cut, side_by_side
from worker.sdft.teacher import freeze
from worker.sdft.tree import alike, batches

SCORE_TOKENS = 4096
DECODE_TOKENS_ON_DEVICE = 32768
"""Padded tokens of a batch without gradients, new tokens included: on a CPU, and for decoding on an accelerator, where
a step takes as long for many rows as for few."""
MAX_DECODE_LANES = 4
"""Batches that are decoded at the same time, which share the tokens above: a batch of few rows wastes its pass over the
weights."""
DECODE_PADDING = 0.5
"""Decoding pays for padding only once, in the first pass, and for a batch of its own at every token."""


class HfPolicy(AdaptedModel):
    """One base and its adapters, asked and read. Made by ``on``.

    Attributes:
        context_tokens: Longest sequence the base takes.
        stop_ids: Any of these ends an answer.
        thinks: Whether the base's template has answers begin with thoughts.
        told_not_to_think: Whether the base could think, and is asked not to.
        on_work: Called after each batch that was decoded or read, by any thread.
    """

    def __init__(self, model: Any, chat: Chat, lora: LoraConfig, *, parent: LoraConfig | None) -> None:
        super().__init__(model, lora, parent)
        self.context_tokens: int = model.config.get_text_config().max_position_embeddings
        self.stop_ids, self.thinks = chat.stop_ids, chat.thinks
        self.told_not_to_think = chat.told_not_to_think
        self.on_work: Callable[[], None] = lambda: None
        self.encode_chat, self.encode_completion, self.decode = chat.encode_chat, chat.encode_completion, chat.decode
        self.user_turn, self.prompt_text, self.encode_text = chat.user_turn, chat.prompt_text, chat.encode_text
        still = self._plain and not _moves_rope(model.config.to_dict())
        self.num_lanes = torch.get_num_threads() if still and self.device.type == "cpu" else 1
        self.remembers_prompts = not slides(self._backbone)
        self._keeps_state = keeps_state(self._backbone)
        self._memory = PromptMemory(self._backbone, self.device)
        self.reads_trees = reads_trees(self._backbone, self.device)
        with self._weights("base", folded=False):
            self._by_token_pass = self.reads_trees and still and takes_token_pass(self._backbone, self.head)

    @classmethod
    def on(cls, base: Base, *, lora_rank: int, lora_alpha: int, parent: Path | None, seed: int) -> Self:
        """Start an adapter on a base, which stays as it is.

        Args:
            base: May have served other policies before.
            lora_rank: Of a new adapter.
            lora_alpha: Of a new adapter.
            parent: PEFT folder to go on from; its rank and alpha then hold.
            seed: Of a new adapter's weights.

        Raises:
            ValueError: The base does more to its logits than ``Head`` can.
        """
        lora = new_lora(lora_rank, lora_alpha) if parent is None else lora_of(parent)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            policy = cls(base.fresh_model(), base.chat, lora, parent=lora if parent else None)
        if parent is not None:
            policy.load_student(load_file(parent / WEIGHTS_NAME))
            freeze(policy.parameters(), policy.parent_parameters())
        return policy

    @classmethod
    def published(cls, base: Base, version: Path, *, parent: Path | None) -> Self:
        """A version as it was published, to be asked and not trained.

        Args:
            base: May have served other policies before.
            version: PEFT folder of the student.
            parent: PEFT folder of the arm beside it, which may have another rank.

        Raises:
            ValueError: A folder is not over this base.
        """
        policy = cls(base.fresh_model(), base.chat, lora_of(version), parent=lora_of(parent) if parent else None)
        copy_factors(load_file(version / WEIGHTS_NAME), policy.parameters())
        if parent is not None:
            copy_factors(load_file(parent / WEIGHTS_NAME), policy.parent_parameters())
        return policy

    def rest(self) -> None:
        """Give back what can be made again: remembered prompts and folded weights."""
        self._memory.forget()
        if self._folded:
            self._folded.forget()

    def hidden(self, batch: TokenBatch, *, arm: Arm) -> Tensor:
        """Final hidden states at the loss positions, [T, H].

        Raises:
            ValueError: Whole prompts were given for weights that move.
        """
        batch = batch.to(self.device)
        if batch.whole_prompts and arm != "parent":
            raise ValueError("only what unchanging weights make of a prompt can be remembered")
        with self._weights(arm, folded=arm in {"student", "twin"}) as backbone:
            if batch.sees_LL is not None or (torch.is_grad_enabled() and not batch.whole_prompts):
                return self._read(backbone, batch)
            known = self._memory.read(batch.prefixes, num_lanes=self.num_lanes) if batch.whole_prompts else None
            shared = [0 if batch.whole_prompts else len(prefix) for prefix in batch.prefixes]
            runs = cut([batch.ids_BL.shape[1]] * len(shared), shared, self.num_lanes)
            parts = [(batch.part(run), known and known[run]) for run in runs]
            read = torch.no_grad()(lambda part: self._read(backbone, *part))
            return torch.cat(side_by_side(read, parts, self.num_lanes))

    def _read(self, backbone: Any, batch: TokenBatch, prompts: list[Layers] | None = None) -> Tensor:
        """Hidden states at the loss positions, [T, H], of a batch in one pass.

        Args:
            backbone: With an arm's weights.
            batch: Rows, or a tree.
            prompts: What the weights have made of each row's prefix; without it all begin alike.
        """
        cache, mask = None, batch.mask_BL
        if batch.sees_LL is not None:
            mask = batch.sees_LL[None, None]
        elif any(batch.prefixes) and self._keeps_state:
            batch = batch.whole()
            mask = batch.mask_BL
        elif any(batch.prefixes):
            if prompts is None:
                cache = open_cache(backbone, batch.prefixes[0], len(batch.prefixes), self.device)
                seen_BP = mask.new_ones(len(batch.prefixes), len(batch.prefixes[0]))
            else:
                cache, seen_BP = self._memory.open(prompts)
            mask = torch.cat([seen_BP, mask], dim=-1)
        hidden_BLH = backbone(
            input_ids=batch.ids_BL,
            attention_mask=mask,
            position_ids=batch.positions_BL,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        hidden_TH: Tensor = hidden_BLH.flatten(0, 1)[batch.rows_T]
        self.on_work()
        return hidden_TH

    def sample(
        self, prompts: list[list[int]], max_new_tokens: int, *, generator: torch.Generator, arm: Arm = "student"
    ) -> list[Rollout]:
        """One rollout of an arm a prompt, temperature 1, nothing cut off.

        What is drawn belongs to a prompt and a place in its answer, whatever is decoded with it.
        """
        quantiles_BT = torch.rand(len(prompts), max_new_tokens, generator=generator)
        return self._decode(prompts, [max_new_tokens] * len(prompts), arm, quantiles_BT, None)

    def greedy(
        self, prompts: list[list[int]], max_new_tokens: int | list[int], *, arm: Arm,
        on_batch: Callable[[int], None] | None = None,
    ) -> list[Rollout]:  # fmt: skip
        """The most likely continuation, token by token.

        Args:
            prompts: In any order; answers come back in the same.
            max_new_tokens: One limit, or one a prompt.
            arm: Whose.
            on_batch: Told after each batch how many prompts are done.
        """
        limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
        return self._decode(prompts, limits, arm, None, on_batch)

    def nll(self, prompts: list[list[int]], completions: list[list[int]], *, arm: Arm) -> list[float]:
        """Mean negative log-likelihood per completion token, one number a pair."""
        return [known.loss_T.mean().item() for known in self._known(prompts, completions, arm=arm)]

    def likelihoods(
        self, prompts: list[list[int]], completions: list[list[int]], *, arm: Arm
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of a whole completion, and whether each of its tokens is the likeliest; a pair each."""
        return [
            (-known.loss_T.sum().item(), bool(known.agreement_T.all()))
            for known in self._known(prompts, completions, arm=arm)
        ]

    def entropy(self, prompts: list[list[int]], completions: list[list[int]], *, arm: Arm) -> list[float]:
        """Mean entropy of the next token along a completion, in nats, one number a pair."""
        return [known.student_entropy_T.mean().item() for known in self._known(prompts, completions, arm=arm)]

    def divergence(
        self, prompts: list[list[int]], completions: list[list[int]], *, p: Arm, q: Arm
    ) -> list[tuple[float, float, float]]:
        """Means over completion positions of KL(p || q), KL(q || p) and the overlap of their ten likeliest tokens.

        Divergences are over the full vocabulary. Three numbers a pair.
        """
        of_p = self._along(prompts, completions, arm=p, measure=lambda hidden_TH, *_: hidden_TH)

        def both(q_TH: Tensor, _targets_T: Tensor, places: list[int], chunk_elements: int) -> Tensor:
            p_TH = torch.cat([of_p[place] for place in places])
            there = distil(q_TH, p_TH, self.head, _ones(q_TH), chunk_elements=chunk_elements)[1]
            back = distil(p_TH, q_TH, self.head, _ones(q_TH), chunk_elements=chunk_elements)[1]
            return torch.stack([there.loss_T, back.loss_T, there.overlap_T], dim=-1)

        means = [along_T3.mean(0).tolist() for along_T3 in self._along(prompts, completions, arm=q, measure=both)]
        return [(there, back, overlap) for there, back, overlap in means]

    def _known(self, prompts: list[list[int]], completions: list[list[int]], *, arm: Arm) -> list[Positions]:
        """What an arm makes of each completion's tokens."""

        def measure(hidden_TH: Tensor, targets_T: Tensor, _places: list[int], chunk_elements: int) -> Tensor:
            known = cross_entropy(hidden_TH, targets_T, self.head, _ones(hidden_TH), chunk_elements=chunk_elements)[1]
            return torch.stack(list(vars(known).values()), dim=-1)

        return [Positions(*along_TN.T) for along_TN in self._along(prompts, completions, arm=arm, measure=measure)]

    @torch.no_grad()
    def _along(
        self, prompts: list[list[int]], completions: list[list[int]], *, arm: Arm,
        measure: Callable[[Tensor, Tensor, list[int], int], Tensor],
    ) -> list[Tensor]:  # fmt: skip
        """``measure`` at each completion's positions, [T, ...] a pair.

        What pairs begin with alike, such as a question that several answers are weighed for, is read once where the
        base reads trees; not on an accelerator, which a few long rows keep busier.

        Args:
            prompts: One a pair.
            completions: Likewise.
            arm: Who reads them.
            measure: Of hidden states [T, H], the tokens that follow [T], the pairs they are of, and how many logits may
                exist. Asked by several threads.
        """
        pairs = [Aligned(prompt, prompt, said) for prompt, said in zip(prompts, completions, strict=True)]
        lanes = alike([one.prompt + one.completion for one in pairs], self.num_lanes)
        along: dict[int, Tensor] = {}
        with self._weights(arm, folded=arm in {"student", "twin"}) as backbone:

            @torch.no_grad()
            def read(lane: list[int]) -> None:
                chosen = [pairs[place] for place in lane]
                trees = self.reads_trees and self.device.type == "cpu"
                asked = [one.prompt for one in chosen]
                for group, batch in batches(asked, chosen, SCORE_TOKENS // len(lanes), trees=trees):
                    places, on_device = [lane[index] for index in group], batch.to(self.device)
                    hidden_TH = self._read(backbone, on_device)
                    found = measure(hidden_TH, on_device.targets_T, places, CHUNK_ELEMENTS // len(lanes))
                    along.update(zip(places, found.split(batch.num_rows), strict=True))

            side_by_side(read, lanes, self.num_lanes)
        return [along[place] for place in range(len(pairs))]

    def _decode(
        self, prompts: list[list[int]], limits: list[int], arm: Arm, quantiles_BT: Tensor | None,
        on_batch: Callable[[int], None] | None,
    ) -> list[Rollout]:  # fmt: skip
        lengths = [len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True)]
        if max(lengths, default=0) > self.context_tokens:
            raise ValueError(f"a prompt and its answer need {max(lengths)} tokens, more than {self.context_tokens}")
        num_lanes = min(self.num_lanes, MAX_DECODE_LANES)
        max_tokens = SCORE_TOKENS // num_lanes if self.device.type == "cpu" else DECODE_TOKENS_ON_DEVICE
        groups = buckets(lengths, max_tokens, max_padding=DECODE_PADDING)
        answers: dict[int, Rollout] = {}
        telling = threading.Lock()
        with self._weights(arm, folded=True) as decoder:

            def answer(group: list[int]) -> None:
                batch = decode(
                    decoder,
                    self.head,
                    [prompts[index] for index in group],
                    limits=[limits[index] for index in group],
                    stop_ids=self.stop_ids,
                    quantiles_BT=None if quantiles_BT is None else quantiles_BT[group],
                    by_token_pass=self._by_token_pass,
                    num_lanes=self.num_lanes,
                )
                with telling:
                    answers.update(zip(group, batch, strict=True))
                    if on_batch:
                        on_batch(len(answers))
                self.on_work()

            side_by_side(answer, groups, num_lanes)
        return [answers[index] for index in range(len(prompts))]


def _moves_rope(config: Any) -> bool:
    """Whether the length of a sequence changes what the modules hold, for whatever passes through them meanwhile."""
    if isinstance(config, dict):
        return config.get("rope_type") in {"dynamic", "longrope"} or any(map(_moves_rope, config.values()))
    return False


def _ones(hidden_TH: Tensor) -> Tensor:
    return torch.ones(len(hidden_TH), device=hidden_TH.device)
