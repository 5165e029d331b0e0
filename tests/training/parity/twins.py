"""The same steps twice: by our loop and by TRL's trainer, from the same factors, on the same rollouts."""

import torch

from app.domain.demonstrations import Demonstration
from app.domain.training import TrainingConfig
from benchmarks.trl_trainer import PAPER, OurPrompts, make_trainer, student_factors
from tests.unit.sdft.records import Kept, Remembered
from worker.sdft.policy import Rollout
from worker.sdft.prompts import TEMPLATES
from worker.trainer import train

SYSTEM = {"role": "system", "content": "You are a terse assistant of a large company."}
DEMONSTRATIONS = [
    Demonstration(line=line, messages=(SYSTEM, {"role": "user", "content": question}), completion=answer)
    for line, (question, answer) in enumerate(
        {
            "Hi.": "Hello.",
            "Where is my parcel?": "team=shipping",
            "Turn on the lamp in the kitchen, please.": "lamp.on(kitchen)",
            "Why?": "42",
            "I was charged twice.": "team=billing",
            "Dim the light in the hall.": "light.dim(hall)",
            "Who are you?": "A terse assistant.",
            "My camera is broken, what now?": "team=technical",
        }.items(),
        start=1,
    )
]


def make_config(*, steps, batch_size=4, template="multi_turn", **changes):
    """Plain: a constant learning rate, no skip, no rehearsal."""
    config = {
        "method": "sdft", "seed": 3, "num_epochs": 1, "batch_size": batch_size, "total_steps": steps,
        "learning_rate": 0.1, "warmup_steps": 0, "final_learning_rate_ratio": 1.0, "max_grad_norm": 1.0,
        "lora_rank": 4, "lora_alpha": 8, "max_completion_tokens": 9, "template": template,
    }  # fmt: skip
    return TrainingConfig(**config | changes)


class Scripted(OurPrompts):
    """Says what it is told to."""

    script: dict[tuple[int, ...], list[int]]

    def _generate_transformers(self, prompt_ids):
        return prompt_ids, [self.script[tuple(ids)] for ids in prompt_ids]


def step_ours(policy, config, monkeypatch, *, lengths=(9, 4, 7, 5)):
    """Train by our loop with SGD; returns each prompt's rollout in the order in which they were trained on.

    Args:
        policy: Its student is moved.
        config: Of the run.
        monkeypatch: Puts SGD in place of AdamW, whose first step hides the gradient's size.
        lengths: Of each step's rollouts, where they have not ended before.
    """
    script: dict[tuple[int, ...], list[int]] = {}
    sample = policy.sample

    def remember(prompts, max_new_tokens, *, generator):
        rollouts = sample(prompts, max_new_tokens, generator=generator)
        rollouts = [
            Rollout(rollout.prompt, rollout.ids[:length], stopped=True)
            for rollout, length in zip(rollouts, lengths, strict=True)
        ]
        script.update({tuple(rollout.prompt): rollout.ids for rollout in rollouts})
        return rollouts

    monkeypatch.setattr(policy, "sample", remember)
    monkeypatch.setattr(torch.optim, "AdamW", lambda factors, lr, **_: torch.optim.SGD(factors, lr=lr))
    train(policy, DEMONSTRATIONS, {}, config, Remembered(), Kept())
    return script


def open_theirs(base, folder, factors, config, *, script=None, demonstrations=DEMONSTRATIONS, **settings):
    """TRL's trainer at ``factors``, with what ``config`` says in its own words.

    A text template is filled in by TRL; its data come in the order of the script.
    """
    settings = {
        "per_device_train_batch_size": config.batch_size, "max_steps": config.total_steps, "optim": "sgd",
        "learning_rate": config.learning_rate, "lr_scheduler_type": "constant", "shuffle_dataset": False,
        "max_grad_norm": config.max_grad_norm, "max_completion_length": config.max_completion_tokens,
        "num_loss_tokens_to_skip": config.loss_skip_tokens,
    } | PAPER | settings  # fmt: skip
    template = TEMPLATES[config.template]
    if not template.shown:
        settings["teacher_prompt_template"] = template.text.format(
            question="{prompt}", demonstration="{privileged_context}"
        )
    trainer = make_trainer(
        base, demonstrations, folder, lora_rank=config.lora_rank, lora_alpha=config.lora_alpha,
        kind=Scripted, template=config.template if template.shown else None, settings=settings,
    )  # fmt: skip
    if script:
        asked = [tuple(trainer._tokenize_prompts([list(one.messages)])[0]) for one in demonstrations]
        assert set(asked) >= set(script)
        trainer.train_dataset = trainer.train_dataset.select([asked.index(prompt) for prompt in script])
        trainer.script = script
    with torch.no_grad():
        for name, parameter in student_factors(trainer).items():
            parameter.copy_(factors[name])
    return trainer


def copy_of(factors):
    return {name: factor.detach().clone() for name, factor in factors.items()}


def updates(after, before):
    """One long vector of what changed."""
    return torch.cat([(after[name].detach() - before[name]).flatten() for name in before])
