"""Every way that the content of an upload can be wrong, and what its owner is told."""

import gzip
import json

import pytest

from app.db.models import Blob, File
from app.db.session import transaction
from tests import factories
from tests.service.conftest import error_of, upload

GOOD = factories.TRAINING_LINES.split(b"\n")


def chat(*turns: tuple[str, object]) -> bytes:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}).encode()


LINES = {
    "not_json": (b'{"messages": [', "invalid_json"),
    "empty_line": (b"", "invalid_json"),
    "not_an_object": (b"[1, 2]", "not_an_object"),
    "no_messages": (b'{"text": "x"}', "missing_messages"),
    "messages_not_a_list": (b'{"messages": "x"}', "missing_messages"),
    "no_assistant_turn": (chat(("user", "x")), "missing_assistant_message"),
    "ends_with_user": (chat(("user", "x"), ("assistant", "y"), ("user", "z")), "missing_assistant_message"),
    "no_user_turn": (chat(("assistant", "y")), "missing_messages"),
    "answers_nobody": (chat(("user", "x"), ("assistant", "y"), ("assistant", "z")), "missing_messages"),
    "empty_demonstration": (chat(("user", "x"), ("assistant", " \n")), "empty_demonstration"),
    "invisible_demonstration": (chat(("user", "x"), ("assistant", "\u200b")), "empty_demonstration"),
    "invisible_document": (b'{"prompt": "x", "completion": "y", "document": "\\u2060\\u3164"}', "empty_document"),
    "weight_zero": (
        b'{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "weight": 0}]}',
        "empty_demonstration",
    ),
    "wrong_role": (chat(("developer", "x"), ("assistant", "y")), "unrecognized_role"),
    "late_system": (chat(("user", "x"), ("system", "s"), ("user", "x"), ("assistant", "y")), "unrecognized_role"),
    "role_not_a_string": (chat((["user"], "x"), ("assistant", "y")), "unrecognized_role"),
    "no_role": (b'{"messages": [{"content": "x"}]}', "message_missing_key"),
    "no_content": (b'{"messages": [{"role": "user"}]}', "message_missing_key"),
    "content_not_a_string": (chat(("user", [{"type": "text"}]), ("assistant", "y")), "missing_content"),
    "unknown_key": (b'{"messages": [{"role": "user", "content": "x", "name": "n"}]}', "unrecognized_key"),
    "unknown_top_key": (b'{"messages": [{"role": "user", "content": "x"}], "tools": []}', "unrecognized_key"),
    "document_empty": (b'{"prompt": "x", "completion": "y", "document": " "}', "empty_document"),
    "document_not_a_string": (b'{"prompt": "x", "completion": "y", "document": ["z"]}', "missing_content"),
    "document_misspelt": (b'{"prompt": "x", "completion": "y", "documents": "z"}', "unrecognized_key"),
    "message_not_an_object": (b'{"messages": ["x"]}', "not_an_object"),
    "too_many_messages": (chat(*[("user", "x"), ("assistant", "y")] * 129), "too_many_messages"),
    "bad_utf8": (b'{"messages": "\xff"}', "bad_encoding"),
    "raw_surrogate": (b'{"messages": "\xed\xa0\x80"}', "bad_encoding"),
    "utf16": ('{"messages": []}'.encode("utf-16"), "bad_encoding"),
    "bom": (b"\xef\xbb\xbf" + chat(("user", "x"), ("assistant", "y")), "bom_present"),
    "nul": (chat(("user", "x\0"), ("assistant", "y")), "bad_encoding"),
    "raw_nul": (b'{"messages": "\0"}', "invalid_json"),
    "lone_surrogate": (chat(("user", "\ud800"), ("assistant", "y")), "bad_encoding"),
    "lone_surrogate_in_a_key": (b'{"\\udc00": 1}', "bad_encoding"),
    "deep": (b'{"messages": ' + b"[" * 2000 + b"]" * 2000 + b"}", "invalid_json"),
    "very_deep": (b"[" * 100_000, "invalid_json"),
    "nan": (b'{"messages": NaN}', "invalid_json"),
    "infinite": (b'{"messages": 1e999}', "invalid_json"),
    "big_number": (b'{"messages": 9007199254740993}', "invalid_json"),
    "many_digits": (b'{"messages": ' + b"9" * 4000 + b"}", "invalid_json"),
    "duplicate_keys": (b'{"messages": [], "messages": []}', "invalid_json"),
    "two_megabytes": (chat(("user", "x" * 2_000_000), ("assistant", "y")), "line_too_long"),
    "empty_prompt_pair": (b'{"prompt": "x"}', "message_missing_key"),
}


@pytest.mark.parametrize(("line", "code"), LINES.values(), ids=LINES)
def test_a_bad_line_is_told_with_its_number_and_nothing_is_kept(http, sessions, store, line, code):
    response = upload(http, b"\n".join([*GOOD[:4], line, *GOOD[4:]]))
    error = error_of(response, 422)
    assert (error["code"], error["param"]) == ("invalid_file", "file")
    [finding] = error["errors"]
    assert (finding["code"], finding["line"]) == (code, 5)
    assert finding["message"]
    assert finding["hint"]
    assert error["message"].startswith("Line 5: ")
    assert not list(store.staging.iterdir())
    with transaction(sessions) as session:
        assert session.query(File).count() == session.query(Blob).count() == 0


