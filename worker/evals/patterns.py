"""The rule that searches an answer for a pattern, in bounded time: the standard library's search cannot be stopped."""

from typing import Final

import regex

from app.domain.text_rules import CannotScore

REGEX_SECONDS: Final = 0.1
"""Of one search. A pattern that backtracks without end is the suite's fault: the item is set aside and named."""


def matches(answer: str, expected: str) -> bool:
    """The pattern ``expected`` is found somewhere in the answer; ``^``, ``$`` and ``(?i)`` are the pattern's own.

    Raises:
        CannotScore: It is no pattern, or searches for too long.
    """
    try:
        return regex.search(expected, answer, timeout=REGEX_SECONDS) is not None
    except regex.error as error:
        raise CannotScore(f"the expected answer is not a regular expression: {error}") from error
    except TimeoutError as error:
        raise CannotScore(f"the pattern searched for more than {REGEX_SECONDS} s; make it simpler") from error
