"""A teacher that follows: against its closed form, and against what goes wrong elsewhere."""

import pytest
import torch

from tests.unit.sdft.bigram import Bigrams
from worker.sdft.align import Aligned
from worker.sdft.teacher import follow, parent_hidden, teacher_hidden

STEPS = 50


def path(seed: int = 0) -> torch.Tensor:
    """Where a student's factor is at each step, [steps, 4, 3]."""
    return torch.randn(STEPS + 1, 4, 3, generator=torch.Generator().manual_seed(seed)).cumsum(0)


@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0])
def test_a_following_teacher_is_the_weighted_mean_of_all_that_the_student_was(rate):
    """Fault caught: the rate the wrong way round, which keeps 1 % of the teacher instead of 99 %."""
    students, teacher = path(), path()[0].clone()
    for student in students[1:]:
        follow({"A": student}, {"A": teacher}, rate=rate)
    weights = [(1 - rate) ** STEPS, *(rate * (1 - rate) ** (STEPS - step) for step in range(1, STEPS + 1))]
    expected = sum(weight * student.double() for weight, student in zip(weights, students, strict=True))
    torch.testing.assert_close(teacher, expected.float(), rtol=1e-5, atol=1e-5)
    assert teacher.dtype == torch.float32


def test_all_the_way_is_a_copy():
    student, teacher = path(1)[3], path(2)[5].clone()
    follow({"A": student}, {"A": teacher}, rate=1.0)
    assert torch.equal(student, teacher)


def test_starting_where_the_student_does_the_product_lags_once_and_not_twice():
    """With A fixed and B moving, delta-W lags as B does; from two zeros it would lag as its square."""
    a, b = torch.ones(1, 2), torch.ones(2, 1)
    teacher = {"A": a.clone(), "B": torch.zeros(2, 1)}
    for _ in range(STEPS):
        follow({"A": a, "B": b}, teacher, rate=0.01)
    reached = 1 - 0.99**STEPS
    torch.testing.assert_close(teacher["B"] @ teacher["A"], reached * (b @ a))


def test_each_sequence_is_scored_by_its_own_teacher_and_the_anchor_by_the_parent_unaided():
    """Fault caught: rehearsal taught by a moving teacher; results in the order of the arms, not of the sequences."""
    policy = Bigrams(parent=torch.full((12, 12), 0.5))
    policy.add_teacher()
    with torch.no_grad():
        policy.student[4] += 3
        policy.teacher[4] -= 2
    shown, plain = [1, 3, 2, 4, 5, 0, 1, 3, 2], [1, 3, 2]
    sequences = [
        Aligned(plain, shown if arm != "parent" else plain, [4, 5, 0], taught_by=arm)
        for arm in ("teacher", "parent", "student", "parent", "teacher")
    ]
    scored = teacher_hidden(policy, sequences, max_tokens=1000)
    for one, hidden_TH in zip(sequences, scored, strict=True):
        said = [*one.teacher_prompt, *one.completion]
        alone = [policy._logits(said[: len(one.teacher_prompt) + at], one.taught_by) for at in range(3)]
        assert torch.equal(hidden_TH, torch.stack(alone))
        assert not hidden_TH.requires_grad
    for hidden_TH in parent_hidden(policy, sequences, max_tokens=1000):
        assert torch.equal(hidden_TH, scored[1])
