"""Prompts that a job rehearses, beside those it learns from, and whose answers to them it is to keep."""

from collections.abc import Sequence
from itertools import chain, cycle, islice
from pathlib import Path

from app.domain.demonstrations import read_demonstrations
from app.domain.errors import Unprocessable
from app.domain.trainer_protocol import Order
from app.domain.training import TrainingConfig
from worker.dataset import measured_on
from worker.evals.suites import Messages, Split, neutral_prompts, prompt_sha256
from worker.examples import Rehearsal, prompt_room
from worker.hf.checkpoint import CheckpointState
from worker.hf.model import HfPolicy
from worker.reporting import PipeReporter
from worker.sdft.own_prompts import own_prompts
from worker.sdft.policy import Arm, Policy

MIN_UNSKILLED = 128
"""Neutral prompts beside those of the lineage: a client's few come again, so that the shares stay what they are."""


def prompts_of_its_own(
    policy: HfPolicy, config: TrainingConfig, resume: CheckpointState | None, reporter: PipeReporter
) -> list[str] | None:
    """Rehearsal prompts that the starting point makes up, once for all attempts; null where others are wanted."""
    if config.rehearsal_prompts != "self" or config.num_rehearsal == 0:
        return None
    if resume:
        kept: list[str] = resume.facts["own_prompts"]
        return kept
    prompts = own_prompts(policy, seed=config.seed)
    example = f", such as {prompts[0][:80]!r}" if prompts else ""
    reporter.event("info", f"The starting point made up {len(prompts)} prompts to rehearse{example}.")
    return prompts


def rehearsal(order: Order, folder: Path, data: Split, own: Sequence[str] | None = None) -> Rehearsal:
    """Neutral prompts and, half as many, prompts that the lineage was trained on, in turn until there are enough.

    Those that ship with the project are about no skill: the base answers them, or what each version of a lineage lost
    would be added up. All others may be about an earlier one: the starting point does.

    What the report asks is never rehearsed, or it would say nothing of what was not; nor is what the demonstrations
    answer, or one prompt would be taught two answers. A file is gone through in the order of its prompts' digests: as
    it lies there it may be sorted by kind.
    """
    apart = _kept_apart(order, folder, data)
    taught_by, prompts_of_any = _unskilled(order, folder, own)
    unskilled = [messages for messages in prompts_of_any if prompt_sha256(messages) not in apart]
    skills = []
    for path in order.rehearsal:
        prompts = {prompt_sha256(one.messages): one.messages for one in read_demonstrations(folder / path)}
        skills.append([prompts[key] for key in sorted(prompts.keys() - apart)])
    if not any(skills):
        return {taught_by: unskilled}
    in_turn = chain.from_iterable(zip(*(cycle(prompts) for prompts in skills if prompts), strict=False))
    num_unskilled = max(len(unskilled), MIN_UNSKILLED)
    rehearsed: dict[Arm, list[Messages]] = {taught_by: list(islice(cycle(unskilled), num_unskilled))}
    rehearsed.setdefault("parent", []).extend(islice(in_turn, num_unskilled // 2))
    return rehearsed


def _kept_apart(order: Order, folder: Path, data: Split) -> set[str]:
    """Digests of the prompts that are not rehearsed: what is asked, and what is demonstrated."""
    return measured_on(order, folder, data) | {prompt_sha256(one.messages) for one in data.training}


def check_prompts(order: Order, folder: Path, data: Split, policy: Policy, config: TrainingConfig) -> list[str]:
    """Warnings of how many prompts are left out: asked, demonstrated, or without room for an answer.

    Those that the starting point makes up come later, and are short.

    Raises:
        Unprocessable: All of the client's own are left out.
    """
    warnings: list[str] = []
    if config.num_rehearsal == 0:
        return warnings
    room, limit = prompt_room(policy, config), f"max_completion_tokens ({config.max_completion_tokens})"
    if order.rehearsal_file is not None:
        apart = _kept_apart(order, folder, data)
        own = read_demonstrations(folder / order.rehearsal_file)
        free = [one.messages for one in own if prompt_sha256(one.messages) not in apart]
        if not free:
            raise Unprocessable(
                "nothing_to_rehearse",
                "Every prompt of the file to rehearse is asked in this job's evaluation, which could then not tell "
                "what was kept from what was rehearsed, or is demonstrated by the training file. Add others.",
                param=f"method.{order.method}.hyperparameters.rehearsal.file",
            )
        if len(free) < len(own):
            warnings.append(
                f"{len(own) - len(free)} of {len(own)} prompts to rehearse are asked in this job's evaluation, or "
                "demonstrated by its training file, and are left out."
            )
        if all(len(policy.encode_chat(messages)) > room for messages in free):
            raise Unprocessable(
                "nothing_to_rehearse",
                f"No prompt of the file to rehearse leaves room for an answer of {limit}. Shorten the prompts, or "
                "lower max_completion_tokens.",
                param=f"method.{order.method}.hyperparameters.rehearsal.file",
            )
    planned = rehearsal(order, folder, data, [] if config.rehearsal_prompts == "self" else None)
    prompts = {tuple(policy.encode_chat(messages)) for of_arm in planned.values() for messages in of_arm}
    if num_long := sum(len(prompt) > room for prompt in prompts):
        warnings.append(
            f"{num_long} of {len(prompts)} prompts to rehearse leave no room for an answer of {limit} and are left out."
        )
    return warnings


def _unskilled(order: Order, folder: Path, own: Sequence[str] | None) -> tuple[Arm, list[Messages]]:
    """Rehearsal prompts on no particular skill, from where the client wants them, and who answers them.

    Args:
        order: Of the job.
        folder: Of the attempt.
        own: What the starting point made up, if it was asked to.
    """
    if own is not None:
        return "parent", [[{"role": "user", "content": text}] for text in own]
    if order.rehearsal_file is not None:
        return "parent", [one.messages for one in read_demonstrations(folder / order.rehearsal_file)]
    return "base", neutral_prompts()
