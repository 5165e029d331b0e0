"""Puts every question to every arm, once. Knows a policy's doors and no model; judges nothing.

All arms decode the same prompts greedily under the same limits, so every later comparison is paired. The base's answers
serve three times: as its score, as the reference of the others, and as the text along which drift is measured.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import mean
from typing import Any, Final, Literal, Protocol

from app.domain.arms import TRAINED
from app.domain.evaluation import count_decoded
from worker.evals.memory import AnswerMemory
from worker.evals.suites import Item, Suite, Unaskable
from worker.sdft.policy import Arm, Rollout
from worker.sdft.prompts import teacher_messages

ArmName = Literal["base", "parent", "candidate", "supervised", "ceiling"]
"""Who answers. ``candidate`` is the new version; ``supervised`` is its twin, where one was trained; ``ceiling`` is what
the candidate was distilled from: the starting point with that very item's demonstration in its context."""

Prompts = list[list[int]]

DRIFT_ITEMS: Final = 16
"""Prompts of each sort along whose answers drift and entropy are measured."""


class Answering(Protocol):
    """The part of a policy that is needed here."""

    context_tokens: int

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids of a conversation up to where the assistant begins to speak."""

    def encode_completion(self, text: str) -> list[int]:
        """Ids of an assistant turn, its end included."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""

    def greedy(
        self, prompts: Prompts, max_new_tokens: list[int], *, arm: Arm, on_batch: Callable[[int], None]
    ) -> list[Rollout]:
        """The most likely answers."""

    def nll(self, prompts: Prompts, completions: Prompts, *, arm: Arm) -> list[float]:
        """Mean negative log-likelihood per completion token."""

    def divergence(self, prompts: Prompts, completions: Prompts, *, p: Arm, q: Arm) -> list[tuple[float, float, float]]:
        """Mean KL(p || q), KL(q || p) and overlap of the ten likeliest tokens per completion token."""

    def entropy(self, prompts: Prompts, completions: Prompts, *, arm: Arm) -> list[float]:
        """Mean entropy of the next token along a completion."""

    def weight_norms(self, *, arm: Arm) -> dict[str, tuple[float, float]]:
        """Norms of what an arm adds to the base's weights, and of these, by kind of module."""


@dataclass(frozen=True)
class Answer:
    """What an arm said, and whether it came to an end by itself.

    Args:
        text: As a reader sees it.
        ids: The same as tokens; none where it was another's to ask.
        stopped: Whether a stop id ended it.
        mark: What it is worth to who asked it; ``None`` leaves that to the item's scorer.
    """

    text: str
    ids: tuple[int, ...]
    stopped: bool
    mark: float | None = None


class Peculiar(Protocol):
    """A suite that asks and marks in a way of its own."""

    @property
    def suite(self) -> Suite:
        """Its items, for the report."""

    @property
    def notes(self) -> Sequence[str]:
        """What a reader should know of their choice."""

    def ask(self, arm: Arm, on_items: Callable[[int], None]) -> list[Answer]:
        """An arm's answers to all items, marked.

        Raises:
            Unaskable: It turns out that it cannot be asked.
        """


@dataclass(frozen=True)
class Drift:
    """Divergence per token along the base's own answers to ``n`` prompts of one sort, and overlap of likely tokens."""

    prompts: Literal["neutral", "task"]
    n: int
    base_to_candidate: float
    candidate_to_base: float
    candidate_overlap: float
    base_to_supervised: float | None = None
    supervised_to_base: float | None = None
    supervised_overlap: float | None = None


