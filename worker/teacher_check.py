"""Before training: does the demonstration in its context help the model, and shown in which way most?

The template decides whether a small model can teach itself, and no template is best for every model. Knows a policy and
the templates, nothing of steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from app.domain.demonstrations import Demonstration
from app.domain.training import TrainingConfig
from worker.examples import encode_tasks
from worker.sdft.policy import Policy
from worker.sdft.prompts import TEMPLATES, teacher_messages

MAX_SAMPLE: Final = 16
MAX_ANSWER_TOKENS: Final = 128
"""An answer is only compared with its demonstration; one that is longer tells no more."""
MOSTLY: Final = 0.5
"""Of the teacher's answers."""

_Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class View:
    """How one way of asking fares on the sample.

    Args:
        nll: Mean negative log-likelihood of the demonstration, nats per token.
        right: Share of greedy answers that are the demonstration, but for white space; None of a way that was not
            asked, because none could do better than another had.
        begun: Share of them that begin as the demonstration does, as far as a rollout is skipped; likewise.
    """

    nll: float
    right: float | None
    begun: float | None


@dataclass(frozen=True)
class TeacherCheck:
    """What the teacher makes of the sample.

    Args:
        template: The best of those that fit.
        teacher: With the demonstration shown by ``template``.
        student: Without.
        others: The templates that were not chosen.
        num_sampled: Demonstrations that were asked.
    """

    template: str
    teacher: View
    student: View
    others: dict[str, View]
    num_sampled: int

    @property
    def teacher_is_better(self) -> bool:
        """Whether there is anything to distil."""
        return self.teacher.nll < self.student.nll

    @property
    def begins_alike(self) -> bool:
        """Whether the teacher begins mostly as the expert does, so that no artefact is to be skipped."""
        return (self.teacher.begun or 0.0) >= MOSTLY

    @property
    def sentence(self) -> str:
        """For an event."""
        return (
            f"The teacher is shown demonstrations by the template {self.template!r}: on {self.num_sampled} of them it "
            f"answers {self.teacher.right:.0%} as the expert did, and {self.student.right:.0%} without."
        )

    @property
    def numbers(self) -> dict[str, Any]:
        """For an event."""
        views = {"without": self.student, self.template: self.teacher, **self.others}
        return {"template": self.template, "views": {name: vars(view) for name, view in views.items()}}


def check_teacher(policy: Policy, demonstrations: Sequence[Demonstration], config: TrainingConfig) -> TeacherCheck:
    """Try the configured template, or for ``auto`` every one whose prompts all fit the context.

    Raises:
        Unprocessable: No template fits every example; those that even the shortest does not fit are named by line.
    """
    names = list(TEMPLATES) if config.template == "auto" else [config.template]
    fitting = [name for name in names if _fits(policy, name, demonstrations, config.max_completion_tokens)]
    if not fitting:
        shortest = min(names, key=lambda name: (TEMPLATES[name].shown, len(TEMPLATES[name].text)))
        encode_tasks(policy, demonstrations, config.model_copy(update={"template": shortest}))
    sample = demonstrations[:: -(-len(demonstrations) // MAX_SAMPLE)]
    ways = {name: [teacher_messages(name, one) for one in sample] for name in fitting}
    unaided = [list(one.messages) for one in sample]
    *shown, unshown = _nll(policy, [*ways.values(), unaided], sample)
    nll = dict(zip(ways, shown, strict=True))
    asked: dict[str, View] = {}
    # The likelier first: once one is right throughout, no other can be chosen, and answers are what takes the time.
    for name in sorted(fitting, key=nll.__getitem__):
        asked[name] = _ask(policy, ways[name], sample, config, nll[name])
        if asked[name].right == 1.0:
            break
    best = max(asked, key=lambda name: (asked[name].right, -nll[name]))
    student = _ask(policy, unaided, sample, config, unshown)
    others = {name: asked.get(name, View(nll[name], None, None)) for name in fitting if name != best}
    return TeacherCheck(best, asked[best], student, others, len(sample))


def _fits(policy: Policy, template: str, demonstrations: Sequence[Demonstration], answer_tokens: int) -> bool:
    return all(
        len(policy.encode_chat(teacher_messages(template, one))) + answer_tokens <= policy.context_tokens
        for one in demonstrations
    )


def _nll(policy: Policy, ways: Sequence[Sequence[_Messages]], sample: Sequence[Demonstration]) -> list[float]:
    """Mean over the sample of each way of asking, all at once: they have much in common that is then read once."""
    prompts = [policy.encode_chat(messages) for asked in ways for messages in asked]
    expected = [policy.encode_completion(one.completion) for one in sample]
    found = policy.nll(prompts, expected * len(ways), arm="parent")
    return [fmean(found[start : start + len(sample)]) for start in range(0, len(found), len(sample))]


def _ask(
    policy: Policy, asked: Sequence[_Messages], sample: Sequence[Demonstration], config: TrainingConfig, nll: float
) -> View:
    prompts = [policy.encode_chat(messages) for messages in asked]
    answers = policy.greedy(prompts, min(config.max_completion_tokens, MAX_ANSWER_TOKENS), arm="parent")
    pairs = [(answer.ids, one.completion) for answer, one in zip(answers, sample, strict=True)]
    skip = config.loss_skip_tokens
    return View(
        nll,
        right=fmean(policy.decode(ids).split() == completion.split() for ids, completion in pairs),
        begun=fmean(ids[:skip] == policy.encode_completion(completion)[:skip] for ids, completion in pairs),
    )
