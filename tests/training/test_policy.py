"""A transformers model as a policy, against what the same model says when asked plainly: one row, no cache."""

import json
import shutil
from functools import partial

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.tiny_models import END, STOP, save_tiny
from worker.hf import generation
from worker.hf import model as model_module
from worker.hf.base import Base
from worker.hf.generation import choose, decode
from worker.hf.model import HfPolicy
from worker.sdft import side_by_side
from worker.sdft.align import Aligned, make_batch
from worker.sdft.divergences import forward_kl, jsd, reverse_kl
from worker.sdft.isdft import isdft
from worker.sdft.student import backward
from worker.sdft.teacher import teacher_hidden
from worker.sdft.tree import make_tree

SYSTEM = {"role": "system", "content": "You are a terse assistant of a large company."}
QUESTIONS = ["Hi.", "Where is my parcel?", "Turn on the lamp in the kitchen, please.", "Why?"]
ANSWERS = ["Hello.", "team=shipping", "lamp.on(kitchen)", "42"]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def load(folder, *, parent=None, rank=4, seed=0, stir=True):
    """A policy; ``stir`` gives its student an effect, which a new LoRA has not."""
    policy = HfPolicy.on(Base.load(folder), lora_rank=rank, lora_alpha=8, parent=parent, seed=seed)
    if stir:
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in policy.parameters().values():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return policy


def prompts_of(policy):
    return [policy.encode_chat([SYSTEM, {"role": "user", "content": question}]) for question in QUESTIONS]


def answers_of(policy):
    return [policy.encode_completion(answer) for answer in ANSWERS]


def aligned(policy):
    """The teacher sees one more turn than the student."""
    return [
        Aligned(prompt, policy.encode_chat([SYSTEM, {"role": "user", "content": question + " Like so: 7"}]), answer)
        for prompt, question, answer in zip(prompts_of(policy), QUESTIONS, answers_of(policy), strict=True)
    ]


def plain_logits(folder, policy, ids):
    """Logits of the stock model with the student's factors added to its weights."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    factors = policy.parameters()
    with torch.no_grad():
        for name, module in model.named_modules():
            if (key := f"base_model.model.{name}.lora_A.weight") in factors:
                up = factors[key.replace("lora_A", "lora_B")]
                module.weight += up @ factors[key] * policy.lora_alpha / policy.lora_rank
        return model(torch.tensor([ids])).logits[0]


def test_hidden_states_and_head_give_the_stock_models_logits(any_base):
    """Padding, positions, the shared beginning, the window of sliding layers and the soft cap, all at once."""
    policy = load(any_base)
    prompts, answers = prompts_of(policy), answers_of(policy)
    batch = make_batch(prompts, answers, [0] * len(prompts))
    assert batch.prefixes[0]  # the system message is computed once
    logits_TV = policy.head.logits(policy.hidden(batch, arm="student"))
    for part_TV, prompt, answer in zip(logits_TV.split(batch.num_rows), prompts, answers, strict=True):
        expected_TV = plain_logits(any_base, policy, prompt + answer)[len(prompt) - 1 : -1]
        torch.testing.assert_close(part_TV, expected_TV, **CLOSE)


def test_sequences_in_a_tree_get_the_stock_models_logits(tmp_path):
    """Fault caught: a branch that sees its sibling, positions that count along the row, rows in another order."""
    for family in ("llama", "qwen3"):
        base = save_tiny(family, tmp_path / family)
        policy = load(base)
        assert policy.reads_trees
        prompts, answers = prompts_of(policy) * 2, [*answers_of(policy), *(ids[::-1] for ids in answers_of(policy))]
        logits_TV = policy.head.logits(policy.hidden(make_tree(prompts, answers, [1] * len(prompts)), arm="student"))
        for part_TV, prompt, answer in zip(
            logits_TV.split([len(answer) - 1 for answer in answers]), prompts, answers, strict=True
        ):
            expected_TV = plain_logits(base, policy, prompt + answer)[len(prompt) : -1]
            torch.testing.assert_close(part_TV, expected_TV, **CLOSE)


def test_only_a_base_that_reads_a_tree_as_each_sequence_alone_gets_trees(any_base, monkeypatch):
    """A layer that sees a window takes no such mask, and attention that adds it up as numbers reads the future."""
    assert load(any_base).reads_trees == any_base.name.startswith(("llama", "qwen3"))
    plain = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        AutoModelForCausalLM,
        "from_pretrained",
        lambda folder, **options: plain(folder, **options, attn_implementation="eager"),
    )
    assert not load(any_base).reads_trees


def test_a_step_of_a_tree_is_the_step_of_padded_rows(llama):
    gradients = {}
    for trees in (True, False):
        policy = load(llama)
        policy.reads_trees = trees
        sequences = aligned(policy)
        backward(policy, sequences, teacher_hidden(policy, sequences, max_tokens=4096), max_tokens=4096)
        gradients[trees] = torch.cat([one.grad.flatten() for one in policy.parameters().values()])
    assert (gradients[True] - gradients[False]).norm() < 1e-5 * gradients[False].norm()


def test_greedy_answers_are_those_of_one_row_without_a_cache(any_base):
    policy = load(any_base)
    prompts = prompts_of(policy)
    limits = [9, 3, 6, 12]
    for prompt, limit, rollout in zip(prompts, limits, policy.greedy(prompts, limits, arm="student"), strict=True):
        ids = list(prompt)
        for _ in range(limit):
            ids.append(int(plain_logits(any_base, policy, ids)[-1].argmax()))
            if ids[-1] in policy.stop_ids:
                break
        assert rollout.ids == ids[len(prompt) :]
        assert rollout.prompt == prompt


def test_a_prompt_that_comes_several_times_is_read_once_and_answered_as_often(any_base, monkeypatch):
    """Fault caught: rows that go on from another prompt's keys, or prompts that are read for each of their rollouts."""
    policy = load(any_base)
    prompts = prompts_of(policy)
    several = [prompts[place] for place in (2, 0, 2, 1, 0, 2)]
    once = dict(zip(map(tuple, prompts), policy.greedy(prompts, 7, arm="student"), strict=True))
    rows, read = [], policy._backbone.forward
    monkeypatch.setattr(
        policy._backbone, "forward", lambda **given: rows.append(given["input_ids"].shape) or read(**given)
    )
    again = decode(policy._backbone, policy.head, several, limits=[7] * 6, stop_ids=policy.stop_ids, quantiles_BT=None)
    assert again == [once[tuple(prompt)] for prompt in several]
    assert [num for num, length in rows if length > 1][-1] == 3
    assert max(num for num, _ in rows) == 6


