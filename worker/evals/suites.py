"""What is asked: held-out demonstrations, earlier skills of the lineage, and the general suite that ships.

Splits here, before training, so that nothing asked later was ever trained on. Knows no model.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any, Final, Literal

from app.domain.demonstrations import Demonstration
from app.domain.questions import Question
from app.domain.training import MAX_HELDOUT, MIN_TO_SPLIT, count_heldout
from worker.evals.scorers import NLL

GENERAL_NAME: Final = "general ability"
"""With a space, which no adapter's name may have: suites are told apart by name."""

Role = Literal["skill", "earlier", "other", "general", "client"]
MIN_ANSWER: Final = 64
MAX_ANSWER: Final = 512
"""Tokens that an answer to a client's question may have, where the question does not say."""
Messages = Sequence[Mapping[str, Any]]


class Unaskable(Exception):
    """A suite cannot be asked here; the message is for the client and says what to do."""


@dataclass(frozen=True)
class Item:
    """One question.

    Args:
        id: Unique in its suite.
        kind: What ability it tests.
        messages: The conversation up to the answer.
        expected: Any of these is right; for a demonstration, its completion.
        scorer: Name of the rule that compares.
        max_new_tokens: Longest answer.
        tolerance: Of a scorer that takes one.
        document: What the answer is taken from; shown to the ceiling only.
        refused: Where there are any, an answer must affirm what is expected, and is wrong if it affirms one of these:
            the other class, or how the question begins, which an echo would repeat.
    """

    id: str
    kind: str
    messages: tuple[Mapping[str, Any], ...]
    expected: tuple[str, ...]
    scorer: str
    max_new_tokens: int
    tolerance: float | None = None
    document: str | None = None
    refused: tuple[str, ...] = ()

    @property
    def completion(self) -> str:
        """The answer an expert gave."""
        return self.expected[0]


@dataclass(frozen=True)
class Suite:
    """Questions that are reported together.

    Args:
        name: Shown in the report.
        role: Whether it tests what was taught now, what was taught before, what another version was taught, what nobody
            taught, or what a client wants to know besides.
        items: In a fixed order; all arms see the same.
        rehearsed: Kinds of which the rehearsal prompts have examples too, on other subjects.
        num_trained: By arm, questions whose prompt it, or a version that it goes on from, was trained on. None where
            that is not known; an arm that is not named has seen none.
        num_repeated: Lines of a client's file that are no items, because an earlier one has their prompt.
    """

    name: str
    role: Role
    items: tuple[Item, ...]
    rehearsed: frozenset[str] = frozenset()
    num_trained: Mapping[str, int | None] = field(default_factory=dict)
    num_repeated: int = 0

    @property
    def judged(self) -> bool:
        """Whether answers are compared; else only the demonstrations' likelihood counts."""
        return all(item.scorer != NLL for item in self.items)

    @property
    def sha256(self) -> str:
        """Digest of what is asked, what is right, and by what rule."""
        asked = [[item.id, list(item.messages), item.expected, item.scorer, item.max_new_tokens] for item in self.items]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


