"""Rules that compare an answer's text with an expected one. Each takes bounded time, whatever it is given."""

import re
import unicodedata
from decimal import Decimal
from typing import Final

import re2

_QUOTES: Final = " \"'`\u2018\u2019\u201a\u201c\u201d\u201e\u2039\u203a\u00ab\u00bb\u300c\u300d\u300e\u300f"
_TERMINAL: Final = (
    " .!?,;:\u203d\u00b7\u055c\u055e\u0589\u060c\u061b\u061f\u06d4\u0964\u0965\u0e5a\u0e5b\u0f0d\u0f0e"
    "\u104a\u104b\u1362\u1364\u17d4\u17d5\u17d6\u3001\u3002"
)
"""What ends a sentence, or a part of one, in scripts that are written today; NFKC has made the wide forms plain."""
_UNSEEN: Final = re.compile(
    "[\u00ad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0100-\U000e01ef]"
)
"""Joiners, breaks and variants that a reader does not see, and that one writer sets and another does not."""
_WORD: Final = re2.compile(r"[\pL\pN_][\pL\pN_\p{Mn}\p{Mc}]*")
"""A vowel sign or a tone mark is part of the word that it stands in, which ``\\w`` does not know."""
_UNSPACED: Final = re.compile(
    "[\u0e01-\u0e4e\u0e81-\u0ece\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u1780-\u17dd\u3005-\u3007\u3021-\u3029\u3031-\u30ff"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uaa60-\uaa7f\uf900-\ufaff\U00020000-\U0003ffff][^\\w\\]]*"
)
"""In a word, a letter of a script that leaves no space between words, with its marks: Thai, Lao, Burmese, Khmer, kana,
and Han. Their digits are not among them."""
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
    """The expected words occur in the answer as whole words, in any case; of scripts without spaces any letters do.

    Raises:
        CannotScore: Nothing in the expectation is a word.
    """
    wanted = _words(expected)
    if not wanted:
        raise CannotScore("the expected answer has no letter or digit to look for")
    return wanted in _words(answer)


def affirms(answer: str, words: str) -> bool:
    """The words occur in the answer as whole words, in any case, other than behind a "not"."""
    wanted = _words(words)
    return wanted in re.sub(rf"\[(?:not|isn\] \[t)\] (?:\[(?:an?|the)\] )?{re.escape(wanted)}", " ", _words(answer))


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


def split_words(text: str) -> tuple[str, ...]:
    """Words in one form and case; each letter where a script has no spaces."""
    return tuple(_words(text).replace("[", " ").replace("]", " ").split())


def _normalize(text: str) -> str:
    """Lower case, one space, no quotes around the whole and no sentence punctuation at its end, if that leaves any."""
    folded = " ".join(_fold(text).split())
    return folded.strip(_QUOTES).rstrip(_TERMINAL).rstrip(_QUOTES) or folded


def _words(text: str) -> str:
    """Each word in brackets, so that whole words are found in others: ``[hello] [mr] [lee]``.

    Where a script has no spaces each letter is one, and what stands together has no space between: ``[tokyo][x][y]``.
    """
    words = (_UNSPACED.sub(r"][\g<0>][", f"[{word}]") for word in _WORD.findall(_fold(text)))
    return " ".join(words).replace("[]", "")


def _fold(text: str) -> str:
    """Without case, and in one form of each character, as Unicode's NFKC_Casefold has it."""
    return _UNSEEN.sub("", unicodedata.normalize("NFKC", text).casefold())


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
