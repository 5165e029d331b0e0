"""Training files: JSON lines, each one prompt and the completion of an expert.

Knows what a line may say and reads files that are known to be good; ``app.domain.validation`` finds what is wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from app.domain.characters import is_blank
from app.domain.strict_json import Malformed, parse

MAX_LINE_BYTES = 1024 * 1024
MAX_MESSAGES = 256

ROLES: Final = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Demonstration:
    """A prompt and what an expert answered."""

    messages: tuple[dict[str, str], ...]
    """The prompt, each ``{"role", "content"}``; the last one is the user's or a tool's."""
    completion: str
    line: int
    """1-based, in the file it came from."""
    document: str | None = None
    """What the answer is taken from; only the teacher reads it."""

    @property
    def prompt_bytes(self) -> int:
        """UTF-8 length of the prompt's contents."""
        return sum(len(message["content"].encode()) for message in self.messages)

    @property
    def completion_bytes(self) -> int:
        """UTF-8 length of the completion."""
        return len(self.completion.encode())

    @property
    def document_bytes(self) -> int:
        """UTF-8 length of the document."""
        return len((self.document or "").encode())


def parse_line(raw: bytes, line: int) -> Demonstration:
    """One demonstration.

    Args:
        raw: The line without its newline.
        line: Its number, from 1.

    Raises:
        Malformed: It is not one.
    """
    record = parse_record(raw)
    messages = conversation(record)
    return Demonstration(tuple(messages[:-1]), messages[-1]["content"], line, _document(record))


def parse_record(raw: bytes) -> dict[str, Any]:
    """The object that a line is.

    Raises:
        Malformed: It is none.
    """
    if len(raw) > MAX_LINE_BYTES:
        message = f"The line is longer than {MAX_LINE_BYTES} bytes."
        raise Malformed("line_too_long", message, "Shorten the example or split it into several.")
    if not raw.strip():
        raise Malformed("invalid_json", "The line is empty.", "Remove it.")
    record = parse(raw)
    if not isinstance(record, dict):
        message = f"The line is {_kind(record)}, not an object."
        raise Malformed("not_an_object", message, 'Each line must be an object such as {"messages": [...]}.')
    return record


def read_demonstrations(path: Path) -> list[Demonstration]:
    """All demonstrations of a file that ``validate`` has passed.

    Raises:
        Malformed: The file has not passed.
    """
    return list(stream_demonstrations(path))


def stream_demonstrations(path: Path) -> Iterator[Demonstration]:
    """The same, one at a time.

    Raises:
        Malformed: The file has not passed.
    """
    with path.open("rb") as source:
        for number, raw in enumerate(raw_lines(source), 1):
            yield parse_line(raw, number)


def raw_lines(source: BinaryIO) -> Iterator[bytes]:
    """Lines split at line feeds only; one that is too long comes cut, just long enough to be refused."""
    while line := source.readline(MAX_LINE_BYTES + 2):
        whole = line.endswith(b"\n")
        yield line.removesuffix(b"\n")
        while not whole and (rest := source.readline(MAX_LINE_BYTES)):
            whole = rest.endswith(b"\n")


def conversation(record: dict[str, Any]) -> list[dict[str, str]]:
    """The conversation of a record, the demonstration last.

    Raises:
        Malformed: It is not one to learn from.
    """
    if "prompt" in record or "completion" in record:
        refuse_unknown(record, ("prompt", "completion", "document"), "")
        messages = [
            {"role": "user", "content": _text(record, "prompt", "")},
            {"role": "assistant", "content": _text(record, "completion", "")},
        ]
    else:
        if not isinstance(record.get("messages"), list) or not record["messages"]:
            raise _without_messages(record)
        refuse_unknown(record, ("messages", "document"), "")
        if len(record["messages"]) > MAX_MESSAGES:
            message = f"The example has more than {MAX_MESSAGES} messages."
            raise Malformed("too_many_messages", message, "Split the conversation.", "messages")
        messages = [_message(item, f"messages[{index}]") for index, item in enumerate(record["messages"])]
    _check_order(messages)
    if record.get("messages", [{}])[-1].get("weight") == 0:
        message = "The last assistant message has weight 0, so the example teaches nothing."
        hint = "Remove the weight or the example."
        raise Malformed("empty_demonstration", message, hint, f"messages[{len(messages) - 1}].weight")
    return messages


