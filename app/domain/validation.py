"""What is wrong with a training file or a suite file: everything at once, by line, before any compute.

One pass, in memory that the longest line bounds. Counts bytes, never tokens: those depend on a base model, see
``app.services.lengths``.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from app.domain.demonstrations import Demonstration, parse_line, raw_lines
from app.domain.questions import Question, parse_question
from app.domain.strict_json import Malformed
from app.domain.training import MIN_EXAMPLES

MAX_EXAMPLES = 1_000_000
MAX_QUESTIONS = 2000
"""Every arm answers each, in every job that names the file."""
MAX_REPORTED = 100
"""Findings listed of each code; the counts are always complete."""


@dataclass(frozen=True)
class Finding:
    """Something about a file that its owner should know."""

    code: str
    line: int | None
    message: str
    hint: str
    path: str = ""


@dataclass
class Report:
    """What validation found. ``counts`` has every finding by code, the lists the first hundred of each."""

    n_examples: int = 0
    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    prompt_bytes_max: int = 0
    completion_bytes_max: int = 0
    document_bytes_max: int = 0
    messages_max: int = 0
    roles: set[str] = field(default_factory=set)

    @property
    def valid(self) -> bool:
        """Whether a job may train on the file."""
        return not self.errors

    def add(self, finding: Finding, *, to: list[Finding]) -> None:
        """Count a finding, and list it if its code has room."""
        self.counts[finding.code] += 1
        if self.counts[finding.code] <= MAX_REPORTED:
            to.append(finding)


def validate(path: Path) -> Report:
    """Read a whole training file and report everything that is wrong with it."""
    report = _read(
        path, parse_line, max_lines=MAX_EXAMPLES, key=lambda one: (one.messages, one.completion), said=_same_example
    )
    if report.valid and report.n_examples < MIN_EXAMPLES:
        message = f"The file has {report.n_examples} examples; training needs at least {MIN_EXAMPLES}."
        report.add(Finding("too_few_examples", None, message, "Add demonstrations."), to=report.errors)
    return report


def validate_suite(path: Path) -> Report:
    """Read a whole suite file and report everything that is wrong with it."""
    by_likelihood: list[bool] = []

    def parse(raw: bytes, line: int) -> Question:
        question = parse_question(raw, line)
        by_likelihood.append(question.scorer == "nll")
        if by_likelihood[-1] != by_likelihood[0]:
            message = "Some lines of the file have the scorer nll and some another."
            raise Malformed("mixed_scorers", message, "Put the questions with scorer nll into a file of their own.")
        return question

    report = _read(path, parse, max_lines=MAX_QUESTIONS, key=lambda one: one.messages, said=_same_prompt)
    if report.valid and not report.n_examples:
        report.add(Finding("too_few_examples", None, "The file is empty.", "Add questions."), to=report.errors)
    return report


def _read(
    path: Path,
    parse: Callable[[bytes, int], Demonstration],
    *,
    max_lines: int,
    key: Callable[[Demonstration], object],
    said: Callable[[int], tuple[str, str]],
) -> Report:
    """Validate line by line.

    Args:
        path: The file.
        parse: Reads a line, or says what is wrong with it.
        max_lines: The file may have.
        key: What makes two lines the same.
        said: Message and hint of a line that is the same as an earlier one.
    """
    report, digests, lines = Report(), array("Q"), array("L")
    with path.open("rb") as source:
        for number, raw in enumerate(raw_lines(source), 1):
            if number > max_lines:
                message = f"The file has more than {max_lines} lines."
                report.add(Finding("too_many_examples", number, message, "Split it."), to=report.errors)
                break
            try:
                demonstration = parse(raw, number)
            except Malformed as bad:
                report.add(Finding(bad.code, number, bad.message, bad.hint, bad.path), to=report.errors)
                continue
            _measure(report, demonstration)
            digests.append(_digest(key(demonstration)))
            lines.append(number)
    for line, first in _repeated(digests, lines):
        report.add(Finding("duplicate_example", line, *said(first)), to=report.warnings)
    return report


def _same_example(first: int) -> tuple[str, str]:
    return f"The same example as line {first}.", "Remove it, unless it should count twice."


def _same_prompt(first: int) -> tuple[str, str]:
    message = f"The same prompt as line {first}: only that line is asked, for copies make no evidence."
    return message, 'Remove it; what else is right goes into the "expected" of that line.'


def _repeated(digests: Sequence[int], lines: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Lines whose digest came before, with the line where it did."""
    twice = {digest for digest, following in pairwise(sorted(digests)) if digest == following}
    first_lines: dict[int, int] = {}
    for digest, line in zip(digests, lines, strict=True):
        if digest in twice and (first := first_lines.setdefault(digest, line)) != line:
            yield line, first


def _digest(key: object) -> int:
    """64 bits are enough to warn of equal examples, and a million of them are 8 MB."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest())


def _measure(report: Report, demonstration: Demonstration) -> None:
    report.n_examples += 1
    report.prompt_bytes_max = max(report.prompt_bytes_max, demonstration.prompt_bytes)
    report.completion_bytes_max = max(report.completion_bytes_max, demonstration.completion_bytes)
    report.document_bytes_max = max(report.document_bytes_max, demonstration.document_bytes)
    report.messages_max = max(report.messages_max, len(demonstration.messages))
    report.roles |= {message["role"] for message in demonstration.messages}