@pytest.mark.parametrize("ahead", [3, 8])
def test_what_is_looked_at_only_now_and_then_says_the_same(any_base, monkeypatch, ahead):
    """As on an accelerator. Fault caught: words after the end, or a row that goes on beyond its limit."""
    policy = load(any_base)
    prompts, limits = prompts_of(policy), [9, 3, 6, 12]

    def said():
        sampled = policy.sample(prompts, 10, generator=torch.Generator().manual_seed(2))
        return [*sampled, *policy.greedy(prompts, limits, arm="student")]

    free = said()
    policy.stop_ids = frozenset({free[0].ids[1], free[-1].ids[4]})
    every_token, looks = said(), []
    assert {rollout.stopped for rollout in every_token} == {True, False}
    monkeypatch.setattr(generation, "_look_tokens", lambda _device: looks.append(ahead) or ahead)
    assert said() == every_token
    assert looks


def test_every_stop_id_ends_its_row_alone(llama):
    policy = load(llama)
    assert policy.stop_ids == {END, STOP}
    prompts = prompts_of(policy)
    free = policy.greedy(prompts, 8, arm="student")
    stops = frozenset({free[0].ids[1], free[2].ids[4]})
    cut = decode(policy._backbone, policy.head, prompts, limits=[8] * 4, stop_ids=stops, quantiles_BT=None)
    for before, after in zip(free, cut, strict=True):
        end = next((place for place, token in enumerate(before.ids) if token in stops), None)
        assert after.ids == (before.ids if end is None else before.ids[: end + 1])
        assert after.stopped == (end is not None)
    assert len(cut[0].ids) <= 2


def test_sampling_follows_the_softmax_and_never_takes_the_impossible():
    logits_V = torch.tensor([1.0, 2.0, float("-inf"), 0.0, 3.0, float("-inf")])
    quantiles = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    chosen = choose(logits_V.expand(200_000, -1), quantiles)
    share_V = chosen.bincount(minlength=6) / len(chosen)
    torch.testing.assert_close(share_V, logits_V.softmax(-1), rtol=0, atol=5e-3)
    assert share_V[2] == share_V[5] == 0


