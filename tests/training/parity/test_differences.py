"""Where we differ from TRL on purpose: each test shows what TRL does and what ours does instead."""

import pytest
import torch

from app.domain.demonstrations import Demonstration
from app.domain.errors import Unprocessable
from tests.training.parity.twins import DEMONSTRATIONS, SYSTEM, copy_of, make_config, open_theirs
from tests.training.test_policy import CLOSE, load
from worker.examples import encode_tasks
from worker.sdft.align import make_batch
from worker.sdft.teacher import follow

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


def test_an_ema_teacher_starts_where_the_job_does_and_trls_starts_at_zero(llama, tmp_path):
    """TRL averages both factors from zero: the product lags quadratically, s² of a constant student, s = 1 - (1 - r)^t.

    Ours is the student itself at the start, and stays with one that does not move.
    """
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
    theirs = {
        name.replace(".teacher.", "."): factor
        for name, factor in trainer.model.named_parameters()
        if ".teacher." in name
    }
    policy.add_teacher()
    ours = policy.teacher_parameters()
    for _ in range(steps):
        follow(policy.parameters(), ours, rate=rate)

    covered = 1 - (1 - rate) ** steps
    for down in (name for name in factors if "lora_A" in name):
        up = down.replace("lora_A", "lora_B")
        student = factors[up] @ factors[down]
        torch.testing.assert_close(theirs[up] @ theirs[down], covered**2 * student, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(ours[up] @ ours[down], student, rtol=1e-4, atol=1e-6)