@dataclass(frozen=True)
class Split:
    """A training part and questions that it does not hold.

    Args:
        training: To train on.
        heldout: To ask.
        statement: Says in a sentence how they were parted; ``None`` where nothing was asked that was held out.
        caveats: What that leaves open.
    """

    training: list[Demonstration]
    heldout: list[Demonstration]
    statement: str | None
    caveats: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Digest of the held-out part."""
        return hashlib.sha256(render_demonstrations(self.heldout).encode()).hexdigest()


def split(
    demonstrations: Sequence[Demonstration],
    seed: int,
    *,
    asked: AbstractSet[str] = frozenset(),
    taught: AbstractSet[str] = frozenset(),
) -> Split:
    """Part a training file: a tenth is held out, at least 8 and at most 200; nothing if there are fewer than 24.

    The choice depends on the seed and on each prompt alone, not on the file's order; equal prompts stay together.

    Args:
        demonstrations: The file.
        seed: Of the choice.
        asked: Prompts, by digest, that earlier versions of the lineage are measured on: never trained on.
        taught: Prompts that earlier versions were trained on: never held out.
    """
    prompts = {prompt_sha256(one.messages): one for one in reversed(demonstrations)}
    size = count_heldout(len(prompts), of_validation=False)
    free = sorted(_shuffled(prompts.keys() - taught, seed), key=lambda key: key not in asked)
    chosen = sorted(free[:size])
    kept_back = {*asked, *chosen}
    statement = (
        f"{len(chosen)} of {len(prompts)} different prompts of the training file were held out before training."
        if size
        else f"Nothing was held out: {len(prompts)} different prompts are fewer than {MIN_TO_SPLIT}."
    )
    return Split(
        [one for one in demonstrations if prompt_sha256(one.messages) not in kept_back],
        [prompts[key] for key in chosen],
        statement + _of_lineage(prompts.keys() & taught, prompts.keys() & asked),
    )


def hold_out(
    training: Sequence[Demonstration], validation: Sequence[Demonstration], seed: int, *,
    asked: AbstractSet[str] = frozenset(), taught: AbstractSet[str] = frozenset(),
) -> Split:  # fmt: skip
    """Use a validation file: its prompts less those that are or were trained on, at most 200.

    ``asked`` and ``taught`` are as ``split`` has them.
    """
    kept = [one for one in training if prompt_sha256(one.messages) not in asked]
    trained = {prompt_sha256(one.messages) for one in kept}
    prompts = {prompt_sha256(one.messages): one for one in reversed(validation)}
    unseen = prompts.keys() - trained - taught
    chosen = sorted(_shuffled(unseen, seed)[: count_heldout(len(unseen), of_validation=True)])
    statement = (
        f"{len(chosen)} of the validation file's {len(validation)} examples were used (at most {MAX_HELDOUT}); "
        f"{len(validation) - len(prompts)} repeated a prompt, "
        f"{len(prompts.keys() & trained)} were in the training file."
    )
    withheld = {prompt_sha256(one.messages) for one in training} & asked
    return Split(kept, [prompts[key] for key in chosen], statement + _of_lineage(prompts.keys() & taught, withheld))


def _of_lineage(not_asked: AbstractSet[str], not_trained: AbstractSet[str]) -> str:
    said = ""
    if not_asked:
        said += f" {len(not_asked)} prompts taught to an earlier version were not held out."
    if not_trained:
        said += f" {len(not_trained)} prompts that an earlier version is measured on were not trained on."
    return said


def demonstration_suite(
    name: str,
    role: Role,
    demonstrations: Sequence[Demonstration],
    *,
    scorer: str,
    max_new_tokens: int,
    tolerance: float | None = None,
) -> Suite:
    """Held-out demonstrations as questions."""
    items = tuple(
        Item(f"{index:03d}", name, one.messages, (one.completion,), scorer, max_new_tokens, tolerance, one.document)
        for index, one in enumerate(demonstrations, 1)
    )
    return Suite(name, role, items)


def question_suite(name: str, questions: Sequence[Question]) -> Suite:
    """A client's questions, equal prompts once. An answer may be as long as what is expected, in bytes, within bounds.

    Answers to equal prompts are equal: counted twice, they would narrow intervals without telling anything.

    Args:
        name: Of the suite.
        questions: Of its file.
    """
    different: dict[str, Question] = {}
    for one in questions:
        different.setdefault(repr(one.messages), one)
    items = tuple(
        Item(
            id=f"line {one.line}",
            kind=name,
            messages=one.messages,
            expected=one.expected,
            scorer=one.scorer,
            max_new_tokens=one.max_tokens
            or min(MAX_ANSWER, max(MIN_ANSWER, *(len(text.encode()) for text in one.expected))),
            tolerance=one.tolerance,
        )
        for one in different.values()
    )
    return Suite(name, "client", items, num_repeated=len(questions) - len(different))


def count_trained(suite: Suite, trained: Mapping[str, AbstractSet[str]], *, in_doubt: Collection[str] = ()) -> Suite:
    """The suite, with how many of its questions each arm has seen.

    Args:
        suite: Any.
        trained: By arm, digests of the prompts that it, or a version that it goes on from, was trained on.
        in_doubt: Arms of which not all of these are known: that none is among the questions says nothing.
    """
    digests = [prompt_sha256(item.messages) for item in suite.items]
    counts = {arm: sum(digest in prompts for digest in digests) for arm, prompts in trained.items()}
    told = {arm: None if arm in in_doubt and not count else count for arm, count in counts.items()}
    return replace(suite, num_trained=told)


def general_suite(*, rehearsed: bool = True) -> Suite:
    """The retention suite that ships with the project.

    Args:
        rehearsed: Whether training had the shipped rehearsal prompts.
    """
    kinds = frozenset(row["kind"] for row in _shipped("rehearsal.jsonl") if rehearsed)
    items = tuple(
        Item(
            id=row["id"],
            kind=row["kind"],
            messages=({"role": "user", "content": row["prompt"]},),
            expected=tuple(row["expected"]),
            scorer=row["scorer"],
            max_new_tokens=row["max_new_tokens"],
            refused=tuple(row.get("refused", ())),
        )
        for row in _shipped("general.jsonl")
    )
    return Suite(GENERAL_NAME, "general", items, kinds)


def neutral_prompts() -> list[Messages]:
    """Neutral prompts to rehearse with; they share no subject with the general suite."""
    return [[{"role": "user", "content": row["prompt"]}] for row in _shipped("rehearsal.jsonl")]


def render_demonstrations(demonstrations: Sequence[Demonstration]) -> str:
    """A file that ``read_demonstrations`` reads back."""
    return "".join(json.dumps(_record(one), ensure_ascii=False) + "\n" for one in demonstrations)


def _record(demonstration: Demonstration) -> dict[str, Any]:
    answer = {"role": "assistant", "content": demonstration.completion}
    document = {} if demonstration.document is None else {"document": demonstration.document}
    return {"messages": [*demonstration.messages, answer], **document}


def prompt_sha256(messages: Messages) -> str:
    """Digest of a prompt, blind to case and spacing."""
    turns = [[message["role"], " ".join(message["content"].casefold().split())] for message in messages]
    return hashlib.sha256(json.dumps(turns).encode()).hexdigest()


def _shuffled(keys: Iterable[str], seed: int) -> list[str]:
    return sorted(keys, key=lambda key: hashlib.sha256(f"{seed}/{key}".encode()).digest())


def _shipped(name: str) -> list[dict[str, Any]]:
    text = resources.files("worker.data").joinpath(name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
