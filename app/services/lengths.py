"""How long demonstrations are in the tokens of a base: whether a job's all fit, and the figures of a file."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from math import ceil
from pathlib import Path
from statistics import fmean
from threading import Lock
from typing import Any, Final

from app.db.models import BaseModel, File
from app.domain.demonstrations import Demonstration, stream_demonstrations
from app.domain.errors import Invalid
from app.domain.estimates import Lengths
from app.domain.evaluation import ScorerName, scorer_by_look, unusable
from app.domain.questions import Question, stream_questions
from app.domain.training import Hyperparameters, SdftHyperparameters
from app.domain.validation import MAX_REPORTED, Finding
from app.services import blobs
from app.services.base_models import TokenCounter, template_tokens
from app.services.files import SUITE_PURPOSE
from app.storage.store import Store

MAX_COUNTED: Final = 1000
"""Examples that figures are made from, evenly spread over the file."""
_MAX_KEPT: Final = 128
_kept: "dict[tuple[str, str, str], FileLengths]" = {}
_keeping = Lock()

_REPLAYS: Final = {"multi_turn": 1, "multi_turn_twice": 2}
"""How often a teacher's template plays the last exchange before it asks again; the other templates add words only."""
_PAPER_WORDS: Final = 40
"""Tokens of the paper's wording around a demonstration, rounded up."""
_DOCUMENT_BREAK: Final = 2
"""Tokens between a document and the question, at most."""


def may_not_fit(base: BaseModel, file: File, hyperparameters: Hyperparameters) -> bool:
    """Whether any example can be too long for the base; if not, nothing needs to be read or counted."""
    stats = (file.validation or {})["stats"]
    longest = _at_most(
        base,
        hyperparameters,
        num_messages=stats["messages_max"],
        prompt_bytes=stats["prompt_bytes_max"],
        completion_bytes=stats["completion_bytes_max"],
        document_bytes=stats.get("document_bytes_max", 0),
    )
    return longest > base.context_tokens


def _at_most(
    base: BaseModel,
    hyperparameters: Hyperparameters,
    *,
    num_messages: int,
    prompt_bytes: int,
    completion_bytes: int,
    document_bytes: int,
) -> int:
    """Tokens that an example can take at most, as each is at least one byte of its texts."""
    added = {role: template_tokens(base.overheads, [role]) for role in ("system", "user", "assistant", "tool")}
    prompt = prompt_bytes + (num_messages + 1) * max(0, *added.values())
    replays = _replays(hyperparameters)
    document = document_bytes + _DOCUMENT_BREAK
    teacher = document + (1 + replays) * prompt + max(1, replays) * completion_bytes + _PAPER_WORDS
    return teacher + _answer(hyperparameters, completion_bytes)


def check_fit(
    counter: TokenCounter, store: Store, base: BaseModel, file: File, hyperparameters: Hyperparameters, *, param: str
) -> None:
    """Refuse examples that the base could only see cut.

    Raises:
        Invalid: Some do not fit; ``errors`` has their lines.
    """
    with _local(store, file) as path:
        found = [
            finding
            for demonstration in stream_demonstrations(path)
            if _may_be_too_long(base, demonstration, hyperparameters)
            and (finding := _too_long(counter, base.context_tokens, demonstration, hyperparameters))
        ]
    if found:
        do_not_fit = "1 example does not fit" if len(found) == 1 else f"{len(found)} examples do not fit"
        message = f"{do_not_fit} {base.name}. Line {found[0].line}: {found[0].message} {found[0].hint}"
        raise Invalid(found[0].code, message, param=param, **_listed(found))


def check_scorer(store: Store, file: File, scorer: ScorerName) -> None:
    """Refuse a scorer that cannot compare with every answer: which of them are held out is known to the worker alone.

    Raises:
        Invalid: There are some; ``errors`` has their lines.
    """
    hint = "Correct the answer, or name another scorer."
    with _local(store, file) as path:
        found = [
            Finding("unusable_expected", one.line, f"With scorer {scorer}: {reason}.", hint)
            for one in stream_demonstrations(path)
            if (reason := unusable(scorer, one.completion))
        ]
    if found:
        answers = "1 answer" if len(found) == 1 else f"{len(found)} answers"
        message = (
            f"The scorer {scorer} cannot compare with {answers} of {file.filename}, and any may be held out. "
            f"Line {found[0].line}: {found[0].message} {hint}"
        )
        raise Invalid("unusable_expected", message, param="evaluation.scorer", **_listed(found))


