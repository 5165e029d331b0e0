"""Plain fine-tuning with replay, as a training file: demonstrations, and a model's own answers beside them.

The control of rehearsal. It has the same prompts, answered by the same weights at the same temperature, as often and
with the same weight in a step as rehearsal has by default; what differs is what is learned from an answer (its text, or
the whole distribution along it of the weights that gave it) and from a demonstration.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

from app.domain.demonstrations import read_demonstrations
from app.domain.trainer_protocol import Order
from app.domain.training import SupervisedHyperparameters, TrainingConfig
from benchmarks.study.store import MAX_REPLAYED_TOKENS, file_sha256
from worker.dataset import part
from worker.examples import REHEARSAL_WEIGHT, Rehearsal, encode_rehearsal
from worker.hf.base import Base
from worker.hf.model import HfPolicy
from worker.rehearsal import rehearsal

Conversation = list[Mapping[str, Any]]


def write_replay(order: Order, folder: Path, rehearsing: TrainingConfig, remembered: Path) -> Order:
    """Put the mixed file in the place of the demonstrations; the order to train on it in one pass.

    Args:
        order: A supervised one, its folder laid out.
        folder: Of the attempt.
        rehearsing: Of the job whose rehearsal this is the control of.
        remembered: Folder of answers that were given before; sampling them takes longer than some trainings.

    Raises:
        RuntimeError: There is no answer that can be replayed.
    """
    num_replayed = round(rehearsing.num_rehearsal * REHEARSAL_WEIGHT)
    file = folder / "train.jsonl"
    demonstrations = [[*one.messages, _assistant(one.completion)] for one in read_demonstrations(file)]
    shown = islice(cycle(demonstrations), rehearsing.total_steps * rehearsing.batch_size)
    said = own_answers(order, folder, rehearsing, remembered)
    if not said:
        raise RuntimeError(f"no answer to a rehearsal prompt ends within {MAX_REPLAYED_TOKENS} tokens")
    replayed = islice(cycle(said), rehearsing.total_steps * num_replayed)
    lines = (json.dumps({"messages": messages}) + "\n" for messages in chain(shown, replayed))
    file.write_text("".join(lines), encoding="utf-8")
    asked = SupervisedHyperparameters(
        learning_rate=order.hyperparameters.learning_rate,
        batch_size=rehearsing.batch_size + num_replayed,
        n_epochs=1,
    )
    return order.model_copy(update={"hyperparameters": asked, "training_sha256": file_sha256(file)})


def own_answers(order: Order, folder: Path, rehearsing: TrainingConfig, remembered: Path) -> list[Conversation]:
    """Answers to the prompts that the job would rehearse, by who teaches them, as far as a training file may hold them.

    Left out: answers that do not end in time, are empty, or hold a NUL. Skills that start from the same weights have
    the same ones.
    """
    to_the_end = rehearsing.model_copy(update={"max_completion_tokens": MAX_REPLAYED_TOKENS})
    prompts = rehearsal(order, folder, part(order, folder))
    parent = folder / "parent" if order.parent else None
    weights = [order.base.weights_sha256, file_sha256(parent / "adapter_model.safetensors") if parent else None]
    decided_by = json.dumps([weights, prompts, to_the_end.model_dump()], sort_keys=True)
    path = remembered / f"replay-{hashlib.sha256(decided_by.encode()).hexdigest()[:16]}.json"
    if not path.exists():
        said = list(_sampled(order, parent, prompts, to_the_end))
        remembered.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".new").write_text(json.dumps(said))
        path.with_suffix(".new").replace(path)
    answers: list[Conversation] = json.loads(path.read_bytes())
    return answers


def _sampled(order: Order, parent: Path | None, prompts: Rehearsal, config: TrainingConfig) -> Iterator[Conversation]:
    base = Base.load(Path(order.base.path), num_threads=order.num_threads)
    policy = HfPolicy.on(base, lora_rank=config.lora_rank, lora_alpha=config.lora_alpha, parent=parent, seed=order.seed)
    messages = {tuple(policy.encode_chat(one)): one for some in prompts.values() for one in some}
    for task in encode_rehearsal(policy, prompts, config):
        text = policy.decode(task.answer)
        ends = task.answer[-1] in policy.stop_ids and len(policy.encode_completion(text)) <= MAX_REPLAYED_TOKENS
        if ends and text.strip() and "\0" not in text:
            yield [*messages[tuple(task.prompt)], _assistant(text)]


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
