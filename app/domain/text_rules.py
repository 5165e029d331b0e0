"""Rules that compare an answer's text with an expected one. Each takes bounded time, whatever it is given."""

import re
import unicodedata
from decimal import Decimal
from typing import Final

import re2

_QUOTES: Final = " \"'`\u2018\u2019\u201c\u201d"
_NUMBER: Final = re.compile(
    r"""(?<![\w.]) ([-+]?)
    (?: (\d++ (?: ,\d++ )*+) (\.\d++)? | (\.\d++) )
    ([eE][-+]?\d{1,3} (?!\d))?""",
    re.VERBOSE,
)
_THOUSANDS: Final = re.compile(r"\d{1,3}(?:,\d{3})++")
_LETTER: Final = re.compile(r"<answer>\s*+\(?([a-z])\s*+(?:[).:,\-][^<]*+)?</answer>", re.IGNORECASE)
"""Alone, or told by a mark from what is behind it: "A cell divides" is no choice of A."""
MAX_PATTERN: Final = 1000
MAX_PATTERN_BYTES: Final = 2**20
"""Of a compiled pattern with its automaton; RE2 refuses what would need more, and searches in linear time."""
_PATTERN: Final = re2.Options()
_PATTERN.max_mem = MAX_PATTERN_BYTES
_PATTERN.log_errors = False


class CannotScore(Exception):
    """The expectation is not one that this scorer can compare with."""


def exact(answer: str, expected: str) -> bool:
    """Equal but for surrounding space."""
    return answer.strip() == expected.strip()


def normalized(answer: str, expected: str) -> bool:
    """Equal but for case, space, and quotes or sentence punctuation around the whole; punctuation alone is itself."""
    return _normalize(answer) == _normalize(expected)


def contains(answer: str, expected: str) -> bool:
    """The expected words occur in the answer as whole words, in any case.

    Raises:
        CannotScore: Nothing in the expectation is a word.
    """
    wanted = _words(expected)
    if not wanted:
        raise CannotScore("the expected answer has no letter or digit to look for")
    return f" {wanted} " in f" {_words(answer)} "


def affirms(answer: str, words: str) -> bool:
    """The words occur in the answer as whole words, in any case, other than behind a "not"."""
    wanted = _words(words)
    said = re.sub(rf"\b(?:not|isn t) (?:an? |the )?{re.escape(wanted)}\b", " ", _words(answer))
    return f" {wanted} " in f" {said} "


def matches(answer: str, expected: str) -> bool:
    """The pattern ``expected`` is found somewhere in the answer; ``^``, ``$`` and ``(?i)`` are the pattern's own.

    Raises:
        CannotScore: It is no pattern of RE2, or too large a one.
    """
    if len(expected) > MAX_PATTERN:
        raise CannotScore(f"the pattern is longer than {MAX_PATTERN} characters")
    try:
        return re2.search(expected, answer, _PATTERN) is not None
    except re2.error as error:
        reason = error.args[0].decode(errors="replace")
        raise CannotScore(
            f"the expected answer is not a regular expression of RE2: {reason}; look-around, back-references and "
            "repeats beyond 1000 are not in its syntax: write each form out, as in (colour|color)"
        ) from error


def numeric(answer: str, expected: str, tolerance: float = 0.0) -> bool:
    """The last number in the answer is the expected one, give or take ``tolerance``.

    Raises:
        CannotScore: The expectation is not a number.
    """
    wanted, given = _numbers(expected), _numbers(answer)
    if len(wanted) != 1:
        raise CannotScore("the expected answer is not one number")
    return bool(given) and abs(given[-1] - wanted[0]) <= Decimal(str(tolerance))


def choice(answer: str, expected: str) -> bool:
    """The letter in the last ``<answer>`` is the expected one: SDFT, arXiv 2601.19897, on multiple choice.

    Raises:
        CannotScore: The expectation is neither a letter nor a text with one in ``<answer>``.
    """
    wanted = expected.strip() if len(expected.strip()) == 1 else _chosen(expected)
    if wanted is None or not (wanted.isascii() and wanted.isalpha()):
        raise CannotScore("the expected answer is neither a letter from A to Z nor holds one in <answer></answer>")
    return _chosen(answer) == wanted.upper()


def _normalize(text: str) -> str:
    """Lower case, one space, no quotes around the whole and no sentence punctuation at its end, if that leaves any."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(_QUOTES).rstrip(".!?,;: ").rstrip(_QUOTES) or folded


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def _numbers(text: str) -> list[Decimal]:
    """Numbers as people write them in English: a sign, commas between thousands, a point, an exponent.

    Commas that do not part thousands part numbers.
    """
    numbers: list[str] = []
    for sign, whole, fraction, bare, exponent in _NUMBER.findall(
        unicodedata.normalize("NFKC", text).replace("\u2212", "-")
    ):
        parts = [whole.replace(",", "")] if _THOUSANDS.fullmatch(whole) else whole.split(",")
        parts[0] = sign + parts[0]
        parts[-1] += fraction + bare + exponent
        numbers += parts
    return [Decimal(number) for number in numbers]


def _chosen(text: str) -> str | None:
    letters = _LETTER.findall(text)
    return letters[-1].upper() if letters else None
