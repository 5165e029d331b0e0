"""Which template a job takes, and how much it asks to find out."""

from dataclasses import replace

import pytest

from app.domain.training import TrainingConfig
from tests.unit.sdft.bigram import Bigrams
from tests.unit.sdft.test_trainer import DEMONSTRATIONS, configure
from worker.sdft.policy import Rollout
from worker.sdft.prompts import TEMPLATES, teacher_messages
from worker.teacher_check import check_teacher

AUTO = configure(template="auto", max_completion_tokens=4)


class Counting(Bigrams):
    """Remembers how many answers it gave; where it is misled, what it finds likelier it answers worse."""

    def __init__(self, repeat: float, *, misled: bool = False) -> None:
        super().__init__()
        self.repeat, self.misled = repeat, misled
        self.context_tokens = 200
        self.answered = 0

    def greedy(self, prompts, max_new_tokens, *, arm):
        self.answered += len(prompts)
        return super().greedy(prompts, max_new_tokens, arm=arm)

    def nll(self, prompts, completions, *, arm):
        return [-one if self.misled else one for one in super().nll(prompts, completions, arm=arm)]


def fares(policy: Bigrams, config: TrainingConfig) -> dict[str, tuple[float, float]]:
    """Of every template, asked for everything: share right, and likelihood."""
    found = {}
    for name in TEMPLATES:
        prompts = [policy.encode_chat(teacher_messages(name, one)) for one in DEMONSTRATIONS]
        said = [policy.decode(one.ids) for one in policy.greedy(prompts, config.max_completion_tokens, arm="parent")]
        nll = policy.nll(prompts, [policy.encode_completion(one.completion) for one in DEMONSTRATIONS], arm="parent")
        found[name] = (sum(one == "bcd" for one in said) / len(said), -sum(nll) / len(nll))
    return found


@pytest.mark.parametrize("misled", [False, True])
@pytest.mark.parametrize("repeat", [0.0, 9.0, 10.0, 11.0, 12.0, 14.0])
def test_it_takes_what_asking_every_template_everything_would(repeat, misled):
    """Fault caught: a likelier template that answers worse, or a perfect one that is passed over."""
    everything = fares(Counting(repeat, misled=misled), AUTO)
    check = check_teacher(Counting(repeat, misled=misled), DEMONSTRATIONS, AUTO)
    assert check.template == max(everything, key=everything.__getitem__)
    assert (check.teacher.right, -check.teacher.nll) == pytest.approx(everything[check.template])
    for name, view in check.others.items():
        assert -view.nll == pytest.approx(everything[name][1])
        assert view.right in {None, everything[name][0]}


def test_after_a_perfect_template_no_other_is_asked_to_answer():
    perfect, weak = Counting(14.0), Counting(0.0)
    found = check_teacher(perfect, DEMONSTRATIONS, AUTO)
    check_teacher(weak, DEMONSTRATIONS, AUTO)
    assert found.teacher.right == 1.0
    assert None in {view.right for view in found.others.values()}
    assert perfect.answered < weak.answered == len(DEMONSTRATIONS) * (len(TEMPLATES) + 1)


@pytest.mark.parametrize(("repeat", "alike"), [(14.0, True), (0.0, False)])
def test_it_sees_whether_the_teacher_begins_as_the_expert_does(repeat, alike):
    config = configure(loss_skip_tokens=2, max_completion_tokens=4)
    check = check_teacher(Counting(repeat), DEMONSTRATIONS, config)
    assert check.begins_alike is alike
    assert check.student.begun == 0.0


def test_half_of_the_answers_is_most_of_them_and_what_is_skipped_is_compared_alone():
    config = configure(loss_skip_tokens=2, max_completion_tokens=4)
    ending = [replace(one, completion="bce" if number % 2 else "cde") for number, one in enumerate(DEMONSTRATIONS)]

    class Same(Counting):
        def greedy(self, prompts, max_new_tokens, *, arm):  # noqa: ARG002
            return [Rollout(prompt, self.encode_completion("bcd"), stopped=True) for prompt in prompts]

    check = check_teacher(Same(14.0), ending, config)
    assert (check.teacher.right, check.teacher.begun, check.begins_alike) == (0.0, 0.5, True)
