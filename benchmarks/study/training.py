"""One cell, trained as the service would: an attempt's folder, an order in it, a trainer process in its seat."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.domain.trainer_protocol import ORDER_NAME, EarlierSkill, Failed, Finished, Order, ParentRef
from app.domain.training import SdftHyperparameters
from benchmarks.study.cells import ARMS, SKILLS, Cell
from benchmarks.study.replay import write_replay
from benchmarks.study.store import Results, file_sha256
from worker.launcher import Trainer
from worker.seat import Seat

LOOK_SECONDS = 1.0
KEEP_NO_CHECKPOINT_SECONDS = 1e9
"""A cell that is killed begins anew; only the last step writes one."""
OUTCOMES = {"diverged"}
"""Failures that are a result of the way to train. Any other is a fault, and ends the study."""


def train(cell: Cell, results: Results, seat: Seat, *, threads: int | None, say: Callable[[str], None]) -> None:
    """Run a cell whose parent is done, and keep its result.

    Raises:
        RuntimeError: The training failed for a reason that says nothing about the way to train.
    """
    began = time.monotonic()
    before = results.get(cell.parent) if cell.parent else None
    if before and before["failed"]:
        results.put(cell, {"failed": "what it goes on from failed", "report": None, "seconds": 0.0}, None)
        return
    with results.attempt() as folder:
        order = lay_out(cell, results, folder, before, threads=threads)
        with seat.trainer(order.base, folder) as trainer:
            end = watch(trainer, say)
        report = folder / "out" / "report.json"
        result = {
            "failed": end.code if isinstance(end, Failed) else None,
            "finished": end.model_dump(),
            "report": json.loads(report.read_bytes()) if isinstance(end, Finished) else None,
            "seconds": time.monotonic() - began,
        }
        results.put(cell, result, folder / "out" if isinstance(end, Finished) else None)


def watch(trainer: Trainer, say: Callable[[str], None]) -> Finished | Failed:
    """Hear a trainer out.

    Raises:
        RuntimeError: It failed for a reason that is no outcome, or died.
    """
    fault: str | None = None
    while not (trainer.ended and trainer.silent):
        for message in trainer.receive(LOOK_SECONDS):
            if message.kind == "phase":
                say(message.phase)
            if message.kind == "finished" or (message.kind == "failed" and message.code in OUTCOMES):
                return message
            if message.kind == "failed":
                fault = message.message
        trainer.keep_alive()
    raise RuntimeError(f"{fault or trainer.explain_end()[1]}\n{trainer.log_tail()}")


def lay_out(cell: Cell, results: Results, folder: Path, before: dict[str, Any] | None, *, threads: int | None) -> Order:
    """Fill an attempt's folder as ``worker.workspace`` would.

    Args:
        cell: What to train.
        results: Where the version lies that it goes on from.
        folder: Empty.
        before: Result of the cell that it goes on from.
        threads: For the trainer.
    """
    skill, arm, asked = SKILLS[cell.skill], ARMS[cell.arm], results.asked(cell)
    shutil.copy(skill.training, folder / "train.jsonl")
    shutil.copy(skill.heldout, folder / "validation.jsonl")
    lineage = _lay_out_lineage(cell.parent, results, folder, before) if cell.parent and before else {}
    order = Order(
        job_id=f"study-{results.digest(cell)}",
        attempt=1,
        method="sdft" if isinstance(asked, SdftHyperparameters) else "supervised",
        hyperparameters=asked,
        seed=cell.seed,
        base=results.base,
        adapter=cell.skill,
        version_name=str(cell),
        training_sha256=file_sha256(skill.training),
        validation_sha256=file_sha256(skill.heldout),
        scorer=skill.scorer,
        answers=str(results.answers),
        checkpoint_seconds=KEEP_NO_CHECKPOINT_SECONDS,
        num_threads=threads,
        **lineage,
    )
    if arm.replay:
        order = write_replay(order, folder, results.rehearsing(cell), results.answers)
    (folder / ORDER_NAME).write_text(order.model_dump_json(indent=1))
    return order


def _lay_out_lineage(parent: Cell, results: Results, folder: Path, before: dict[str, Any]) -> dict[str, Any]:
    """The version that a cell goes on from, what that was measured on and trained on."""
    version = results.version(parent)
    shutil.copytree(version / "adapter", folder / "parent")
    for name, path in (("earlier", version / "heldout.jsonl"), ("rehearsal", SKILLS[parent.skill].training)):
        (folder / name).mkdir()
        shutil.copy(path, folder / name / "0.jsonl")
    asked = {name: before["finished"][name] for name in ("scorer", "max_completion_tokens")}
    return {
        "parent": ParentRef(adapter=parent.skill, version=1, model_id=str(parent)),
        "earlier": [
            EarlierSkill(
                adapter=parent.skill,
                version=1,
                path="earlier/0.jsonl",
                sha256=file_sha256(folder / "earlier" / "0.jsonl"),
                **asked,
            )
        ],
        "rehearsal": ["rehearsal/0.jsonl"],
    }
