"""The gradient that a step leaves on the student, against autograd on the definition."""

import pytest
import torch

from tests.unit.sdft.bigram import Bigrams
from worker.sdft import side_by_side
from worker.sdft.align import Aligned, make_batch
from worker.sdft.student import _groups, backward
from worker.sdft.teacher import teacher_hidden

SEQUENCES = [
    Aligned([1, 3, 2], [1, 3, 2, 4, 0, 1, 3, 2], [4, 5, 6, 7, 0]),
    Aligned([1, 3, 4, 2], [1, 3, 4, 2, 5, 0, 1, 3, 4, 2], [5, 0]),
    Aligned([1, 2], [1, 2, 8, 0, 1, 2], [8, 8, 8, 0], skip=2),
]


def test_it_is_that_of_the_mean_over_sequences_of_the_mean_over_positions():
    policy = Bigrams()
    means = []
    for one in SEQUENCES:
        student_TV, teacher_TV = (
            policy.hidden(make_batch([prompt], [one.completion], [one.skip]), arm=arm).log_softmax(-1)
            for prompt, arm in ((one.prompt, "student"), (one.teacher_prompt, "parent"))
        )
        means.append((teacher_TV.exp() * (teacher_TV - student_TV)).sum(-1).mean())
    torch.stack(means).mean().backward()
    expected, policy.student.grad = policy.student.grad, None

    teacher = teacher_hidden(policy, SEQUENCES, max_tokens=1000)
    known = backward(policy, SEQUENCES, teacher, max_tokens=1000)

    torch.testing.assert_close(policy.student.grad, expected)
    torch.testing.assert_close(torch.tensor([one["loss"] for one in known]), torch.stack(means).detach())


def test_parts_side_by_side_give_what_all_at_once_gives_each_to_its_sequence(four_threads, monkeypatch):
    """Fault caught: a mean or a teacher of another sequence, and a part's share in the mean taken alone."""
    results = []
    for tokens in (1_000, 1):
        monkeypatch.setattr(side_by_side, "MIN_PART_TOKENS", tokens)
        policy = Bigrams()
        policy.num_lanes = 3
        teacher = teacher_hidden(policy, SEQUENCES, max_tokens=1000)
        known = backward(policy, SEQUENCES, teacher, max_tokens=1000)
        results.append((policy.student.grad, torch.tensor([one["loss"] for one in known])))
    (gradient, losses), (gradient_apart, losses_apart) = results
    torch.testing.assert_close(gradient_apart, gradient)
    torch.testing.assert_close(losses_apart, losses)
    assert len(set(losses.tolist())) == len(SEQUENCES)


@pytest.mark.parametrize(("length", "num_parts"), [(1_500, 1), (1_000, 2), (500, 4), (100, 8)])
def test_all_parts_together_hold_no_more_than_one_batch_would(length, num_parts):
    """Fault caught: as many long sequences alive as there are threads."""
    sequences = [Aligned([token] * length, [token], [0]) for token in range(32)]
    assert len(_groups(sequences, 2_048, 8)) == num_parts
