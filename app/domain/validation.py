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

from app.domain.characters import is_blank
from app.domain.demonstrations import Demonstration, parse_line, raw_lines
from app.domain.file_formats import HEAD_BYTES, other_format
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
    """What validation found. ``counts`` has every finding by code, the lists the first hundred of each.

    ``num_prompts`` are different ones, as ``worker.evals.suites`` tells them apart: blind to case and spacing.
    """

    n_examples: int = 0
    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    prompt_bytes_max: int = 0
    completion_bytes_max: int = 0
    document_bytes_max: int = 0
    messages_max: int = 0
    num_prompts: int = 0
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
    report, read = _read(path, parse_line, max_lines=MAX_EXAMPLES, key=lambda one: (one.messages, one.completion))
    for line, first in _repeated(read.keys, read.lines):
        message, hint = f"The same example as line {first}.", "Remove it, unless it should count twice."
        report.add(Finding("duplicate_example", line, message, hint), to=report.warnings)
    for line, first in _contradicted(read):
        message = f"The same prompt as line {first}, with another answer."
        hint = "Keep the answer that is right, unless several are."
        report.add(Finding("contradictory_answer", line, message, hint), to=report.warnings)
    for line in read.without_prompt:
        hint = "Write what the answer answers, or remove the line."
        report.add(Finding("empty_prompt", line, "The prompt is empty.", hint), to=report.warnings)
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

    report, read = _read(path, parse, max_lines=MAX_QUESTIONS, key=lambda one: one.messages)
    for line, first in _repeated(read.keys, read.lines):
        message = f"The same prompt as line {first}: only that line is asked, for copies make no evidence."
        hint = 'Remove it; what else is right goes into the "expected" of that line.'
        report.add(Finding("duplicate_example", line, message, hint), to=report.warnings)
    if report.valid and not report.n_examples:
        report.add(Finding("too_few_examples", None, "The file is empty.", "Add questions."), to=report.errors)
    return report


@dataclass(frozen=True)
class _Read:
    """The lines that could be read, and digests of each to compare them by."""

    lines: "array[int]" = field(default_factory=lambda: array("L"))
    keys: "array[int]" = field(default_factory=lambda: array("Q"))
    prompts: "array[int]" = field(default_factory=lambda: array("Q"))
    answers: "array[int]" = field(default_factory=lambda: array("Q"))
    without_prompt: list[int] = field(default_factory=list)


def _read(
    path: Path,
    parse: Callable[[bytes, int], Demonstration],
    *,
    max_lines: int,
    key: Callable[[Demonstration], object],
) -> tuple[Report, _Read]:
    """Validate line by line.

    Args:
        path: The file.
        parse: Reads a line, or says what is wrong with it.
        max_lines: The file may have.
        key: What makes two lines the same.
    """
    report, read = Report(), _Read()
    with path.open("rb") as source:
        if found := other_format(source.read(HEAD_BYTES)):
            message = f"This looks like {found[0]}, not like JSON lines."
            report.add(Finding("not_json_lines", None, message, found[1]), to=report.errors)
            return report, read
        source.seek(0)
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
            read.lines.append(number)
            read.keys.append(_digest(key(demonstration)))
            read.prompts.append(_digest(_prompt(demonstration)))
            read.answers.append(_digest(demonstration.completion.split()))
            if all(is_blank(message["content"]) for message in demonstration.messages):
                read.without_prompt.append(number)
    report.num_prompts = len(set(read.prompts))
    return report, read


def _prompt(demonstration: Demonstration) -> list[tuple[str, str]]:
    return [(one["role"], " ".join(one["content"].casefold().split())) for one in demonstration.messages]


def _repeated(digests: Sequence[int], lines: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Lines whose digest came before, with the line where it did."""
    first_places = _first_places(digests)
    for place, digest in enumerate(digests):
        if (first := first_places.get(digest, place)) != place:
            yield lines[place], lines[first]


def _contradicted(read: _Read) -> Iterator[tuple[int, int]]:
    """Lines whose prompt came before with another answer, with the line where it did."""
    first_places = _first_places(read.prompts)
    for place, digest in enumerate(read.prompts):
        first = first_places.get(digest, place)
        if read.answers[first] != read.answers[place]:
            yield read.lines[place], read.lines[first]


def _first_places(digests: Sequence[int]) -> dict[int, int]:
    """Where each digest that comes more than once is first."""
    twice = {digest for digest, following in pairwise(sorted(digests)) if digest == following}
    first_places: dict[int, int] = {}
    for place, digest in enumerate(digests):
        if digest in twice:
            first_places.setdefault(digest, place)
    return first_places


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