@pytest.mark.parametrize(("quantile", "token"), [(0.0, 1), (1.0, 2)])
def test_the_ends_of_the_unit_interval_fall_on_tokens_that_can_be_said(quantile, token):
    logits_V = torch.tensor([float("-inf"), 1.0, 0.0])
    assert choose(logits_V[None], torch.tensor([quantile])).tolist() == [token]


def test_what_is_drawn_belongs_to_its_prompt_whatever_is_decoded_with_it(any_base, four_threads, monkeypatch):
    """Fault caught: draws in the order in which batches, or threads, happen to come by."""
    policy = load(any_base)
    prompts = prompts_of(policy) * 2

    def said():
        return policy.sample(prompts, 6, generator=torch.Generator().manual_seed(3))

    together = said()
    monkeypatch.setattr("worker.hf.model.SCORE_TOKENS", 1)
    assert said() == together
    assert len({tuple(one.ids) for one in together}) > len(prompts_of(policy))  # the second time, draws of its own


def test_a_seed_fixes_the_rollouts_and_ids_reach_the_loss_as_they_were_said(llama):
    policy = load(llama)
    prompts = prompts_of(policy)
    first, second, other = (
        policy.sample(prompts, 12, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first == second != other
    batch = make_batch(prompts, [rollout.ids for rollout in first], [0] * 4)
    assert batch.targets_T.tolist() == [token for rollout in first for token in rollout.ids]


OBJECTIVES = [forward_kl, reverse_kl, partial(jsd, alpha=0.5), partial(isdft, rho=0.25)]


@pytest.mark.parametrize("divergence", OBJECTIVES)
def test_a_new_student_is_its_own_teacher(any_base, divergence):
    policy = load(any_base, stir=False)
    sequences = [Aligned(one.prompt, one.prompt, one.completion) for one in aligned(policy)]
    teacher = teacher_hidden(policy, sequences, max_tokens=4096)
    known = backward(policy, sequences, teacher, max_tokens=4096, divergence=divergence)
    assert max(abs(one["loss"]) for one in known) < 1e-6
    assert max(parameter.grad.abs().max() for parameter in policy.parameters().values()) < 1e-4


@pytest.mark.parametrize("divergence", OBJECTIVES)
def test_a_demonstration_in_the_teachers_context_gives_something_to_learn(any_base, divergence):
    policy = load(any_base, stir=False)
    sequences = aligned(policy)
    teacher = teacher_hidden(policy, sequences, max_tokens=4096)
    known = backward(policy, sequences, teacher, max_tokens=4096, divergence=divergence)
    assert min(one["loss"] for one in known) > 1e-3
    norms = torch.stack([parameter.grad.norm() for parameter in policy.parameters().values()])
    assert norms.isfinite().all()
    assert norms.max() > 1e-3


def test_micro_batches_do_not_change_loss_or_gradient(any_base):
    """One sequence a batch has neither padding nor a shared beginning; all in one have both."""
    policy = load(any_base)
    sequences = aligned(policy)
    results = []
    for max_tokens in (1, 150, 100_000):
        for parameter in policy.parameters().values():
            parameter.grad = None
        teacher = teacher_hidden(policy, sequences, max_tokens=max_tokens)
        known = backward(policy, sequences, teacher, max_tokens=max_tokens)
        gradient = torch.cat([parameter.grad.flatten() for parameter in policy.parameters().values()])
        results.append(([one["loss"] for one in known], gradient))
    for losses, gradient in results[1:]:
        assert losses == pytest.approx(results[0][0], rel=1e-5)
        # Sums in another order, through weights as peaked as these, differ by up to 7e-6.
        assert (gradient - results[0][1]).norm() < 2e-5 * results[0][1].norm()


def test_rows_that_are_read_side_by_side_are_those_of_one_batch(any_base, four_threads, monkeypatch):
    """Fault caught: rows of another part, or gradients and modes that hold for the thread that asked."""
    policy = load(any_base)
    batch = make_batch(prompts_of(policy), answers_of(policy), [0, 1, 0, 2])
    hidden, parts, read = {}, [], HfPolicy._read

    def watched(*given, **named):
        part = read(*given, **named)
        parts.append(part.requires_grad)
        return part

    monkeypatch.setattr(HfPolicy, "_read", watched)
    monkeypatch.setattr(side_by_side, "MAX_AGAIN", 4.0)
    for tokens in (1_000_000, 1):
        monkeypatch.setattr(side_by_side, "MIN_PART_TOKENS", tokens)
        with torch.no_grad():
            hidden[tokens] = policy.hidden(batch, arm="student")
    torch.testing.assert_close(hidden[1], hidden[1_000_000], **CLOSE)
    assert parts == [False] * 5


def test_parts_side_by_side_do_not_change_loss_or_gradient(any_base, four_threads, monkeypatch):
    results = []
    monkeypatch.setattr(side_by_side, "MAX_AGAIN", 4.0)
    for tokens in (1_000_000, 1):
        monkeypatch.setattr(side_by_side, "MIN_PART_TOKENS", tokens)
        policy = load(any_base)
        sequences = aligned(policy)
        known = backward(policy, sequences, teacher_hidden(policy, sequences, max_tokens=4096), max_tokens=4096)
        results.append(
            ([one["loss"] for one in known], torch.cat([p.grad.flatten() for p in policy.parameters().values()]))
        )
    (losses, gradient), (apart, gradient_apart) = results
    assert apart == pytest.approx(losses, rel=1e-4, abs=1e-5)
    assert (gradient_apart - gradient).norm() < 1e-4 * gradient.norm()


def test_a_continued_adapters_teacher_is_that_adapter(any_base, tmp_path):
    """Not the base, and not what the student becomes; rank and alpha are the parent's."""
    parent = load(any_base, rank=3)
    parent.save_adapter(tmp_path, base_name="tiny", base_revision="1")
    policy = load(any_base, parent=tmp_path, rank=8)
    assert (policy.lora_rank, policy.lora_alpha) == (3, 8)
    batch = make_batch(prompts_of(policy), answers_of(policy), [0] * 4)
    hidden = {arm: policy.hidden(batch, arm=arm) for arm in ("base", "parent", "student")}
    # The student answers folded, the parent through PEFT: sums in another order.
    torch.testing.assert_close(hidden["parent"], parent.hidden(batch, arm="student"), **CLOSE)
    assert torch.equal(hidden["base"], parent.hidden(batch, arm="base"))
    assert not torch.allclose(hidden["parent"], hidden["base"], atol=1e-3)
    assert not torch.allclose(hidden["parent"], hidden["student"], atol=1e-3)
    assert policy.greedy(prompts_of(policy), 8, arm="parent") == parent.greedy(prompts_of(parent), 8, arm="student")


def test_without_a_parent_the_teacher_is_the_bare_base(llama):
    policy = load(llama)
    batch = make_batch(prompts_of(policy), answers_of(policy), [0] * 4)
    assert torch.equal(policy.hidden(batch, arm="parent"), policy.hidden(batch, arm="base"))


def test_a_moving_teacher_begins_as_the_student_and_has_weights_of_its_own(any_base, tmp_path):
    """Fault caught: a teacher that shares the student's tensors, takes the parent's place, or turns the student off."""
    load(any_base).save_adapter(tmp_path, base_name="tiny", base_revision="1")
    policy = load(any_base, parent=tmp_path)
    batch = make_batch(prompts_of(policy), answers_of(policy), [0] * 4)
    before = {arm: policy.hidden(batch, arm=arm) for arm in ("base", "parent", "student")}
    policy.add_teacher()
    teacher = policy.hidden(batch, arm="teacher")
    torch.testing.assert_close(teacher, before["student"], **CLOSE)  # folded there, through PEFT here
    with torch.no_grad():
        for parameter in policy.parameters().values():
            parameter.mul_(1.5)
    assert torch.equal(policy.hidden(batch, arm="teacher"), teacher)
    assert torch.equal(policy.hidden(batch, arm="parent"), before["parent"])
    assert torch.equal(policy.hidden(batch, arm="base"), before["base"])
    assert not torch.allclose(policy.hidden(batch, arm="student"), before["student"], atol=1e-3)
    backward(policy, aligned(policy), None, max_tokens=4096)
    assert all(parameter.grad is not None for parameter in policy.parameters().values())
    assert not any(parameter.requires_grad for parameter in policy.teacher_parameters().values())


def test_what_was_sampled_is_what_is_trained(any_base, monkeypatch):
    """So the importance of every sampled token is 1 and there is nothing to weigh or to cap.

    Fault caught: a merged copy for decoding that lags behind the student, or another temperature.
    """
    policy = load(any_base)
    prompts, seen = prompts_of(policy), []

    def watched(logits_BV, quantiles_B):
        seen.append(logits_BV.log_softmax(-1))
        return choose(logits_BV, quantiles_B)

    monkeypatch.setattr(generation, "choose", watched)
    # One batch whose rows all go on to the limit: what is seen are their places, each with the rows in one order.
    policy.stop_ids = frozenset()
    monkeypatch.setattr("worker.hf.model.DECODE_PADDING", 1.0)
    optimizer = torch.optim.SGD(policy.parameters().values(), lr=1.0)
    for seed in (1, 2):
        seen.clear()
        rollouts = policy.sample(prompts, 6, generator=torch.Generator().manual_seed(seed))
        sampled_BTV = torch.stack(seen, 1)
        longest_first = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        for log_p_TV, index in zip(sampled_BTV, longest_first, strict=True):
            ids, prompt = rollouts[index].ids, prompts[index]
            stock_TV = plain_logits(any_base, policy, prompt + ids)[len(prompt) - 1 : -1].log_softmax(-1)
            of_ids = torch.arange(len(ids)), ids
            torch.testing.assert_close(log_p_TV[of_ids], stock_TV[of_ids], **CLOSE)
        backward(policy, aligned(policy), None, max_tokens=4096)
        optimizer.step()
        optimizer.zero_grad()


def test_a_user_begins_where_the_template_says_and_ends_where_a_turn_ends(llama):
    policy = load(llama)
    opening, end = policy.user_turn()
    whole = policy.encode_chat([{"role": "user", "content": "Hi."}])
    assert whole[: len(opening)] == opening
    assert opening
    assert end == END
    assert end in whole


def test_asking_other_arms_leaves_the_student_trainable(llama, tmp_path):
    load(llama).save_adapter(tmp_path, base_name="tiny", base_revision="1")
    policy = load(llama, parent=tmp_path)
    for arm in ("base", "parent"):
        policy.greedy(prompts_of(policy), 2, arm=arm)
    backward(policy, aligned(policy), None, max_tokens=4096)
    assert all(parameter.grad is not None for parameter in policy.parameters().values())
    frozen = [parameter for name, parameter in policy._peft.named_parameters() if ".student." not in name]
    assert not any(parameter.requires_grad for parameter in frozen)


def test_likelihood_and_divergence_are_means_over_the_completion(llama):
    policy = load(llama)
    prompts, answers = prompts_of(policy), answers_of(policy)
    for number, prompt, answer in zip(policy.nll(prompts, answers, arm="student"), prompts, answers, strict=True):
        logits_TV = plain_logits(llama, policy, prompt + answer)[len(prompt) - 1 : -1]
        expected = torch.nn.functional.cross_entropy(logits_TV, torch.tensor(answer))
        assert number == pytest.approx(expected.item(), rel=1e-4)
    assert policy.divergence(prompts, answers, p="base", q="base") == [pytest.approx((0, 0, 1), abs=1e-6)] * 4


def test_what_is_measured_along_a_completion_does_not_depend_on_what_is_measured_beside_it(
    any_base, four_threads, monkeypatch
):
    """Fault caught: pairs that change places in a tree, or in another thread's part."""
    policy = load(any_base)
    monkeypatch.setattr(side_by_side, "MAX_AGAIN", 4.0)
    monkeypatch.setattr(side_by_side, "MIN_PART_TOKENS", 1)
    prompts, answers = prompts_of(policy), answers_of(policy)
    # Every prompt with every answer, one pair twice, and a prompt that goes on where another's answer ends.
    asked = [prompt for prompt in prompts for _ in answers] + [prompts[0], prompts[1] + answers[1]]
    said = answers * len(prompts) + [answers[0], answers[2]]

    def measured(asked, said):
        likelihoods = policy.likelihoods(asked, said, arm="student")
        divergences = policy.divergence(asked, said, p="base", q="student")
        return torch.tensor(
            [
                [*likelihood, *divergence, nll, entropy]
                for likelihood, divergence, nll, entropy in zip(
                    likelihoods,
                    divergences,
                    policy.nll(asked, said, arm="student"),
                    policy.entropy(asked, said, arm="base"),
                    strict=True,
                )
            ]
        )

    alone = torch.cat([measured([prompt], [answer]) for prompt, answer in zip(asked, said, strict=True)])
    assert len(set(alone[:, 0].tolist())) > len(prompts) * len(answers) - 1
    torch.testing.assert_close(measured(asked, said), alone, rtol=2e-4, atol=2e-5)


def test_divergence_is_that_of_the_plain_models_in_both_directions(llama):
    policy, base = load(llama), load(llama, stir=False)
    prompts, answers = prompts_of(policy), answers_of(policy)
    found = policy.divergence(prompts, answers, p="base", q="student")
    for (there, back, overlap), prompt, answer in zip(found, prompts, answers, strict=True):
        base_TV, student_TV = (
            plain_logits(llama, one, prompt + answer)[len(prompt) - 1 : -1].log_softmax(-1) for one in (base, policy)
        )
        assert there == pytest.approx((base_TV.exp() * (base_TV - student_TV)).sum(-1).mean().item(), rel=2e-4)
        assert back == pytest.approx((student_TV.exp() * (student_TV - base_TV)).sum(-1).mean().item(), rel=2e-4)
        assert abs(there - back) > 2e-3 * there > 0
        tops = (logits_TV.topk(10).indices.tolist() for logits_TV in (base_TV, student_TV))
        common = [len({*before} & {*after}) / 10 for before, after in zip(*tops, strict=True)]
        assert overlap == pytest.approx(sum(common) / len(common))
    assert min(overlap for _, _, overlap in found) < 1


def test_entropy_is_that_of_the_plain_model_along_the_completion(llama):
    policy = load(llama)
    prompts, answers = prompts_of(policy), answers_of(policy)
    for found, prompt, answer in zip(policy.entropy(prompts, answers, arm="student"), prompts, answers, strict=True):
        logits_TV = plain_logits(llama, policy, prompt + answer)[len(prompt) - 1 : -1]
        expected = torch.distributions.Categorical(logits=logits_TV).entropy().mean()
        assert found == pytest.approx(expected.item(), rel=1e-4)


def test_norms_of_weights_are_those_of_the_products_over_all_layers(llama, tmp_path):
    load(llama).save_adapter(tmp_path, base_name="tiny", base_revision="1")
    policy = load(llama, parent=tmp_path, stir=False)
    for name, factor in policy.parameters().items():  # away from the parent's, and each kind by its own
        factor.data.mul_(2.0 if "q_proj" in name else 1.5)
    found = policy.weight_norms(arm="student")
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)} - {"lm_head"}
    assert found.keys() == {name.rpartition(".")[2] for name in linear}
    factors = policy.parameters()
    for kind, (added, of_base) in found.items():
        names = [name for name in linear if name.endswith(kind)]
        assert len(names) > 1
        downs, ups = (
            [factors[f"base_model.model.{name}.lora_{letter}.weight"] for name in names] for letter in ("A", "B")
        )
        products = torch.stack([8 / 4 * (up @ down) for up, down in zip(ups, downs, strict=True)])
        assert added == pytest.approx(products.norm().item(), rel=1e-5)
        base = torch.stack([model.get_submodule(name).weight for name in names])
        assert of_base == pytest.approx(base.norm().item(), rel=1e-5)
    assert policy.weight_norms(arm="parent")["q_proj"][0] == pytest.approx(found["q_proj"][0] / 4, rel=1e-5)
    assert policy.weight_norms(arm="base") == {}