def _listed(found: Sequence[Finding]) -> dict[str, Any]:
    """Findings as an error has them: the first, and how many there are of each code."""
    return {
        "errors": [asdict(one) for one in found[:MAX_REPORTED]],
        "counts": Counter(one.code for one in found),
    }


@dataclass(frozen=True)
class FileLengths:
    """How long a file's examples are, and how answers would be judged by them, from at most ``MAX_COUNTED`` of them.

    Args:
        num_examples: In the file.
        lines: Of the counted examples.
        prompts: Their tokens.
        demonstrations: Their tokens, less the one that ends a turn.
        documents: Their tokens, with what parts them from the question; 0 where there is none.
        judged: Whether answers are compared with them unless a scorer is named, and not their likelihood alone.
    """

    num_examples: int
    lines: list[int]
    prompts: list[int]
    demonstrations: list[int]
    documents: list[int]
    judged: bool

    @property
    def means(self) -> Lengths:
        """Of all, with the token that ends a turn; the student's answers are taken to be as long as demonstrations."""
        demonstration = fmean(self.demonstrations) + 1
        return Lengths(fmean(self.prompts), demonstration, demonstration, fmean(self.documents))

    @property
    def longest(self) -> Lengths:
        """Of each part, as ``means`` counts them; they need not be of one example."""
        demonstration = max(self.demonstrations) + 1
        return Lengths(max(self.prompts), demonstration, demonstration, max(self.documents))

    def demonstration_percentile(self, share: float) -> int:
        """A length that so large a share does not exceed, with the token that ends a turn."""
        return sorted(self.demonstrations)[ceil(share * len(self.demonstrations)) - 1] + 1

    def longer_than(self, num_tokens: int) -> list[int]:
        """Lines, of those that were counted, whose demonstration does not fit so many tokens."""
        return [line for line, length in zip(self.lines, self.demonstrations, strict=True) if length + 1 > num_tokens]


def measure(counter: TokenCounter, store: Store, file: File) -> FileLengths:
    """Count a file's tokens; of a large file, those of examples spread evenly over it.

    It never changes, and counting may take minutes: the latest are kept.
    """
    key = (blobs.blob_of(file).sha256, file.purpose, counter.fingerprint)
    if (known := _kept.get(key)) is not None:
        return known
    counted = _count(counter, store, file)
    with _keeping:
        _kept[key] = counted
        if len(_kept) > _MAX_KEPT:
            del _kept[next(iter(_kept))]
    return counted


def _count(counter: TokenCounter, store: Store, file: File) -> FileLengths:
    num_examples: int = (file.validation or {})["n_examples"]
    with _local(store, file) as path:
        stream = stream_questions if file.purpose == SUITE_PURPOSE else stream_demonstrations
        sample = list[Demonstration](islice(stream(path), 0, None, ceil(num_examples / MAX_COUNTED)))
    return FileLengths(
        num_examples=num_examples,
        lines=[demonstration.line for demonstration in sample],
        prompts=[counter.prompt(demonstration.messages) for demonstration in sample],
        demonstrations=[counter.text(demonstration.completion) for demonstration in sample],
        documents=[_document(counter, demonstration) for demonstration in sample],
        judged=_scorer(sample) != "nll",
    )


def _scorer(sample: Sequence[Demonstration]) -> ScorerName:
    """Of a file of questions any tells whether all are judged."""
    first = sample[0]
    return first.scorer if isinstance(first, Question) else scorer_by_look([one.completion for one in sample])


def token_figures(counter: TokenCounter, store: Store, file: File) -> dict[str, Any]:
    """Distributions of a file's lengths, from at most ``MAX_COUNTED`` examples."""
    counted = measure(counter, store, file)
    teachers = [
        sum(parts) + _PAPER_WORDS
        for parts in zip(counted.prompts, counted.demonstrations, counted.documents, strict=True)
    ]
    return {
        "n_counted": len(counted.lines),
        "prompt": _figures(counted.prompts),
        "demonstration": _figures(counted.demonstrations),
        "teacher_prompt": _figures(teachers),
    }


