"""How answers look, whether right or wrong: length, repetition, traces of the teacher's prompt, copied passages."""

from collections.abc import Sequence
from statistics import fmean
from typing import Final

from app.domain.text_rules import split_words
from worker.evals.run import Answer, ArmName
from worker.evals.schema import Behaviour
from worker.sdft.monitor import artefact_rate, distinct_4, grams

COPIED_WORDS: Final = 8
"""A run of this many words, or letters of a script without spaces, that a demonstration has too is copied."""


def describe(
    suite: str, arm: ArmName, answers: Sequence[Answer], demonstrations: Sequence[str], *, entropy: float | None = None
) -> Behaviour:
    """Numbers for one arm's answers to one suite.

    Args:
        suite: Its name.
        arm: Who answered.
        answers: At least one.
        demonstrations: Completions that were trained on; none where they are not known.
        entropy: Of the next token along some of the answers, where it was measured.
    """
    trained = [split_words(text) for text in demonstrations]
    whole, runs = (
        {words for words in trained if words},
        {run for words in trained for run in grams(words, COPIED_WORDS)},
    )
    said = [split_words(one.text) for one in answers]
    return Behaviour(
        suite=suite,
        arm=arm,
        mean_tokens=fmean(len(one.ids) for one in answers),
        lengths=sorted(len(one.ids) for one in answers),
        truncated=fmean(not one.stopped for one in answers),
        distinct_4=distinct_4([one.ids for one in answers]),
        artefacts=artefact_rate([one.text for one in answers]),
        copied=fmean(words in whole or not runs.isdisjoint(grams(words, COPIED_WORDS)) for words in said)
        if trained
        else None,
        entropy=entropy,
    )
