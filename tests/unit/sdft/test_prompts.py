"""What the teacher is shown, and what the student is not."""

from dataclasses import dataclass

import pytest

from worker.sdft.prompts import TEMPLATES, teacher_messages


@dataclass(frozen=True)
class Shown:
    messages: tuple[dict[str, str], ...]
    completion: str


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
