"""Conversations and answers as token ids, exactly as a base's own chat template writes them."""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final, Self

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

TODAY: Final = date(2026, 1, 1)
"""What templates are told that print the date of today: a job that goes on tomorrow has to read the same prompts."""
_CODES = ["-d", "-m", "-H", "-I", *"aAbBcdDeFHIjmMpSTxXyY"]
_DATES = "".join(f" | replace('%{code}', '{TODAY.strftime('%' + code)}')" for code in _CODES)
_STRFTIME_NOW = f"{{%- macro strftime_now(format) %}}{{{{ format{_DATES} }}}}{{%- endmacro %}}\n"
"""Ours before transformers' own, whose place no argument can take. The new line, which is trimmed behind a block,
leaves what a template begins with as it is."""
_MARK = "MARK-d0c5"


def render(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **how: bool) -> str:
    """A conversation as text, by the base's own template.

    The same on every day, and where a template lets thoughts be left out, as Qwen3's does, without any: an answer that
    is a demonstration begins at once.
    """
    template = tokenizer.get_chat_template()
    text: str = tokenizer.apply_chat_template(
        [dict(message) for message in messages],
        chat_template=f"{_STRFTIME_NOW}{template}" if "strftime_now" in template else template,
        tokenize=False,
        enable_thinking=False,
        **how,
    )
    return text


class Chat:
    """A tokenizer with a chat template.

    Args:
        tokenizer: Of the base.
        stop_ids: From the base's generation config; the id that ends a turn in the template is added.

    Attributes:
        stop_ids: Any of these ends an answer.
        thinks: Whether the template has each answer begin with a thought, as that of DeepSeek-R1 has.
        told_not_to_think: Whether it can be asked not to, as that of Qwen3 can, and is.

    Raises:
        ValueError: The template is missing, or closes a turn with no token that could end a rollout.
    """

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int]) -> None:
        if tokenizer.chat_template is None:
            raise ValueError("the base model has no chat template; choose an instruction-tuned model")
        self._tokenizer = tokenizer
        asked = self._render([{"role": "user", "content": "x"}], open_turn=True)
        answered = self._render(
            [{"role": "user", "content": "x"}, {"role": "assistant", "content": _MARK}], open_turn=False
        )
        self.thinks = asked.rstrip().endswith("<think>")
        self.told_not_to_think = "enable_thinking" in str(tokenizer.chat_template)
        opened, _, closing = answered.partition(_MARK)
        # What a template puts between the opened turn and the text (a space, say) the model must say too.
        self._opening = opened.removeprefix(asked) if opened.startswith(asked) else ""
        self._said_first = str(tokenizer.decode(self._ids(self._opening), skip_special_tokens=True))
        closing_ids = self._ids(closing)
        known = {*stop_ids, *(index for index, token in tokenizer.added_tokens_decoder.items() if token.special)}
        end = next((place for place, token in enumerate(closing_ids) if token in known), None)
        if end is None:
            raise ValueError(f"the base model's chat template closes a turn with {closing!r}, which is no end token")
        self._special_ids = known
        self._closing_ids = closing_ids[: end + 1]
        self.stop_ids = frozenset([*stop_ids, closing_ids[end]])

    @classmethod
    def load(cls, base_folder: Path) -> Self:
        """Of a base's folder, without its weights."""
        tokenizer = AutoTokenizer.from_pretrained(base_folder, local_files_only=True)
        # Not every base has a generation config; what it would be made from then is the model's.
        kind = GenerationConfig if (base_folder / "generation_config.json").exists() else AutoConfig
        stop = kind.from_pretrained(base_folder, local_files_only=True).eos_token_id
        return cls(tokenizer, stop if isinstance(stop, list) else [] if stop is None else [stop])

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids up to where the assistant begins to speak."""
        # The template's text holds the special tokens already.
        return self._ids(self._render(messages, open_turn=True))

    def encode_completion(self, text: str) -> list[int]:
        """Ids of an assistant turn with the token that ends it."""
        return self._ids(self._opening + text) + self._closing_ids

    def prompt_text(self, messages: Sequence[Mapping[str, Any]], *, goes_on: bool = False) -> str:
        """A conversation as text, up to where the assistant begins to speak, or goes on with its last turn."""
        return render(self._tokenizer, messages, add_generation_prompt=not goes_on, continue_final_message=goes_on)

    def encode_text(self, text: str) -> list[int]:
        """Ids of a text in which special tokens are written out."""
        return self._ids(text)

    def user_turn(self) -> tuple[list[int], int | None]:
        """Ids of an empty conversation up to where the user begins to speak, and the id that ends such a turn."""
        opening, _, closing = self._render([{"role": "user", "content": _MARK}], open_turn=False).partition(_MARK)
        end = next((token for token in self._ids(closing) if token in self._special_ids), None)
        return self._ids(opening), end

    def decode(self, ids: Sequence[int]) -> str:
        """An answer's text, without special tokens and what the template has every answer begin with."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text.removeprefix(self._said_first)

    def _render(self, messages: Sequence[Mapping[str, Any]], *, open_turn: bool) -> str:
        return render(self._tokenizer, messages, add_generation_prompt=open_turn)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
