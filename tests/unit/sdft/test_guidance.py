"""What guided rollouts go on from."""

from statistics import fmean

import pytest
import torch

from worker.sdft.guidance import beginnings

DEMONSTRATIONS = [[5, 6, 7, 8, 2], [9, 2], [2]] * 1000


def drawn(*, share, longest=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return beginnings(DEMONSTRATIONS, share=share, longest=longest, generator=generator)


def test_each_begins_as_its_demonstration_does_and_never_holds_all_of_it():
    """Fault caught: the beginning of another one; a rollout that is given its end and has nothing left to say."""
    for start, demonstration in zip(drawn(share=1.0), DEMONSTRATIONS, strict=True):
        assert start == demonstration[: len(start)]
        assert len(start) < len(demonstration)


def test_all_numbers_of_tokens_are_as_likely():
    """Fault caught: late places of an answer that are hardly ever come to."""
    lengths = [len(start) for start in drawn(share=1.0)[::3]]
    for length in range(5):
        assert lengths.count(length) / len(lengths) == pytest.approx(1 / 5, abs=0.04)


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_the_share_is_of_rollouts(share):
    given = [bool(start) for start in drawn(share=share)[::3]]
    assert fmean(given) == pytest.approx(share * 4 / 5, abs=0.04)


def test_a_demonstration_beyond_the_limit_leaves_a_token_to_say():
    """Fault caught: a beginning as long as the longest rollout, behind which no answer fits."""
    assert max(len(start) for start in drawn(share=1.0, longest=3)) == 2
    assert not any(drawn(share=1.0, longest=1))


def test_without_guidance_nothing_is_drawn():
    """Fault caught: a run without it whose rollouts are others than before there was any."""
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert not any(beginnings(DEMONSTRATIONS, share=0.0, longest=20, generator=generator))
    assert torch.equal(generator.get_state(), before)
