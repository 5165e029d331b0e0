import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import demonstrations, validation
from app.domain.demonstrations import Demonstration, parse_line, read_demonstrations
from app.domain.file_formats import HEAD_BYTES, other_format
from app.domain.strict_json import Malformed, parse
from app.domain.validation import validate

CHAT = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
LINE = json.dumps({"messages": CHAT}).encode()


def write(tmp_path, *lines):
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\n".join(lines))
    return path


def test_the_last_assistant_turn_is_the_demonstration():
    found = parse_line(LINE, 3)
    assert found == Demonstration(({"role": "system", "content": "s"}, {"role": "user", "content": "q"}), "a", 3)
    assert (found.prompt_bytes, found.completion_bytes) == (2, 1)


def test_earlier_assistant_turns_are_part_of_the_prompt():
    turns = [("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4")]
    line = json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}).encode()
    found = parse_line(line, 1)
    assert [message["content"] for message in found.messages] == ["1", "2", "3"]
    assert found.completion == "4"


def test_a_weight_is_taken_and_is_no_part_of_the_prompt():
    turns = [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "2", "weight": 0},
        {"role": "user", "content": "3"},
        {"role": "assistant", "content": "4", "weight": 1},
    ]
    assert parse_line(json.dumps({"messages": turns}).encode(), 1).messages[1] == {"role": "assistant", "content": "2"}


def test_a_prompt_and_a_completion_are_a_demonstration():
    found = parse_line(b'{"prompt": "q", "completion": "a"}', 1)
    assert found == Demonstration(({"role": "user", "content": "q"},), "a", 1)


@pytest.mark.parametrize("line", [{"messages": CHAT}, {"prompt": "q", "completion": "a"}])
def test_a_document_may_lie_beside_the_example(line):
    found = parse_line(json.dumps(line | {"document": "It is äöü."}).encode(), 1)
    assert found.document == "It is äöü."
    assert found.document_bytes == 13
    assert parse_line(json.dumps(line).encode(), 1).document is None


def test_a_file_is_read_back_in_order(tmp_path):
    lines = [json.dumps({"prompt": f"{n}", "completion": "a"}).encode() for n in range(12)]
    path = write(tmp_path, *lines, b"")
    assert validate(path).valid
    assert [found.line for found in read_demonstrations(path)] == list(range(1, 13))


def test_a_line_too_long_is_one_error_and_the_next_line_keeps_its_number(tmp_path):
    path = write(tmp_path, b"x" * (5 * demonstrations.MAX_LINE_BYTES), b"[]")
    assert [(found.line, found.code) for found in validate(path).errors] == [(1, "line_too_long"), (2, "not_an_object")]


def test_a_line_of_exactly_the_limit_is_read(tmp_path):
    frame = len(json.dumps({"prompt": "", "completion": "a"}))
    full = json.dumps({"prompt": "x" * (demonstrations.MAX_LINE_BYTES - frame), "completion": "a"}).encode()
    assert parse_line(full, 1)
    with pytest.raises(Malformed, match="longer than"):
        parse_line(full + b" ", 1)
    assert [found.code for found in validate(write(tmp_path, full, full + b" ")).errors] == ["line_too_long"]


def test_findings_are_listed_up_to_a_hundred_of_a_code_and_counted_beyond(tmp_path):
    report = validate(write(tmp_path, *[b"[]"] * 250, *[b"{"] * 3))
    codes = [found.code for found in report.errors]
    assert (codes.count("not_an_object"), codes.count("invalid_json")) == (100, 3)
    assert report.counts == {"not_an_object": 250, "invalid_json": 3}


def test_more_lines_than_the_limit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "MAX_EXAMPLES", 11)
    [error] = validate(write(tmp_path, *[LINE] * 20)).errors
    assert (error.code, error.line) == ("too_many_examples", 12)


def test_the_longest_texts_are_measured_in_bytes(tmp_path):
    lines = [json.dumps({"prompt": "é" * n, "completion": "x" * (20 - n)}, ensure_ascii=False) for n in range(1, 13)]
    report = validate(write(tmp_path, *[line.encode() for line in lines]))
    assert (report.prompt_bytes_max, report.completion_bytes_max, report.messages_max) == (24, 19, 1)
    assert report.roles == {"user"}


