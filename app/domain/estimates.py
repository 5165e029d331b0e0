"""What a job will take, judged by what finished jobs took: the same work at each one's pace. Knows no rows.

Work is counted in units that time grows with: tokens that training reads and writes, and answers that the evaluation
asks for. A finished job gives a pace (seconds a unit), and its pace gives one prediction; their spread is the spread
that is told.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Final

from app.domain.training import TrainingConfig

MARGIN: Final = 1.25
"""The 90th percentile is told as at least so many times the median: few jobs do not show what can go wrong."""


@dataclass(frozen=True)
class Lengths:
    """Means over a job's sequences, in tokens of its base.

    Args:
        prompt: Of the student.
        demonstration: The expert's answer.
        answer: The student's own.
        document: That the teacher alone reads; examples without one count as 0.
    """

    prompt: float
    demonstration: float
    answer: float
    document: float


@dataclass(frozen=True)
class Work:
    """What a trainer has to do.

    Args:
        tokens: That training reads and writes.
        answers: That the evaluation has to ask for, all arms together.
        twin_tokens: That the training of a supervised twin reads and writes; 0 without one.
    """

    tokens: float
    answers: int
    twin_tokens: float = 0.0


@dataclass(frozen=True)
class Size:
    """What a trainer's memory grows with, beyond the weights of its base.

    Args:
        sequence: Tokens of the longest, which no micro-batch parts.
        step: Tokens of all sequences of a step, each as long as the longest.
        remembered: Tokens of prompts that a frozen teacher reads once and keeps.
        lora_rank: Of the weights that are trained.
    """

    sequence: int
    step: int
    remembered: int
    lora_rank: int

    def covers(self, other: "Size") -> bool:
        """Whether the other is larger in nothing."""
        return all(mine >= its for mine, its in zip(astuple(self), astuple(other), strict=True))


@dataclass(frozen=True)
class Finished:
    """What a job took.

    Args:
        work: That it had.
        size: That it had.
        seconds_training: Of its own.
        seconds_answering: Of its evaluation.
        seconds_comparing: Of the training of its supervised twin, if it had one.
        seconds_other: All else, which grows with none: loading, checking, likelihoods, export.
        peak_memory_bytes: Of its trainer.
        answer_share: The student's answers, relative to the demonstrations' length.
        trained_share: Tokens with loss, relative to what ``count_trained`` expects.
    """

    work: Work
    size: Size
    seconds_training: float
    seconds_answering: float
    seconds_comparing: float
    seconds_other: float
    peak_memory_bytes: int | None
    answer_share: float
    trained_share: float

    def seconds_for(self, work: Work) -> float:
        """How long other work takes at this job's pace."""
        training = self.seconds_training * work.tokens / self.work.tokens
        answering = self.seconds_answering * work.answers / self.work.answers
        return training + answering + work.twin_tokens * self._twin_pace() + self.seconds_other

    def _twin_pace(self) -> float:
        """Seconds a token of a twin; without one the job's own, which are more: it samples too."""
        if self.work.twin_tokens:
            return self.seconds_comparing / self.work.twin_tokens
        return self.seconds_training / self.work.tokens


@dataclass(frozen=True)
class Spread:
    """A prediction: as likely too low as too high, and what nine in ten stay below."""

    p50: float
    p90: float


def predict(finished: Sequence[Finished], work: Work) -> Spread | None:
    """Seconds that some work takes; None if nothing is known of its like."""
    if not finished:
        return None
    seconds = sorted(one.seconds_for(work) for one in finished)
    median = statistics.median(seconds)
    return Spread(median, max(MARGIN * median, seconds[math.ceil(0.9 * len(seconds)) - 1]))


@dataclass(frozen=True)
class Peak:
    """Memory that a trainer will need: about so much, or more than that."""

    num_bytes: int
    is_lower_bound: bool


def predict_memory(finished: Sequence[Finished], size: Size) -> Peak | None:
    """Memory that a job of some size needs; None if nothing is known of its like.

    No more than a job needed that was smaller in nothing. Where there is none, at least what others needed: how memory
    grows beyond what was seen cannot be told from them.
    """
    known = [(one.size, one.peak_memory_bytes) for one in finished if one.peak_memory_bytes]
    if not known:
        return None
    enough = [num_bytes for other, num_bytes in known if other.covers(size)]
    if enough:
        return Peak(min(enough), is_lower_bound=False)
    return Peak(max(num_bytes for _, num_bytes in known), is_lower_bound=True)


def size_of(config: TrainingConfig, *, longest: Lengths, means: Lengths, num_examples: int) -> Size:
    """What memory grows with.

    Args:
        config: Of the job.
        longest: Of each part; the student's answers are taken to run to their limit.
        means: Of all examples.
        num_examples: Whose prompts a frozen teacher remembers.
    """
    sequence = longest.prompt + longest.demonstration
    num_sequences, remembered = config.batch_size, 0.0
    if config.method == "sdft":
        sequence += longest.document + config.max_completion_tokens
        num_sequences = config.num_rollouts + config.num_rehearsal
        if config.teacher.kind == "frozen":
            remembered = num_examples * (means.prompt + means.demonstration + means.document)
    return Size(round(sequence), round(num_sequences * sequence), round(remembered), config.lora_rank)


def count_tokens(config: TrainingConfig, lengths: Lengths) -> float:
    """Tokens that training reads and writes, over all steps: prompts, demonstrations, documents, student's answers."""
    task = lengths.prompt + lengths.demonstration
    rehearsal = 0.0
    if config.method == "sdft":
        task += lengths.document + config.rollouts_per_prompt * lengths.answer
        rehearsal = config.num_rehearsal * (lengths.prompt + config.max_completion_tokens)
    return config.total_steps * (config.batch_size * task + rehearsal)


def count_trained(config: TrainingConfig, lengths: Lengths) -> float:
    """Completion tokens with loss, over all steps; rehearsal is taken to run to its limit."""
    if config.method == "supervised":
        return config.total_steps * config.batch_size * lengths.demonstration
    task = config.rollouts_per_prompt * max(0.0, lengths.answer - config.loss_skip_tokens)
    return config.total_steps * (config.batch_size * task + config.num_rehearsal * config.max_completion_tokens)


def count_answers(
    *, general: int, skill: int, earlier: int, client: int, has_parent: bool, has_ceiling: bool, has_twin: bool,
    seeds: int = 1,
) -> int:  # fmt: skip
    """Answers that the evaluation has to ask for: items of each sort of suite times the arms that are asked.

    Args:
        general: Items of general ability: of the candidate alone, as a machine that has finished a job on the base
            remembers what base and parent said.
        skill: Held-out items of the job's own: of base, candidate, parent and, where there is a teacher, the ceiling.
        earlier: Items of the lineage's skills: of candidate and parent.
        client: Questions of the client's files: of base, candidate and parent.
        has_parent: Whether the job starts from a version.
        has_ceiling: Whether a teacher is shown the demonstrations.
        has_twin: Whether a supervised twin is asked all that the candidate is.
        seeds: Candidates, and twins, that are asked; the other arms are asked once.
    """
    trained = seeds * (1 + has_twin)
    arms = 1 + has_parent + trained
    return general * trained + skill * (arms + has_ceiling) + earlier * (arms - 1) + client * arms
