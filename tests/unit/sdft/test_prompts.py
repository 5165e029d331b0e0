"""What the teacher is shown, and what the student is not."""

from dataclasses import dataclass, replace

import pytest

from worker.sdft.prompts import TEMPLATES, teacher_messages


@dataclass(frozen=True)
class Shown:
    messages: tuple[dict[str, str], ...]
    completion: str
    document: str | None = None


def user(text):
    return {"role": "user", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}
ASSISTANT = {"role": "assistant", "content": "Hello."}
TOOL = {"role": "tool", "content": "12 degrees"}
CONVERSATION = Shown((SYSTEM, user("Hi."), ASSISTANT, user("Weather in {city}?")), "It is {demonstration} 12.")


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_teacher_sees_question_and_whole_demonstration_and_all_before_is_shared(template):
    messages = teacher_messages(template, CONVERSATION)
    assert messages[:3] == [SYSTEM, user("Hi."), ASSISTANT]
    said = "\n".join(message["content"] for message in messages[3:])
    assert CONVERSATION.completion in said
    assert "Weather in {city}?" in said
    assert messages[-1]["role"] == "user"


def test_paper_wording_is_that_of_the_reference():
    (message,) = teacher_messages("paper", Shown((user("Q"),), "A"))
    assert message["content"] == (
        "Q\n\nThis is an example for a response to the question:\nA\n\n"
        "Now answer with a response of your own, including the thinking process.\n"
    )


def test_multi_turn_plays_the_exchange_and_asks_again():
    turns = teacher_messages("multi_turn_twice", Shown((SYSTEM, user("Q")), "A"))
    answer = {"role": "assistant", "content": "A"}
    assert turns == [SYSTEM, user("Q"), answer, user("Q"), answer, user("Q")]
    assert teacher_messages("multi_turn", Shown((SYSTEM, user("Q")), "A")) == [SYSTEM, user("Q"), answer, user("Q")]


@pytest.mark.parametrize("template", ["paper", "example"])
def test_a_conversation_that_ends_in_a_tool_result_gets_a_new_user_turn(template):
    call = {"role": "assistant", "content": "weather(Rome)"}
    messages = teacher_messages(template, Shown((SYSTEM, user("Q"), call, TOOL), "A"))
    assert messages[:-1] == [SYSTEM, user("Q"), call, TOOL]
    assert messages[-1]["role"] == "user"
    assert "A" in messages[-1]["content"]
    assert "{" not in messages[-1]["content"]


def test_multi_turn_plays_an_exchange_through_its_tool_results():
    call = {"role": "assistant", "content": "weather(Rome)"}
    exchange = [user("Q"), call, TOOL]
    messages = teacher_messages("multi_turn", Shown((SYSTEM, *exchange), "A"))
    assert messages == [SYSTEM, *exchange, {"role": "assistant", "content": "A"}, *exchange]


def test_the_students_conversation_is_left_as_it_was():
    before = [dict(message) for message in CONVERSATION.messages]
    for template in TEMPLATES:
        teacher_messages(template, CONVERSATION)
    assert list(CONVERSATION.messages) == before


ARTICLE = "The {question} of Rome.\n\nIt was 12 degrees."


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_document_begins_the_last_exchange_once_and_all_before_is_shared(template):
    """Fault caught: a document shown again with every replay, without the question, or with its braces filled."""
    plain = teacher_messages(template, CONVERSATION)
    shown = teacher_messages(template, replace(CONVERSATION, document=ARTICLE))
    assert shown[:3] == plain[:3] == [SYSTEM, user("Hi."), ASSISTANT]
    assert shown[3] == plain[3] | {"content": f"{ARTICLE}\n\n{plain[3]['content']}"}
    assert shown[4:] == plain[4:]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_document_comes_before_the_question_of_a_tool_conversation(template):
    call = {"role": "assistant", "content": "weather(Rome)"}
    messages = teacher_messages(template, Shown((SYSTEM, user("Q"), call, TOOL), "A", ARTICLE))
    assert messages[1]["content"] == f"{ARTICLE}\n\nQ"
    assert sum(ARTICLE in message["content"] for message in messages) == 1
    assert any("A" in message["content"] for message in messages[4:])
