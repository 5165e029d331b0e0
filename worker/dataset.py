"""From an attempt's files to the parts a run works with: training and held-out demonstrations, and their lengths.

Knows the attempt's folder and a chat template; no weights.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from app.domain.demonstrations import read_demonstrations
from app.domain.errors import Unprocessable
from app.domain.evaluation import TASK_PREFIX, unusable
from app.domain.questions import stream_questions
from app.domain.trainer_protocol import EarlierSkill, EvaluationOrder, Order, SuiteFile
from app.domain.training import MAX_COMPLETION_TOKENS, DatasetFacts, TrainingConfig
from worker.evals.schema import Bounds, LineageScore
from worker.evals.scorers import ScorerChoice, infer_scorer
from worker.evals.suites import (
    Messages,
    Split,
    Suite,
    count_trained,
    demonstration_suite,
    general_suite,
    hold_out,
    prompt_sha256,
    question_suite,
    split,
)
from worker.hf.chat import Chat

ANSWER_MARGIN = 1.5
"""An evaluated answer may be this much longer than the longest demonstration before it is cut."""


def part(order: Order, folder: Path) -> Split:
    """The training part and what is held out of it, before anything is trained.

    Holds for the lineage: what an earlier version was measured on is not trained on now, and what it was trained on is
    not held out now. Else both what was learned and what was kept would look better than they are.

    Raises:
        Unprocessable: Nothing is left to train on.
    """
    asked, taught = asked_before(order, folder), taught_before(order, folder)
    demonstrations = read_demonstrations(folder / "train.jsonl")
    if order.validation_sha256 is None:
        parts = split(demonstrations, order.seed, asked=asked, taught=taught)
    else:
        validation = read_demonstrations(folder / "validation.jsonl")
        parts = hold_out(demonstrations, validation, order.seed, asked=asked, taught=taught)
    if not parts.training:
        raise Unprocessable(
            "nothing_to_train",
            "Every prompt of the training file is one that an earlier version is measured on. Add others.",
            param="training_file",
        )
    return replace(parts, caveats=tuple(caveats_of_deleted(order.deleted)))


def caveats_of_deleted(versions: Sequence[str]) -> list[str]:
    """What is to be said where the training files of these are gone."""
    if not versions:
        return []
    files, them = f"The training file of {versions[0]} has", "it"
    if len(versions) > 1:
        files, them = f"The training files of {', '.join(versions)} have", "them"
    return [
        f"{files} been deleted: questions that were in {them} cannot be told, and flatter what learned from {them}."
    ]


def asked_before(order: Order, folder: Path) -> set[str]:
    """Digests of the prompts that earlier versions of the lineage are measured on."""
    return prompts_of(folder, [skill.path for skill in order.earlier])


def taught_before(order: Order, folder: Path) -> set[str]:
    """Digests of the prompts that earlier versions of the lineage were trained on, as far as their files are there."""
    return prompts_of(folder, order.rehearsal) - asked_before(order, folder)


def measured_on(order: Order, folder: Path, data: Split) -> set[str]:
    """Digests of all prompts that the job's report asks, but for those of lm-evaluation-harness."""
    asked: list[Messages] = [one.messages for one in data.heldout]
    asked += [one.messages for suite in order.suites for one in stream_questions(folder / suite.path)]
    asked += [item.messages for item in general_suite().items]
    return asked_before(order, folder) | set(map(prompt_sha256, asked))


def prompts_of(folder: Path, paths: Sequence[str]) -> set[str]:
    """Digests of all prompts of files of demonstrations."""
    return {prompt_sha256(one.messages) for path in paths for one in read_demonstrations(folder / path)}