def test_a_new_adapter_adds_nothing_to_the_weights(llama):
    assert {added for added, _ in load(llama, stir=False).weight_norms(arm="student").values()} == {0.0}


def test_a_prompt_that_does_not_fit_is_refused_and_never_cut(llama):
    policy = load(llama)
    with pytest.raises(ValueError, match="513 tokens, more than 512"):
        policy.greedy([[7] * 500], 13, arm="base")


def test_an_adapter_of_another_shape_is_refused(llama):
    policy = load(llama)
    factors = {name: torch.zeros(parameter.shape[0] + 1, 3) for name, parameter in policy.parameters().items()}
    with pytest.raises(ValueError, match="does not fit"):
        policy.load_student(factors)


def test_a_base_that_does_more_to_its_logits_than_is_known_is_refused(llama, tmp_path):
    shutil.copytree(llama, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"logit_scale": 0.5}))
    with pytest.raises(ValueError, match="not supported"):
        load(tmp_path)


def test_each_batch_that_is_sampled_or_scored_is_a_sign_of_life(any_base, monkeypatch):
    """Fault caught: minutes of work in one call that a supervisor takes for a trainer that hangs."""
    monkeypatch.setattr(model_module, "SCORE_TOKENS", 1)
    policy, signs = load(any_base), []
    policy.on_work = lambda: signs.append(None)
    for work in (
        lambda: policy.sample(prompts_of(policy), 2, generator=torch.Generator()),
        lambda: policy.nll(prompts_of(policy), answers_of(policy), arm="student"),
    ):
        signs.clear()
        work()
        assert len(signs) > 1
