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


@pytest.mark.parametrize("opening", [" ", "{x} "])
def test_what_a_template_puts_before_the_text_is_said_and_not_judged(opening):
    """Mistral's space: the model has to say it itself, and a scorer shall not see it."""
    plain, _ = make_chat()
    template = TEMPLATE.replace(
        "{{ message.content }}", f"{{{{ '{opening}' if message.role == 'assistant' }}}}{{{{ message.content }}}}"
    )
    chat, _ = make_chat(template)
    assert len(chat.encode_completion("A")) > len(plain.encode_completion("A"))
    assert chat.decode(chat.encode_completion("A")) == "A"


def test_a_template_that_can_leave_thoughts_out_does():
    """Qwen3's way: an empty thought, written into the prompt or before the last answer."""
    thought = "{{ '{}x' if enable_thinking is defined and enable_thinking is false }}"
    template = TEMPLATE.replace("<|assistant|>", f"<|assistant|>{thought}").replace(
        "{{ message.content }}", "{{ '{}x' if message.role == 'assistant' }}{{ message.content }}"
    )
    chat, tokenizer = make_chat(template)
    assert chat.told_not_to_think
    assert not chat.thinks
    assert (
        chat.encode_chat(QUESTION)
        == tokenizer(
            tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True, enable_thinking=False),
            add_special_tokens=False,
        )["input_ids"]
    )
    assert chat.decode(chat.encode_completion("A b.")) == "A b."
    assert chat.encode_completion("A b.") == make_chat()[0].encode_completion("A b.")


def test_a_template_that_prints_the_date_says_the_same_tomorrow():
    """Llama 3.2's way, in a macro of its own."""
    dated = "{% macro today() %}{{ strftime_now('%d %b %Y') if strftime_now is defined }}{% endmacro %}{{ today() }} "
    plain = make_chat()[0].prompt_text(QUESTION)
    assert make_chat(dated + TEMPLATE)[0].prompt_text(QUESTION) == f"01 Jan 2026 {plain}"
    told = make_chat("{{ strftime_now('%-d/%-m %Y-%m-%d %A %j') }} " + TEMPLATE)[0].prompt_text(QUESTION)
    assert told == f"1/1 2026-01-01 Thursday 001 {plain}"


@pytest.mark.parametrize(
    "begins", ["\n", "  {% if true %}x{% endif %}", "  y", "\n\n", "{%- if true %}\n  z{% endif %}"]
)
def test_what_stands_before_the_date_stays_as_the_template_has_it(begins):
    """Fault caught: a macro glued to the front, which eats a new line or keeps an indentation."""
    dated, undated = (begins + now + TEMPLATE for now in ("{{ strftime_now('01') }}", "01"))
    assert make_chat(dated)[0].prompt_text(QUESTION) == make_chat(undated)[0].prompt_text(QUESTION)


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
        ("{% if enable_thinking is defined %}{% endif %}" + TEMPLATE, False),
    ],
)
def test_a_base_that_thinks_is_known_by_its_template(template, thinks):
    assert make_chat(template)[0].thinks is thinks