def _may_be_too_long(base: BaseModel, demonstration: Demonstration, hyperparameters: Hyperparameters) -> bool:
    """Whether its tokens have to be counted, which takes ten times as long as reading it."""
    longest = _at_most(
        base,
        hyperparameters,
        num_messages=len(demonstration.messages),
        prompt_bytes=demonstration.prompt_bytes,
        completion_bytes=demonstration.completion_bytes,
        document_bytes=demonstration.document_bytes,
    )
    return longest > base.context_tokens


def _too_long(
    counter: TokenCounter, context_tokens: int, demonstration: Demonstration, hyperparameters: Hyperparameters
) -> Finding | None:
    completion = counter.text(demonstration.completion)
    prompt = counter.prompt(demonstration.messages)
    answer = _answer(hyperparameters, completion)
    teacher = shortest = prompt
    if isinstance(hyperparameters, SdftHyperparameters):
        teacher = shortest = prompt + completion + _document(counter, demonstration)
        if replays := _replays(hyperparameters):
            teacher += replays * _exchange(counter, demonstration) + (replays - 1) * completion
        elif hyperparameters.decided().template == "paper":
            teacher += _PAPER_WORDS
    if teacher + answer <= context_tokens:
        return None
    hint = _way_out(context_tokens, teacher=teacher, shortest=shortest, answer=answer, completion=completion)
    if prompt + answer > context_tokens:
        message = f"Prompt and answer have {prompt} + {answer} tokens; the context is {context_tokens}."
        return Finding("example_over_context", demonstration.line, message, hint)
    message = f"The teacher's prompt and the answer have {teacher} + {answer} tokens; the context is {context_tokens}."
    return Finding("teacher_prompt_over_context", demonstration.line, message, hint)


def _way_out(context_tokens: int, *, teacher: int, shortest: int, answer: int, completion: int) -> str:
    """What would make an example fit; ``shortest`` is the teacher's prompt by the shortest template."""
    ways = []
    if teacher + completion <= context_tokens:
        ways.append("lower max_completion_tokens")
    if shortest + answer <= context_tokens:
        ways.append("choose a shorter template")
    if not ways and shortest + completion <= context_tokens:
        ways.append("lower max_completion_tokens and choose a shorter template")
    *first, last = ["Shorten the example", *(ways or ["remove it"])]
    return f"{', '.join(first)} or {last}."


def _document(counter: TokenCounter, demonstration: Demonstration) -> int:
    return 0 if demonstration.document is None else counter.text(demonstration.document) + _DOCUMENT_BREAK


def _exchange(counter: TokenCounter, demonstration: Demonstration) -> int:
    """Tokens that one more showing of the last exchange adds, without the answer's content."""
    start = max(index for index, message in enumerate(demonstration.messages) if message["role"] == "user")
    answer = {"role": "assistant", "content": ""}
    return counter.prompt([*demonstration.messages[start:], answer]) - counter.prompt([])


def _replays(hyperparameters: Hyperparameters) -> int:
    if not isinstance(hyperparameters, SdftHyperparameters):
        return 0
    return _REPLAYS.get(hyperparameters.decided().template, 0)


def _answer(hyperparameters: Hyperparameters, completion: int) -> int:
    """Room for the answer: as long as the demonstration at least, or as long as asked for."""
    asked = hyperparameters.max_completion_tokens if isinstance(hyperparameters, SdftHyperparameters) else "auto"
    return completion if asked == "auto" else max(asked, completion)


def _figures(values: Sequence[int]) -> dict[str, Any]:
    ordered = sorted(values)
    at = {name: ordered[ceil(share * len(ordered)) - 1] for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))}
    bins = Counter(1 << max(value - 1, 0).bit_length() for value in ordered)
    histogram = [{"up_to": upper, "count": count} for upper, count in sorted(bins.items())]
    return {"min": ordered[0], **at, "max": ordered[-1], "histogram": histogram}


@contextmanager
def _local(store: Store, file: File) -> Iterator[Path]:
    """The file's bytes on a disk, while they are read."""
    path = store.stage()
    try:
        store.fetch(blobs.blob_of(file), path)
        yield path
    finally:
        path.unlink(missing_ok=True)