def test_another_answer_to_the_same_prompt_is_warned_of(tmp_path):
    """Case and spacing make no other prompt; the same example again is not another answer."""
    pairs = [("Which?", "red"), ("which ?", "x"), ("WHICH?", "blue"), ("Which?", "red"), (" which?", "green")]
    lines = [json.dumps({"prompt": prompt, "completion": answer}).encode() for prompt, answer in pairs]
    report = validate(write(tmp_path, *lines, *[b'{"prompt": "%d", "completion": "a"}' % n for n in range(9)]))
    assert report.valid
    assert [(found.code, found.line) for found in report.warnings] == [
        ("duplicate_example", 4), ("contradictory_answer", 3), ("contradictory_answer", 5),
    ]  # fmt: skip
    assert "as line 1, with another answer" in report.warnings[1].message
    assert report.num_prompts == 11


def test_an_empty_prompt_is_warned_of(tmp_path):
    chat = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": ""}, CHAT[2]]}
    lines = [b'{"prompt": " ", "completion": "a"}', json.dumps(chat).encode()]
    report = validate(write(tmp_path, *lines, *[b'{"prompt": "%d", "completion": "a"}' % n for n in range(9)]))
    assert [(found.code, found.line) for found in report.warnings] == [("empty_prompt", 1)]


@pytest.mark.parametrize("start", [b"[", b"{", b" ", b",", b"[ ", b"{ ", b"a,"])
def test_what_a_file_looks_like_takes_no_quadratic_time(start):
    started = time.process_time()
    other_format(start * (HEAD_BYTES // len(start)))
    other_format(start + b" " * HEAD_BYTES)
    assert time.process_time() - started < 0.5


@given(st.binary(max_size=200))
def test_whatever_comes_is_a_demonstration_or_a_finding(raw):
    try:
        outcome = parse_line(raw, 1)
    except Malformed as bad:
        outcome = bad
    assert outcome.completion.strip() if isinstance(outcome, Demonstration) else outcome.message and outcome.hint


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(-(2.0**53), 2.0**53, allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(codec="ascii", exclude_characters="\0")), inner)
    ),
    max_leaves=20,
)


@given(JSON, st.booleans())
def test_strict_json_reads_all_that_is_strict(value, ascii_only):
    assert parse(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.integers(1, 60))
def test_depth_is_limited_exactly(depth):
    raw = b"[" * depth + b"]" * depth
    if depth <= 32:
        parse(raw)
    else:
        with pytest.raises(Malformed, match="Nested"):
            parse(raw)


@pytest.mark.parametrize(
    "raw", [b'"' + b"[" * 100 + b'"', b'{"' + b"{" * 100 + b'": "\\"["}', b'["\\\\", "' + b"[" * 99 + b'"]']
)
def test_brackets_inside_strings_are_not_depth(raw):
    parse(raw)


LONG = {
    "escapes": lambda n: b'"' + b'\\"' * n,
    "open_lists": lambda n: b"[" * n,
    "lists_with_strings": lambda n: b'["",' * n,
    "objects": lambda n: b'{"a":' * n,
    "quotes": lambda n: b'"' * n + b"[" * 40,
    "unicode_escapes": lambda n: b'["' + b"\\u0041" * n + b'"]',
    "digits": lambda n: b"9" * n,
    "items": lambda n: b"[" + b"1," * n,
}
LONG_PATHS = {
    "text": lambda n: b'{"%s": [%s"\\u0000"]}' % (b"k" * n, b"0," * n),
    "number": lambda n: b'{"%s": [%s1e999]}' % (b"k" * n, b"0," * n),
}


@pytest.mark.parametrize("make", LONG.values(), ids=LONG)
def test_no_line_takes_quadratic_time(make):
    def seconds(n):
        started = time.process_time()
        with pytest.raises(Malformed):
            parse(make(n) + b"!")
        return time.process_time() - started

    small, large = min(seconds(20_000) for _ in range(3)), min(seconds(160_000) for _ in range(3))
    assert large < 32 * max(small, 0.0005)  # 8 times the input; quadratic would be 64 times the time


@pytest.mark.parametrize("make", LONG_PATHS.values(), ids=LONG_PATHS)
def test_a_long_key_over_a_long_list_takes_no_quadratic_time_and_is_cut(make):
    """Fault caught: the path was written out for every leaf, half a megabyte for each of a quarter of a million."""

    def seconds(n):
        started = time.process_time()
        with pytest.raises(Malformed) as caught:
            parse(make(n))
        assert caught.value.path == f"{'k' * 97}...[{n}]"
        return time.process_time() - started

    small, large = min(seconds(20_000) for _ in range(3)), min(seconds(160_000) for _ in range(3))
    assert large < 32 * max(small, 0.0005)


def test_half_a_pair_in_a_key_is_escaped_in_the_path_over_it():
    """Fault caught: the answer that named it could not be encoded."""
    with pytest.raises(Malformed) as caught:
        parse(b'{"\\ud800": [1e999]}')
    assert caught.value.path == "\\ud800[0]"
