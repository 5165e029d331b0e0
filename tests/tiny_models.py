"""Tiny random models of real architectures, in folders as a registry would hold them.

Weights are large enough for peaked distributions, so that sampling, greedy choice and the entropy guard mean something.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|tool|>", "<|stop|>"]
END, STOP = 0, 5
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "initializer_range": 0.7,
    "eos_token_id": END, "pad_token_id": END, "bos_token_id": END,
}  # fmt: skip
FAMILIES = {
    "llama": lambda size: LlamaConfig(vocab_size=size, tie_word_embeddings=True, **_SHAPE),
    "qwen3": lambda size: Qwen3Config(vocab_size=size, tie_word_embeddings=False, **_SHAPE),
    "gemma3": lambda size: Gemma3TextConfig(
        vocab_size=size, sliding_window=16, query_pre_attn_scalar=8, final_logit_softcapping=20.0,
        tie_word_embeddings=False,
        layer_types=["sliding_attention", "full_attention"], **_SHAPE,
    ),
    "mistral": lambda size: MistralConfig(vocab_size=size, sliding_window=16, **_SHAPE),
    "lfm2": lambda size: Lfm2Config(  # its convolutions keep a state instead of keys and values
        vocab_size=size, layer_types=["full_attention", "conv"], tie_word_embeddings=False, **_SHAPE,
    ),
}  # fmt: skip

MIXTURE = "mixtral"
"""Experts are one tensor for all, which PEFT adapts in a way of its own; few tokens do not reach all of them."""


def _config(family: str, size: int) -> PreTrainedConfig:
    if family == MIXTURE:
        return MixtralConfig(vocab_size=size, num_local_experts=8, num_experts_per_tok=1, **_SHAPE)
    return FAMILIES[family](size)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and six special tokens before them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>", chat_template=TEMPLATE
    )


def save_tiny(family: str, folder: Path) -> Path:
    """Write a tiny base of a family; end and padding are one id, and the generation config knows a second stop id."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_config(family, len(tokenizer)))
    model.generation_config.eos_token_id = [END, STOP]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
