"""A pass written in C for one token of a few rows, against the modules whose work it does."""

import ctypes

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Ministral3Config, Qwen3Config
from transformers.activations import ACT2FN

from tests.training.test_policy import load, plain_logits, prompts_of
from worker.hf import generation, token_pass
from worker.hf.generation import _read_rows, _read_trees
from worker.hf.token_pass import TokenPass, takes_token_pass
from worker.sdft.loss import Head

library = token_pass._library()
pytestmark = pytest.mark.skipif(
    library is None, reason="worker/hf/token_pass.c was not compiled at install: that takes GCC 12 or later, or clang"
)
CLOSE = {"rtol": 2e-4, "atol": 2e-4}
AWKWARD = {
    "hidden_size": 1566, "intermediate_size": 67, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 26, "max_position_embeddings": 64, "vocab_size": 101,
    "initializer_range": 0.1,
}  # fmt: skip
"""No size is a multiple of a vector, threads have an odd number of outputs each, and a row is longer than what the pass
takes of it at once."""
ARCHITECTURES = {
    "llama": lambda: LlamaConfig(attention_bias=True, mlp_bias=True, **AWKWARD),
    "qwen3": lambda: Qwen3Config(tie_word_embeddings=True, **AWKWARD),
}


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(ARCHITECTURES[request.param]()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


@pytest.fixture(params=[16, 8], ids=["avx512", "avx2"])
def width(request, monkeypatch):
    """Each width of vectors that this processor has."""
    if library.token_pass_width() < request.param:
        pytest.skip("this processor has no vectors of this width")

    class Narrow:
        token_pass_run = library.token_pass_run

        @staticmethod
        def token_pass_width():
            return request.param

    monkeypatch.setattr(token_pass, "_library", lambda: Narrow)
    return request.param


@pytest.fixture
def threads():
    yield torch.set_num_threads
    torch.set_num_threads(1)


def head_of(model):
    return Head(model.lm_head.weight)


@torch.no_grad()
def begin(model, prompts, room=8):
    """Rows that have read their prompts, as trees."""
    last_BH, caches, masks, slots_B = _read_trees(model.get_decoder(), prompts, 1)
    head = head_of(model)
    return head.logits(last_BH), TokenPass(model.get_decoder(), head, caches, masks, slots_B, room=room)


def some_prompts(num):
    generator = torch.Generator().manual_seed(7)
    lengths = torch.randint(1, 20, (num,), generator=generator).tolist()
    return [[1, 2, 3, *torch.randint(0, 101, (length,), generator=generator).tolist()] for length in lengths]


@pytest.mark.usefixtures("width")
@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 6, 7, 8, 9, 19])
@torch.no_grad()
def test_logits_are_those_of_the_whole_sequence_read_anew(model, num_rows, threads):
    """Fault caught: an end that is left over of a vector, a tile or a block; heads that share another's keys; positions
    of the row beside it; a bias or a norm left out."""
    prompts = some_prompts(num_rows)
    _, rows = begin(model, prompts)
    threads(2)
    said = [list(prompt) for prompt in prompts]
    for place in range(3):
        next_B = torch.arange(num_rows) * 5 + place
        logits_BV = rows.read(next_B)
        for ids, token, logits_V in zip(said, next_B.tolist(), logits_BV, strict=True):
            ids.append(token)
            torch.testing.assert_close(logits_V, model(torch.tensor([ids])).logits[0, -1], **CLOSE)


@pytest.mark.usefixtures("width")
@torch.no_grad()
def test_a_rows_bits_depend_neither_on_the_threads_nor_on_the_rows_beside_it(model, threads):
    """More threads than there are processors, and than there is work for. Fault caught: sums in an order that the
    batch's size decides, threads that read what is not yet written."""
    prompts, next_B = some_prompts(9), torch.arange(9)
    expected_BV = begin(model, prompts)[1].read(next_B)
    for num in (2, 3, 40):
        threads(num)
        for _ in range(5):
            torch.set_num_threads(1)  # the prompts are read to the same bits
            rows = begin(model, prompts)[1]
            threads(num)
            assert torch.equal(rows.read(next_B), expected_BV)
    torch.set_num_threads(1)
    rows = begin(model, prompts)[1]
    kept = torch.tensor([6, 1, 8])
    rows.keep(kept)
    assert torch.equal(rows.read(next_B[kept]), expected_BV[kept])


