"""What a frozen teacher made of a prompt is used again; it must be what reading the prompt again would give."""

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from tests.tiny_models import save_tiny
from tests.training.test_policy import CLOSE, answers_of, load, prompts_of
from worker.hf.prompt_memory import PromptMemory
from worker.sdft.align import Aligned, make_batch
from worker.sdft.teacher import teacher_hidden


def sequences(policy):
    return [
        Aligned(prompt[-4:], prompt, answer, skip=index % 2)
        for index, (prompt, answer) in enumerate(zip(prompts_of(policy), answers_of(policy), strict=True))
    ]


def score(policy, *, remembers: bool):
    policy.remembers_prompts = remembers
    return teacher_hidden(policy, sequences(policy), max_tokens=4096)


@pytest.fixture(params=["llama", "qwen3"])
def remembering(request, tmp_path):
    """A policy over a base whose layers all see everything."""
    return load(save_tiny(request.param, tmp_path / request.param))


def test_a_remembered_prompt_gives_what_reading_it_gives(remembering):
    """Fault caught: positions or mask of the padded keys off by one; layers or rows mixed up."""
    policy = remembering
    read, first, again = (score(policy, remembers=remembers) for remembers in (False, True, True))
    for read_TH, first_TH, again_TH in zip(read, first, again, strict=True):
        torch.testing.assert_close(first_TH, read_TH, **CLOSE)
        assert torch.equal(again_TH, first_TH)


@pytest.mark.parametrize("num_rollouts", [1, 3])
def test_a_prompt_that_is_alone_in_its_batch_is_remembered_too(remembering, num_rollouts):
    """Fault caught: prompts that are all the same, taken for a beginning that a batch shares and read at every step."""
    policy, read = remembering, []
    one, answers = sequences(policy)[2], answers_of(policy)
    batch = [Aligned(one.prompt, one.teacher_prompt, answer) for answer in answers[:num_rollouts]]
    policy._backbone.register_forward_pre_hook(
        lambda _, __, given: read.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    first, again = (torch.cat(teacher_hidden(policy, batch, max_tokens=4096)) for _ in range(2))
    after_prompt = 1 + max(len(sequence.completion) for sequence in batch)
    assert read == [len(one.teacher_prompt) - 1, after_prompt, after_prompt]
    assert torch.equal(first, again)


def test_only_bases_without_sliding_windows_remember(any_base):
    assert load(any_base).remembers_prompts == any_base.name.startswith(("llama", "qwen3"))


def test_a_full_memory_reads_again_and_answers_the_same(remembering):
    policy = remembering
    expected = score(policy, remembers=True)
    policy._memory = PromptMemory(policy._backbone, policy.device, max_bytes=0)
    for expected_TH, found_TH in zip(expected, score(policy, remembers=True), strict=True):
        assert torch.equal(expected_TH, found_TH)
    assert not policy._memory._known


def test_weights_that_move_cannot_use_the_memory(any_base):
    """Fault caught: a student scored with keys of an earlier step."""
    policy = load(any_base)
    prompts = prompts_of(policy)
    batch = make_batch(prompts, answers_of(policy), [0] * len(prompts), whole_prompts=True)
    with pytest.raises(ValueError, match="unchanging"):
        policy.hidden(batch, arm="student")


@pytest.fixture
def memories():
    """Makes memories of one backbone, large enough for sums in another order to have other bits."""
    torch.manual_seed(0)
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    backbone = LlamaModel(LlamaConfig(vocab_size=300, num_hidden_layers=2, **shape)).eval()
    return lambda: PromptMemory(backbone, torch.device("cpu"))


def prompts_of_length(*lengths):
    return [torch.randint(300, (length,)).tolist() for length in lengths]


def equal(some, others):
    return all(
        torch.equal(one, other)
        for layers, again in zip(some, others, strict=True)
        for pair, pair_again in zip(layers, again, strict=True)
        for one, other in zip(pair, pair_again, strict=True)
    )


def test_what_is_remembered_does_not_depend_on_what_was_read_with_it(memories):
    """Fault caught: prompts read as a batch, whose keys then differ in their last bits after a resume."""
    prompts = prompts_of_length(31, 37, 33, 35)
    after = memories()
    after.read(prompts[:1])
    assert equal(after.read(prompts), memories().read(prompts))


def test_what_is_remembered_does_not_depend_on_how_many_were_read_at_the_same_time(memories, four_threads):
    """Fault caught: bits that change with the company, in which each prompt has fewer threads."""
    prompts = prompts_of_length(157, 31, 600, 75)
    together = memories().read(prompts, num_lanes=4)
    assert equal(together, [memories().read([prompt], num_lanes=4)[0] for prompt in prompts])
    assert torch.get_num_threads() == 4


def test_a_prompt_that_comes_several_times_at_once_is_read_and_counted_once(memories, monkeypatch):
    """As each of its rollouts has it."""
    memory, read = memories(), []
    monkeypatch.setattr(memory, "_read", lambda prompt, plain=memory._read: read.append(prompt) or plain(prompt))
    [prompt] = prompts_of_length(9)
    found = memory.read([prompt] * 3, num_lanes=3)
    assert read == [tuple(prompt)]
    assert memory._max_bytes - memory._bytes_left == sum(part.nbytes for pair in found[0] for part in pair)