@dataclass(frozen=True)
class Lengths:
    """Lengths of demonstrations in tokens of the job's base.

    Args:
        facts: Of the training part, for ``app.domain.training.resolve``.
        longest_answer: New tokens that an evaluated answer may have.
    """

    facts: DatasetFacts
    longest_answer: int

    @classmethod
    def of(cls, data: Split, chat: Chat) -> Self:
        """Measure both parts."""
        trained = sorted(len(chat.encode_completion(one.completion)) for one in data.training)
        asked = [len(chat.encode_completion(one.completion)) for one in data.heldout]
        return cls(
            DatasetFacts(
                num_examples=len(trained),
                demonstration_tokens_p50=math.ceil(statistics.median(trained)),
                demonstration_tokens_p99=trained[math.ceil(0.99 * len(trained)) - 1],
                demonstration_tokens_max=trained[-1],
            ),
            min(MAX_COMPLETION_TOKENS, math.ceil(max(asked, default=trained[-1]) * ANSWER_MARGIN)),
        )


def choose_scorer(order: Order, data: Split) -> ScorerChoice:
    """The skill's scorer: the one asked for, or by the look of the demonstrations.

    Raises:
        Unprocessable: It cannot compare with a held-out demonstration.
    """
    asked = data.heldout or data.training
    if order.scorer is None:
        return infer_scorer([one.completion for one in asked])
    errors = [
        {"code": "unusable_expected", "line": one.line, "message": f"With scorer {order.scorer}: {reason}"}
        for one in asked
        if (reason := unusable(order.scorer, one.completion))
    ]
    if errors:
        message = "The scorer that evaluation.scorer names cannot compare with these demonstrations; name another."
        raise Unprocessable("unusable_expected", message, param="evaluation.scorer", errors=errors)
    return ScorerChoice(order.scorer, "the job asked for it", order.tolerance)


def make_suites(
    order: Order, folder: Path, data: Split, config: TrainingConfig, *, scorer: ScorerChoice, longest_answer: int
) -> list[Suite]:
    """What the version is asked: its own skill, the skills of its lineage, general ability, questions of a client."""
    skill = demonstration_suite(
        order.adapter,
        "skill",
        data.heldout,
        scorer=scorer.name,
        max_new_tokens=longest_answer,
        tolerance=scorer.tolerance,
    )
    earlier = [
        demonstration_suite(
            f"{one.adapter}:{one.version}",
            "earlier",
            read_demonstrations(folder / one.path),
            scorer=one.scorer,
            max_new_tokens=one.max_completion_tokens,
            tolerance=one.tolerance,
        )
        for one in order.earlier
    ]
    before = taught_before(order, folder)
    now = before | {prompt_sha256(one.messages) for one in data.training}
    trained = {"parent": before, "candidate": now, "supervised": now}
    others = [
        general_suite(rehearsed=order.rehearsed or config.rehearses_shipped),
        *(question_suite(one.name, list(stream_questions(folder / one.path))) for one in order.suites),
    ]
    counted = [count_trained(suite, trained, in_doubt=trained if order.deleted else ()) for suite in others]
    return [*([skill] if data.heldout else []), *earlier, *counted]


def question_digests(
    skills: Sequence[EarlierSkill], suites: Sequence[SuiteFile], asked: Sequence[Suite]
) -> dict[str, str]:
    """What identifies the questions that do not ship with the project, by suite.

    Args:
        skills: By their files.
        suites: Likewise.
        asked: All suites; those of lm-evaluation-harness, whose data are the worker's, by what was asked.
    """
    tasks = {suite.name: suite.sha256 for suite in asked if suite.name.startswith(TASK_PREFIX)}
    by_skill = {f"{skill.adapter}:{skill.version}": skill.sha256 for skill in skills}  # an adapter may be named lm_eval
    return tasks | by_skill | {suite.name: suite.sha256 for suite in suites}


def past_scores(order: Order | EvaluationOrder) -> list[LineageScore]:
    """What earlier reports have on the lineage, as this one shows it."""
    return [
        LineageScore(version=one.version, suite=one.skill, score=Bounds(value=one.value, low=one.low, high=one.high))
        for one in order.past
    ]