@torch.no_grad()
def test_rows_that_leave_take_nothing_of_the_others_along(model):
    """Fault caught: keys of the row that was in the place before."""
    prompts = some_prompts(5)
    _, all_rows = begin(model, prompts)
    _, alone = begin(model, [prompts[3]])
    all_rows.read(torch.tensor([1, 2, 3, 4, 5]))
    alone.read(torch.tensor([4]))
    all_rows.keep(torch.tensor([1, 3]))
    all_rows.read(torch.tensor([9, 8]))
    alone.read(torch.tensor([8]))
    all_rows.keep(torch.tensor([1]))
    torch.testing.assert_close(all_rows.read(torch.tensor([7])), alone.read(torch.tensor([7])), **CLOSE)


@torch.no_grad()
def test_prompts_in_trees_and_in_padded_rows_go_on_alike(model):
    """Prompts that come twice, that begin alike and that another one ends in the middle of."""
    prompts = [[5, 6, 7, 8], [5, 6], [5, 6, 7, 8], [9], [5, 6, 1, 2, 3]] * 2
    first_BV, trees = begin(model, prompts)
    decoder, head = model.get_decoder(), head_of(model)
    last_BH, cache, mask_BL = _read_rows(decoder, prompts, torch.device("cpu"))
    torch.testing.assert_close(head.logits(last_BH), first_BV, **CLOSE)
    rows = TokenPass(decoder, head, [cache], [mask_BL], torch.arange(len(prompts)), room=4)
    for token in range(4):
        next_B = torch.full((len(prompts),), token)
        torch.testing.assert_close(trees.read(next_B), rows.read(next_B), **CLOSE)


def test_prompts_are_cut_into_trees_that_are_read_side_by_side(model, threads):
    """Fault caught: a row that goes on from another tree's keys."""
    prompts = [prompt * 9 for prompt in some_prompts(12)]
    with torch.no_grad():
        _, one = begin(model, prompts)
        threads(2)
        _, caches, masks, slots_B = _read_trees(model.get_decoder(), prompts, 2)
        assert len(caches) > 1
        several = TokenPass(model.get_decoder(), head_of(model), caches, masks, slots_B, room=1)
        next_B = torch.arange(12)
        torch.testing.assert_close(several.read(next_B), one.read(next_B), **CLOSE)


def test_a_decoder_is_asked_whether_it_is_made_so(model, monkeypatch):
    """Fault caught: an architecture that has all the parts and does something else with them."""
    decoder, head = model.get_decoder(), head_of(model)
    assert takes_token_pass(decoder, head)
    mlp, attention = decoder.layers[1].mlp, decoder.layers[0].self_attn
    for part, name, other in (
        (mlp, "act_fn", ACT2FN["gelu"]),
        (attention, "v_proj", torch.nn.Sequential(attention.v_proj)),
        (attention, "scaling", attention.scaling * 2),  # of one layer only
        (decoder.layers[0], "post_attention_layernorm", torch.nn.Identity()),
        (decoder, "norm", torch.nn.LayerNorm(1566)),
    ):
        before = getattr(part, name)
        setattr(part, name, other)
        assert not takes_token_pass(decoder, head)
        setattr(part, name, before)
    assert takes_token_pass(decoder, head)
    plain = decoder.layers[0].forward
    monkeypatch.setattr(decoder.layers[0], "forward", lambda *given, **named: plain(*given, **named) * 1.1)
    assert not takes_token_pass(decoder, head)


def test_parts_that_do_nothing_yet_are_not_overlooked(model):
    """A factor of one that an adapter would train. Fault caught: an architecture that is like Llama's until then."""
    decoder, head = model.get_decoder(), head_of(model)
    decoder.layers[1].self_attn.gate = torch.nn.Linear(1, 1)
    assert not takes_token_pass(decoder, head)


