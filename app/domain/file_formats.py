"""What a file is that is no JSON lines, told by how it begins. Knows nothing of what lines say."""

import re
from typing import Final

HEAD_BYTES: Final = 64 * 1024
"""Of a file, that are looked at."""
ONE_A_LINE: Final = "write one JSON object a line, with nothing between or around them."

_BINARY: Final = (
    (b"\x1f\x8b", "a gzip archive", "Unpack it first."),
    (b"PK\x03\x04", "a zip archive or a spreadsheet", "Unpack it first, or export it: " + ONE_A_LINE),
    (b"PAR1", "a Parquet file", "Export it: " + ONE_A_LINE),
    (b"\xff\xfe", "UTF-16 text", "Save it as UTF-8 without BOM."),
    (b"\xfe\xff", "UTF-16 text", "Save it as UTF-8 without BOM."),
)
_TEXT: Final = (
    (rb"\[\s*\{", "one JSON array", "Take the objects out of it: " + ONE_A_LINE),
    (
        rb"\{[ \t\r]*\n[ \t]*\"",
        "pretty-printed JSON, an object over many lines",
        "Print it without indentation: " + ONE_A_LINE,
    ),
)


def other_format(head: bytes) -> tuple[str, str] | None:
    """What a file looks like and what to do with it, if it does not look like JSON lines.

    Args:
        head: Its first ``HEAD_BYTES``.
    """
    for magic, name, way_out in _BINARY:
        if head.startswith(magic):
            return name, way_out
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, name, way_out in _TEXT:
        if re.match(pattern, text):
            return name, way_out
    first, _, rest = text.partition(b"\n")
    second = rest.partition(b"\n")[0]
    is_json = first.startswith((b"{", b"[")) or second.startswith(b"{")
    if not is_json and any(separator in first and separator in second for separator in (b",", b";", b"\t")):
        return "a table, such as CSV", "Export it: " + ONE_A_LINE
    return None