@dataclass
class Measured:
    """All that was observed, keyed by suite and arm; lists follow the suite's items."""

    suites: tuple[Suite, ...]
    answers: dict[tuple[str, ArmName], list[Answer]] = field(default_factory=dict)
    nll: dict[tuple[str, ArmName], list[float]] = field(default_factory=dict)
    drift: list[Drift] = field(default_factory=list)
    entropy: dict[tuple[str, ArmName], float] = field(default_factory=dict)
    """Of the next token along an arm's own answers, where drift is measured too."""
    weight_norms: dict[ArmName, dict[str, tuple[float, float]]] = field(default_factory=dict)
    """Of what was trained, by kind of module: what it adds to the base's weights, and these."""
    seconds: dict[str, float] = field(default_factory=dict)
    num_dropped: int = 0
    """Items that did not fit the context and were asked of nobody."""
    reused: set[tuple[str, ArmName]] = field(default_factory=set)
    """Whose answers to which suite are from an earlier job."""
    notes: list[str] = field(default_factory=list)
    """What a reader should know of what was asked, and what could not be."""
    unasked: dict[str, str] = field(default_factory=dict)
    """Suites of a client's choice that could not be asked in the end, by name, and why."""

    def arms(self, suite: Suite) -> tuple[ArmName, ...]:
        """Who was asked."""
        return tuple(arm for name, arm in self.answers if name == suite.name)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add up the seconds of a phase."""
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


def evaluate(
    policy: Answering,
    suites: Sequence[Suite],
    *,
    has_parent: bool,
    has_twin: bool = False,
    template: str | None,
    memory: AnswerMemory | None,
    on_progress: Callable[[int, int], None],
    peculiar: Sequence[Peculiar] = (),
    known: Measured | None = None,
) -> Measured:
    """Ask everything of everyone.

    Args:
        policy: Base, starting point and candidate in one.
        suites: Of all roles, with different names.
        has_parent: Whether the starting point is another than the base.
        has_twin: Whether the policy has a supervised twin of the candidate.
        template: How the teacher is shown a demonstration; ``None`` leaves the ceiling out.
        memory: Of answers to the suite that ships. What a client asks or expects is never left on a worker.
        on_progress: Told how many of how many questions are done.
        peculiar: Suites that ask in a way of their own, besides.
        known: The same suites, asked of a policy from the same start: what was not trained is not asked again, and
            drift, entropy and weights are not measured.
    """
    run = _Run(policy, has_parent, has_twin, template, memory)
    fitting = tuple(run.fitting(suite) for suite in suites)
    measured = Measured(fitting, num_dropped=_num_items(suites) - _num_items(fitting))
    plan = [(suite, arm) for suite in fitting for arm in run.arms(suite)]
    if known:
        measured.answers = {(suite.name, arm): known.answers.get((suite.name, arm), []) for suite, arm in plan}
        measured.nll = {key: value for key, value in known.nll.items() if key[1] not in TRAINED}
        plan = [(suite, arm) for suite, arm in plan if arm in TRAINED]
    likely = [(suite, arm) for suite, arm in plan if suite.role in {"skill", "earlier", "other"} or not suite.judged]
    drifting = [suite for suite in fitting if suite.role in {"skill", "general"} and suite.items and not known]
    progress = _Progress(
        sum(len(_asked(suite)) for suite, _ in plan)
        + _num_items([suite for suite, _ in likely])
        + len(drifting)
        + sum(len(one.suite.items) * len(run.arms(one.suite)) for one in peculiar),
        on_progress,
    )
    for suite, arm in plan:
        with measured.timed("answers"):
            remembered = run.recall(suite, arm)
            measured.answers[suite.name, arm] = remembered or run.answer(suite, arm, progress.within)
        if remembered:
            measured.reused.add((suite.name, arm))
        progress.add(len(_asked(suite)))
    for suite, arm in likely:
        with measured.timed("likelihoods"):
            measured.nll[suite.name, arm] = run.likelihoods(suite, arm)
        progress.add(len(suite.items))
    for suite in drifting:
        with measured.timed("drift"):
            measured.drift.append(run.drift(suite, measured.answers[suite.name, "base"]))
            for arm in run.arms(suite):
                measured.entropy[suite.name, arm] = run.entropy(suite, arm, measured.answers[suite.name, arm])
        progress.add(1)
    if not known:
        measured.weight_norms = {arm: policy.weight_norms(arm=run.weights(arm)) for arm in run.trained}
    for one in peculiar:
        with measured.timed("tasks"):
            _ask_peculiar(measured, one, run, progress, known)
    return measured


class _Progress:
    """Counts questions; ``within`` takes the count inside the present lot."""

    def __init__(self, total: int, tell: Callable[[int, int], None]) -> None:
        self._done, self._total, self._tell = 0, total, tell

    def within(self, done: int) -> None:
        self._tell(self._done + done, self._total)

    def add(self, count: int) -> None:
        self._done += count
        self._tell(self._done, self._total)


@dataclass(frozen=True)
class _Run:
    """One policy under one set of choices."""

    policy: Answering
    has_parent: bool
    has_twin: bool
    template: str | None
    memory: AnswerMemory | None

    @property
    def trained(self) -> tuple[ArmName, ...]:
        """Arms whose weights this run has made."""
        return TRAINED if self.has_twin else TRAINED[:1]

    def arms(self, suite: Suite) -> tuple[ArmName, ...]:
        """The base never learnt an earlier skill, so it is not asked for those where there is a parent to ask."""
        parent: tuple[ArmName, ...] = ("parent",) if self.has_parent else ()
        if suite.role == "earlier":
            return (*(parent or ("base",)), *self.trained)
        if suite.role == "skill" and self.template is not None:
            return ("base", *parent, *self.trained, "ceiling")
        return ("base", *parent, *self.trained)

    def fitting(self, suite: Suite) -> Suite:
        """The suite less the items that would not fit the context of one of its arms."""
        return replace(suite, items=tuple(item for item in suite.items if self._fits(item, self.arms(suite))))

    def answer(self, suite: Suite, arm: ArmName, on_batch: Callable[[int], None]) -> list[Answer]:
        """An arm's answers to a suite."""
        prompts, limits = self._questions(suite, arm)
        rollouts = self.policy.greedy(prompts, limits, arm=self.weights(arm), on_batch=on_batch)
        if self.memory and suite.role == "general":
            self.memory.keep(self.weights(arm), prompts, limits, rollouts)
        return self._read(rollouts)

    def recall(self, suite: Suite, arm: ArmName) -> list[Answer] | None:
        """The same from an earlier job, if it was asked and is remembered."""
        if self.memory is None or suite.role != "general":
            return None
        rollouts = self.memory.recall(self.weights(arm), *self._questions(suite, arm))
        return None if rollouts is None else self._read(rollouts)

    def likelihoods(self, suite: Suite, arm: ArmName) -> list[float]:
        """How unlikely an arm finds the demonstrations."""
        return self.policy.nll(
            [self._prompt(item, arm) for item in suite.items],
            [self.policy.encode_completion(item.completion) for item in suite.items],
            arm=self.weights(arm),
        )

    def drift(self, suite: Suite, answers: Sequence[Answer]) -> Drift:
        """How far the predictions of what was trained have moved along the base's answers."""
        prompts, said = self._few(suite, "base", answers)

        def moved(arm: Arm) -> tuple[float, float, float]:
            there, back, overlap = zip(*self.policy.divergence(prompts, said, p="base", q=arm), strict=True)
            return mean(there), mean(back), mean(overlap)

        sort: Literal["neutral", "task"] = "neutral" if suite.role == "general" else "task"
        return Drift(sort, len(said), *moved("student"), *(moved("twin") if self.has_twin else ()))

    def entropy(self, suite: Suite, arm: ArmName, answers: Sequence[Answer]) -> float:
        """How uncertain an arm is of the next token along its own answers."""
        return mean(self.policy.entropy(*self._few(suite, arm, answers), arm=self.weights(arm)))

    def _few(self, suite: Suite, arm: ArmName, answers: Sequence[Answer]) -> tuple[Prompts, Prompts]:
        """Prompts spread over a suite, the same for all arms but for how they are put, and an arm's answers to them."""
        spread = range(0, len(answers), max(1, len(answers) // DRIFT_ITEMS))[:DRIFT_ITEMS]
        return [self._prompt(suite.items[index], arm) for index in spread], [
            list(answers[index].ids) for index in spread
        ]

    def _questions(self, suite: Suite, arm: ArmName) -> tuple[Prompts, list[int]]:
        items = _asked(suite)
        return [self._prompt(item, arm) for item in items], [item.max_new_tokens for item in items]

    def _read(self, rollouts: Sequence[Rollout]) -> list[Answer]:
        return [Answer(self.policy.decode(one.ids), tuple(one.ids), one.stopped) for one in rollouts]

    def _fits(self, item: Item, arms: Sequence[ArmName]) -> bool:
        room = max(item.max_new_tokens, len(self.policy.encode_completion(item.completion)))
        views = [arm for arm in arms if arm in {"candidate", "ceiling"}]
        return all(len(self._prompt(item, arm)) + room <= self.policy.context_tokens for arm in views)

    def _prompt(self, item: Item, arm: ArmName) -> list[int]:
        if arm == "ceiling" and self.template is not None:
            return self.policy.encode_chat(teacher_messages(self.template, item))
        return self.policy.encode_chat(item.messages)

    def weights(self, arm: ArmName) -> Arm:
        """Which weights an arm answers with."""
        if arm in {"candidate", "supervised"}:
            return "student" if arm == "candidate" else "twin"
        return "parent" if arm == "parent" or (arm == "ceiling" and self.has_parent) else "base"


def _ask_peculiar(measured: Measured, one: Peculiar, run: _Run, progress: _Progress, known: Measured | None) -> None:
    """Every arm, or none: a suite that fails for one is told of and left out, and the version is not lost for it.

    One that fails for the twin is left out for the twin alone, which decides nothing.
    """
    answers = {}
    for arm in run.arms(one.suite):
        said = known.answers.get((one.suite.name, arm)) if known and arm not in TRAINED else None
        try:
            answers[one.suite.name, arm] = said or one.ask(run.weights(arm), progress.within)
        except Unaskable as error:
            measured.notes.append(str(error) if arm != "supervised" else f"Of plain fine-tuning: {error}")
            if arm != "supervised":
                measured.unasked[one.suite.name] = str(error)
                return
        progress.add(len(one.suite.items))
    measured.answers |= answers
    measured.suites += (one.suite,)
    measured.notes += one.notes


def _num_items(suites: Sequence[Suite]) -> int:
    return sum(len(suite.items) for suite in suites)


def _asked(suite: Suite) -> tuple[Item, ...]:
    """The items that are decoded."""
    return suite.items[: count_decoded(len(suite.items), judged=suite.judged)]
