"""What of a text its readers see. Knows nothing of what texts are for."""

import re
import unicodedata
from typing import Final

BIDI_CONTROLS: Final = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Change the order in which a line is shown: a range of a character class."""
CONTROLS: Final = re.compile(rf"[\x00-\x1f\x7f-\x9f{BIDI_CONTROLS}]")
"""C0 and C1, among them what terminals obey, and all that changes the order of a line."""

_INVISIBLE: Final = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
_BLANK_LETTERS: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Fillers, which Unicode counts among letters, marks and symbols."""


def is_blank(text: str) -> bool:
    """Whether there is nothing to be seen in a text: spaces of all kinds, format characters, fillers."""
    return all(unicodedata.category(one) in _INVISIBLE or one in _BLANK_LETTERS for one in text)
