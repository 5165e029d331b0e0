"""How answers look, whether right or wrong: length, repetition, traces of the teacher's prompt, copied passages."""

import re
from collections.abc import Sequence
from typing import Final, TypeVar

from worker.evals.run import Answer, ArmName
from worker.evals.schema import Behaviour

Item = TypeVar("Item")

COPIED_WORDS: Final = 8
"""A run of this many words shared with a training demonstration is copied, not coincidence."""

_ARTEFACTS: Final = re.compile(
    r"\b(based on|according to|as (shown|seen|given) in|following|in|from) (the|this|your) (given |above |provided )?"
    r"(example|demonstration)\b"
    r"|\bthis is an example for a response\b|\banswer with a response of (your|my) own\b",
    re.IGNORECASE,
)


def describe(suite: str, arm: ArmName, answers: Sequence[Answer], demonstrations: Sequence[str]) -> Behaviour:
    """Numbers for one arm's answers to one suite.

    Args:
        suite: Its name.
        arm: Who answered.
        answers: At least one.
        demonstrations: Completions that were trained on.
    """
    count, trained = len(answers), [_words(text) for text in demonstrations]
    whole, runs = set(trained), {run for words in trained for run in _ngrams(words, COPIED_WORDS)}
    said = [_words(one.text) for one in answers]
    copied = [words in whole or not runs.isdisjoint(_ngrams(words, COPIED_WORDS)) for words in said]
    fours = [four for one in answers for four in _ngrams(one.ids, 4)]
    return Behaviour(
        suite=suite,
        arm=arm,
        mean_tokens=sum(len(one.ids) for one in answers) / count,
        truncated=sum(not one.stopped for one in answers) / count,
        distinct_4=len(set(fours)) / len(fours) if fours else None,
        artefacts=sum(bool(_ARTEFACTS.search(one.text)) for one in answers) / count,
        copied=sum(copied) / count,
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.casefold()))


def _ngrams(sequence: tuple[Item, ...], n: int) -> list[tuple[Item, ...]]:
    return [sequence[start : start + n] for start in range(len(sequence) - n + 1)]