def test_queries_that_are_scaled_from_some_position_on_are_left_to_the_modules():
    """Fault caught: a comparison at the first positions taken for one at all of them."""
    rope = {
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16,
        "llama_4_scaling_beta": 0.1,
    }  # fmt: skip
    config = Ministral3Config(**AWKWARD | {"head_dim": 16}, rope_parameters=rope)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert not takes_token_pass(model.get_decoder(), head_of(model))


def test_there_is_room_for_what_was_asked_for_and_no_more(model):
    with torch.no_grad():
        _, rows = begin(model, [[1, 2, 3], [4]], room=2)
        rows.read(torch.tensor([1, 2]))
        rows.read(torch.tensor([1, 2]))
        with pytest.raises(IndexError, match="no room"):
            rows.read(torch.tensor([1, 2]))


def test_an_answer_without_a_token_is_refused(llama):
    """Fault caught: a loop that never comes to its end."""
    policy = load(llama)
    with pytest.raises(ValueError, match="one token"):
        policy.greedy(prompts_of(policy), [3, 0, 2, 1], arm="student")


def test_a_library_of_other_sources_is_not_used(monkeypatch):
    """As after an update whose compiling failed."""
    monkeypatch.setattr(token_pass, "_Batch", token_pass._Decoder)
    assert token_pass._library.__wrapped__() is None


def test_families_and_what_serves_them(any_base):
    """A window of tokens, and norms that are not Llama's, are decoded by the modules as before."""
    assert load(any_base)._by_token_pass == any_base.name.startswith(("llama", "qwen3"))


def test_where_nothing_was_compiled_the_answers_are_the_same(any_base, monkeypatch):
    def said():
        policy = load(any_base)
        prompts = prompts_of(policy)
        sampled = policy.sample(prompts, 12, generator=torch.Generator().manual_seed(2))
        return policy, [*sampled, *policy.greedy(prompts, [9, 3, 6, 12], arm="base")]

    _, with_pass = said()
    monkeypatch.setattr(token_pass, "_library", lambda: None)
    policy, without = said()
    assert not policy._by_token_pass
    assert with_pass == without


def test_prompts_too_long_for_a_tree_are_read_in_rows_and_answered_alike(llama, monkeypatch):
    policy = load(llama)
    prompts, limits = prompts_of(policy), [9, 3, 6, 12]
    expected, rows = policy.greedy(prompts, limits, arm="student"), []
    monkeypatch.setattr(generation, "TREE_TOKENS", max(map(len, prompts)) - 1)
    monkeypatch.setattr(generation, "_read_rows", lambda *given: rows.append(given) or _read_rows(*given))
    assert policy.greedy(prompts, limits, arm="student") == expected
    assert rows


@pytest.mark.parametrize("arm", ["student", "base"])
def test_each_arm_is_read_with_its_own_weights(llama, arm):
    policy = load(llama)
    assert policy._by_token_pass
    [rollout] = policy.greedy([prompts_of(policy)[1]], 6, arm=arm)
    if arm == "base":
        policy = load(llama, stir=False)
    ids = list(rollout.prompt)
    for token in rollout.ids:
        assert int(plain_logits(llama, policy, ids)[-1].argmax()) == token
        ids.append(token)


def test_no_memory_is_an_error_and_not_an_answer(model):
    with torch.no_grad():
        _, rows = begin(model, [[1, 2]])
    rows._decoder.inner = 1 << 56
    with pytest.raises(MemoryError, match="1 rows"):
        rows.read(torch.tensor([3]))


def test_structs_are_laid_out_as_in_c():
    """Pointers and 64-bit numbers, and two floats that fill one of these."""
    assert ctypes.sizeof(token_pass._Layer) == (2 + 7 * 2 + 4) * 8
    assert ctypes.sizeof(token_pass._Decoder) == (8 + 1 + 2 + 2) * 8
    assert ctypes.sizeof(token_pass._Batch) == 7 * 8
