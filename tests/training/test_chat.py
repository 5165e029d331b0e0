"""Token ids of conversations and answers, exactly as a template writes them."""

import pytest

from tests.tiny_models import END, SPECIAL, TEMPLATE, make_tokenizer
from worker.hf.chat import Chat

QUESTION = [{"role": "user", "content": "Hi {x}."}]


def make_chat(template=TEMPLATE, stop_ids=(END,)):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return Chat(tokenizer, stop_ids), tokenizer


def test_prompt_and_answer_join_to_what_the_template_writes_up_to_the_end_token():
    chat, tokenizer = make_chat()
    whole = tokenizer.apply_chat_template([*QUESTION, {"role": "assistant", "content": "A b."}], tokenize=False)
    ids = tokenizer(whole.removesuffix("\n"), add_special_tokens=False)["input_ids"]
    assert chat.encode_chat(QUESTION) + chat.encode_completion("A b.") == ids
    assert chat.decode(chat.encode_completion("A b.")) == "A b."


def test_what_a_template_puts_before_the_text_is_part_of_the_answer():
    """Mistral's space, Qwen's empty thought: the model has to say it itself."""
    template = TEMPLATE.replace("{{ message.content }}", " {{ message.content }}")
    chat, _ = make_chat(template)
    assert chat.decode(chat.encode_completion("A")) == " A"


def test_the_token_that_closes_a_turn_ends_rollouts_even_if_the_generation_config_forgot_it():
    chat, _ = make_chat(TEMPLATE.replace("<|end|>", "<|stop|>"), stop_ids=[END])
    assert chat.stop_ids == {END, SPECIAL.index("<|stop|>")}
    assert chat.encode_completion("A")[-1] == SPECIAL.index("<|stop|>")


def test_a_base_without_a_template_is_refused():
    with pytest.raises(ValueError, match="no chat template"):
        make_chat(None)


def test_a_template_that_never_closes_a_turn_is_refused():
    with pytest.raises(ValueError, match="no end token"):
        make_chat("{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}")


@pytest.mark.parametrize(
    ("template", "thinks"),
    [
        (TEMPLATE, False),
        (TEMPLATE.replace("<|assistant|>", "<|assistant|><think>"), True),
        ("{% if enable_thinking is defined %}{% endif %}" + TEMPLATE, True),
    ],
)
def test_a_base_that_thinks_is_known_by_its_template(template, thinks):
    assert make_chat(template)[0].thinks is thinks