@pytest.mark.parametrize(("content", "count"), [(b"", 0), (b"\n".join(GOOD[:9]), 9), (b"\n".join(GOOD[:9]) + b"\n", 9)])
def test_a_file_with_too_few_examples_is_refused(http, content, count):
    [finding] = error_of(upload(http, content), 422)["errors"]
    assert (finding["code"], finding["line"]) == ("too_few_examples", None)
    assert f"has {count} examples" in finding["message"]


def test_all_errors_are_told_at_once_by_line(http):
    lines = [*GOOD, b"[]", b"{", chat(("user", "x"))]
    found = error_of(upload(http, b"\n".join(lines)), 422)["errors"]
    assert [(finding["line"], finding["code"]) for finding in found] == [
        (13, "not_an_object"),
        (14, "invalid_json"),
        (15, "missing_assistant_message"),
    ]


RECORDS = [json.loads(line) for line in GOOD]
OTHER_FORMATS = {
    "array": (json.dumps(RECORDS).encode(), "one JSON array", "one JSON object a line"),
    "pretty_array": (json.dumps(RECORDS, indent=2).encode(), "one JSON array", "one JSON object a line"),
    "pretty_objects": (
        b"\n".join(json.dumps(record, indent=2).encode() for record in RECORDS), "pretty-printed", "without indent",
    ),
    "csv": (b"prompt,completion\n" + b"".join(b'"Say %d, please",%d\n' % (n, n) for n in range(12)), "CSV", "Export"),
    "tsv_with_bom": (b"\xef\xbb\xbfprompt\tcompletion\r\n" + b"Say 1\t1\r\n" * 12, "a table", "Export"),
    "gzip": (gzip.compress(factories.TRAINING_LINES), "a gzip archive", "Unpack it"),
    "utf_16": (factories.TRAINING_LINES.decode().encode("utf-16"), "UTF-16", "UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("purpose", ["fine-tune", "evals"])
@pytest.mark.parametrize(("content", "name", "way_out"), OTHER_FORMATS.values(), ids=OTHER_FORMATS)
def test_a_file_of_another_format_is_told_so_once(http, content, name, way_out, purpose):
    """Fault caught: it had a finding for each of its lines, none of which says what is wrong."""
    error = error_of(http.post("/v1/files", files={"file": ("a", content)}, data={"purpose": purpose}), 422)
    [finding] = error["errors"]
    assert (finding["code"], finding["line"]) == ("not_json_lines", None)
    assert error["message"].startswith("This looks like ")
    assert name in error["message"]
    assert way_out in error["message"]


@pytest.mark.parametrize(
    ("record", "name", "hint"),
    [
        ({"conversations": [{"from": "human", "value": "x"}]}, "ShareGPT", '"gpt" to "assistant"'),
        ({"instruction": "x", "input": "", "output": "y"}, "Alpaca", '"completion": the output'),
    ],
)
def test_other_tools_records_are_told_what_to_become(http, record, name, hint):
    [finding] = error_of(upload(http, b"\n".join([*GOOD, json.dumps(record).encode()])), 422)["errors"]
    assert (finding["code"], finding["line"]) == ("missing_messages", 13)
    assert name in finding["message"]
    assert hint in finding["hint"]


def test_warnings_are_no_part_of_the_number_of_errors(http):
    lines = [*GOOD, GOOD[0], b'{"prompt": "", "completion": "a"}', b"[]", b"{"]
    assert "There are 2 findings in all" in error_of(upload(http, b"\n".join(lines)), 422)["message"]


def test_findings_that_are_not_listed_are_counted(http):
    """Fault caught: the message said that all were listed."""
    error = error_of(upload(http, b"\n".join([*GOOD, GOOD[0], *[b"[]"] * 150, b"{"])), 422)
    assert len(error["errors"]) == 101
    assert error["counts"] == {"not_an_object": 150, "invalid_json": 1}
    assert "151 findings in all, the first 100 of each kind listed" in error["message"]


def test_a_path_says_where_in_the_line(http):
    line = chat(("user", "x"), ("assistant", "y"), ("user", "a\0"), ("assistant", "z"))
    [finding] = error_of(upload(http, b"\n".join([*GOOD, line])), 422)["errors"]
    assert finding["path"] == "messages[2].content"


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_line_separators_inside_a_string_do_not_end_a_line(http, ending):
    odd = json.dumps(
        {"messages": [{"role": "user", "content": "a\u2028b\u0085c\x0c"}, {"role": "assistant", "content": "y"}]},
        ensure_ascii=False,
    ).encode()
    file = upload(http, ending.join([*GOOD, odd]) + ending).json()
    assert http.get(f"/v1/files/{file['id']}/validation").json()["n_examples"] == 13


def test_prompt_and_completion_are_a_demonstration_too(http):
    lines = [json.dumps({"prompt": f"Say {n}", "completion": f"{n}"}).encode() for n in range(10)]
    assert upload(http, b"\n".join(lines)).status_code == 200
