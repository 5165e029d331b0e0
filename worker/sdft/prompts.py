"""How the teacher is shown the demonstration.

The template decides whether a small model can teach itself: a model that cannot use "this is an example" may well
follow a conversation in which it has already answered. Only what a template adds differs between student and teacher.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Demonstration(Protocol):
    """A conversation and the expert's answer to it."""

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """Up to and without the answer."""

    @property
    def completion(self) -> str:
        """The expert's answer."""

    @property
    def document(self) -> str | None:
        """What the answer is taken from."""


@dataclass(frozen=True)
class Template:
    """A way to show a demonstration.

    Args:
        version: Raised when the wording changes; stored with the run.
        text: What the last user turn becomes, or for ``shown`` > 0 how the conversation reads.
        shown: How often the last exchange is played, answer included, before it is asked again.
    """

    version: int
    text: str
    shown: int = 0


_TURN = "user: {question}\nassistant: {demonstration}\n"

TEMPLATES: Mapping[str, Template] = {
    "paper": Template(
        1,
        "{question}\n\nThis is an example for a response to the question:\n{demonstration}\n\n"
        "Now answer with a response of your own, including the thinking process.\n",
    ),
    "example": Template(1, "{question}\n\n{demonstration}"),
    "multi_turn": Template(1, _TURN + "user: {question}", shown=1),
    "multi_turn_twice": Template(1, _TURN * 2 + "user: {question}", shown=2),
}
DOCUMENT_BREAK = "\n\n"
"""Between a document and the question. The document begins the last exchange where that is first played, whatever the
template: questions about one document then have their beginning in common."""


def teacher_messages(template: str, demonstration: Demonstration) -> list[dict[str, Any]]:
    """The teacher's conversation: the student's, with document and demonstration worked in at its last user turn.

    A conversation that ends in a tool result has no last user turn to rewrite. A text template then adds a user turn,
    without the question; a multi-turn template plays the exchange from the last user turn through its tool results.
    """
    messages = [dict(message) for message in demonstration.messages]
    start = max((index for index, message in enumerate(messages) if message["role"] == "user"), default=0)
    before, exchange = messages[:start], messages[start:]
    chosen = TEMPLATES[template]
    first = [_documented(exchange[0], demonstration.document), *exchange[1:]]
    if chosen.shown:
        answer = {"role": "assistant", "content": demonstration.completion}
        return [*before, *first, answer, *[*exchange, answer] * (chosen.shown - 1), *exchange]
    if exchange[-1]["role"] != "user":
        text = chosen.text.removeprefix("{question}\n\n")
        return [*before, *first, {"role": "user", "content": _fill(text, "", demonstration.completion)}]
    return [*before, first[0] | {"content": _fill(chosen.text, first[0]["content"], demonstration.completion)}]


def _documented(message: dict[str, Any], document: str | None) -> dict[str, Any]:
    return message if document is None else message | {"content": document + DOCUMENT_BREAK + message["content"]}


def _fill(text: str, question: str, completion: str) -> str:
    # Not str.format, nor one replacement after the other: braces in a question or an answer are theirs.
    head, _, tail = text.partition("{demonstration}")
    return head.replace("{question}", question) + completion + tail