def _without_messages(record: dict[str, Any]) -> Malformed:
    message = 'The key "messages" is missing, empty or not a list'
    hint = 'Add "messages": [{"role": "user", "content": "..."}, ...].'
    if "conversations" in record:
        message += "; this looks like ShareGPT's format"
        hint = (
            'Rename "conversations" to "messages", in each "from" to "role" and "value" to "content", "human" to '
            '"user" and "gpt" to "assistant".'
        )
    elif "instruction" in record:
        message += "; this looks like Alpaca's format"
        hint = 'Write {"prompt": the instruction, then the input, "completion": the output}.'
    return Malformed("missing_messages", f"{message}.", hint)


def _document(record: dict[str, Any]) -> str | None:
    if "document" not in record:
        return None
    document = _text(record, "document", "")
    if is_blank(document):
        raise Malformed("empty_document", "The document is empty.", "Add its text, or leave the key out.", "document")
    return document


def _message(item: Any, path: str) -> dict[str, str]:
    if not isinstance(item, dict):
        raise Malformed("not_an_object", f"The message is {_kind(item)}, not an object.", "Make it an object.", path)
    if "role" not in item:
        raise Malformed("message_missing_key", 'The message has no "role".', f"Add one of {', '.join(ROLES)}.", path)
    if item["role"] not in ROLES:
        hint = f"Use one of {', '.join(ROLES)}."
        raise Malformed("unrecognized_role", "The role is not one that can be trained on.", hint, f"{path}.role")
    keys = ("role", "content", "weight") if item["role"] == "assistant" else ("role", "content")
    refuse_unknown(item, keys, path)
    if item.get("weight", 1) not in (0, 1):
        raise Malformed("unrecognized_key", "A weight must be 0 or 1.", "Correct or remove it.", f"{path}.weight")
    return {"role": item["role"], "content": _text(item, "content", path)}


def _text(item: dict[str, Any], key: str, path: str) -> str:
    where = f"{path}.{key}" if path else key
    if key not in item:
        raise Malformed("message_missing_key", f'"{key}" is missing.', f'Add "{key}".', where)
    value = item[key]
    if not isinstance(value, str):
        raise Malformed("missing_content", f'"{key}" is {_kind(value)}, not a string.', "Make it one string.", where)
    return value


def refuse_unknown(item: dict[str, Any], known: tuple[str, ...], path: str) -> None:
    """Say which key nobody would read.

    Raises:
        Malformed: There is one.
    """
    for key in item:
        if key not in known:
            hint = f"Remove it; known here: {', '.join(known)}."
            raise Malformed("unrecognized_key", f"The key {key[:40]!a} is not understood.", hint, path)


def _check_order(messages: list[dict[str, str]]) -> None:
    """A prompt that a user or a tool ends, then the demonstration."""
    last = f"messages[{len(messages) - 1}]"
    if messages[-1]["role"] != "assistant":
        hint = "End the example with the answer to learn."
        raise Malformed("missing_assistant_message", "The last message is not the assistant's.", hint, last)
    if is_blank(messages[-1]["content"]):
        raise Malformed("empty_demonstration", "The last assistant message is empty.", "Add the answer to learn.", last)
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        path = f"messages[{roles.index('system', 1)}].role"
        raise Malformed("unrecognized_role", "A system message may only come first.", "Move or merge it.", path)
    if "user" not in roles or roles[-2] not in {"user", "tool"}:
        hint = "Put the user's message right before the answer."
        raise Malformed("missing_messages", "The answer to learn answers no user message.", hint, last)


def _kind(value: Any) -> str:
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), "null")
