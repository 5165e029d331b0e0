"""Where we differ from TRL on purpose: each test shows what TRL does and what ours does instead."""

import pytest
import torch

from app.domain.demonstrations import Demonstration
from app.domain.errors import Unprocessable
from benchmarks.trl_trainer import student_factors
from tests.training.parity.twins import DEMONSTRATIONS, SYSTEM, copy_of, make_config, open_theirs
from tests.training.test_policy import CLOSE, load
from worker.sdft.align import make_batch
from worker.trainer import encode_tasks

MAX_PROMPT = 512
"""TRL's default."""


def test_a_continued_adapters_teacher_is_that_adapter_and_trls_is_the_base(llama, tmp_path):
    """TRL's "frozen" teacher would pull every skill of an earlier version back out."""
    load(llama).save_adapter(tmp_path / "parent", base_name="tiny", base_revision="1")
    policy = load(llama, parent=tmp_path / "parent", stir=False)
    trainer = open_theirs(llama, tmp_path / "trl", copy_of(policy.parameters()), make_config(steps=1))
    prompt, answer = policy.encode_chat(DEMONSTRATIONS[1].messages), policy.encode_completion("team=shipping")
    batch = make_batch([prompt], [answer], [0])
    logits = {arm: policy.head.logits(policy.hidden(batch, arm=arm)) for arm in ("base", "parent", "student")}

    ids = torch.tensor([prompt + answer])
    with torch.no_grad(), trainer._get_teacher_context_for_self_distillation():
        theirs_TV = trainer._forward_logits(trainer.model, ids, torch.ones_like(ids), logits_to_keep=len(answer))[0]
    torch.testing.assert_close(theirs_TV, logits["base"], **CLOSE)
    torch.testing.assert_close(logits["parent"], logits["student"], **CLOSE)
    assert (theirs_TV - logits["parent"]).abs().max() > 0.1


def test_a_long_prompt_is_refused_and_trl_cuts_its_beginning_off(llama, tmp_path):
    policy, config = load(llama), make_config(steps=1, batch_size=1, template="paper")
    question = {"role": "user", "content": "The question is the first thing that is said. " + "x" * MAX_PROMPT}
    long = [Demonstration(line=7, messages=(SYSTEM, question), completion="42")]
    with pytest.raises(Unprocessable, match="do not fit") as refused:
        encode_tasks(policy, long, config)
    assert refused.value.errors[0]["line"] == 7

    trainer = open_theirs(llama, tmp_path, copy_of(policy.parameters()), config, demonstrations=long)
    (shown,) = trainer._tokenize_prompts([list(long[0].messages)])
    assert len(shown) == MAX_PROMPT
    whole = policy.encode_chat(long[0].messages)
    assert shown == whole[-MAX_PROMPT:]
    assert "The question" not in policy.decode(shown)


def test_trls_ema_teacher_starts_at_zero_so_its_weights_lag_quadratically(llama, tmp_path):
    """Both factors are averaged from zero: after t steps their product is s² of a constant student's, s = 1-(1-r)^t."""
    rate, steps = 0.25, 2
    policy, config = load(llama), make_config(steps=steps, learning_rate=1e-12)
    factors = copy_of(policy.parameters())
    script = {
        tuple(policy.encode_chat(one.messages)): policy.encode_completion(one.completion) for one in DEMONSTRATIONS
    }
    trainer = open_theirs(
        llama, tmp_path, factors, config, script=script, teacher_model_kind="ema", teacher_update_rate=rate
    )
    trainer.train()
    teacher = {
        name.replace(".teacher.", "."): factor
        for name, factor in trainer.model.named_parameters()
        if ".teacher." in name
    }
    covered = 1 - (1 - rate) ** steps
    for name in (name for name in student_factors(trainer) if "lora_A" in name):
        up = name.replace("lora_A", "lora_B")
        lagging = teacher[up] @ teacher[name]
        torch.testing.assert_close(lagging, covered**2 * (factors[up] @ factors[name]), rtol=1e-4, atol=1e-6)
