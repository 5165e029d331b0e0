"""Where the study's results lie: a JSON file a cell, named by the digest of all that decides what comes out.

A cell whose settings have changed, a default of the trainer among them, is another cell and has no result yet. Figures
that were published are a part of the project: a study in a new checkout begins where they end.
"""

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import worker
from app.domain.demonstrations import read_demonstrations
from app.domain.trainer_protocol import BaseModelRef
from app.domain.training import DatasetFacts, Hyperparameters, SdftHyperparameters, TrainingConfig, resolve
from benchmarks.study.cells import ARMS, SKILLS, Cell
from benchmarks.study.figures import Known
from worker.circumstances import code_sha256
from worker.dataset import Lengths
from worker.evals.suites import Split
from worker.examples import MAX_REHEARSED, REHEARSAL_WEIGHT
from worker.hf.chat import Chat
from worker.hf.import_model import FACTS_NAME

MAX_REPLAYED_TOKENS = 256
"""Of an answer that is replayed; a longer one is left out, since a training file cannot say that it was cut."""
ATTEMPT_PREFIX = "attempt-"
PUBLISHED = Path(__file__).parent / "results.json"
"""Figures by digest."""


class Results:
    """The results on one base, in one folder.

    Args:
        folder: Made if it is not there.
        base: Folder of an imported base.

    Attributes:
        base: What an order says of it.
        answers: Folder of answers that trainers remember.
    """

    def __init__(self, folder: Path, base: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.answers = folder.resolve(), folder.resolve() / "answers"
        facts = json.loads((base / FACTS_NAME).read_text())
        facts["tokenizer_sha256"] = facts["digests"][facts["tokenizer_path"]]
        said = {name: facts[name] for name in BaseModelRef.model_fields if name != "path"}
        self.base = BaseModelRef(path=str(base.resolve()), **said)
        self._chat = Chat.load(base)
        self._published = json.loads(PUBLISHED.read_bytes()) if PUBLISHED.exists() else {}

    def get(self, cell: Cell) -> dict[str, Any] | None:
        """All that came out of a training in this folder."""
        path = self._path(cell)
        return json.loads(path.read_bytes()) if path.exists() else None

    def known(self, cell: Cell) -> Known | None:
        """Its figures, from this folder or published."""
        if result := self.get(cell):
            return Known.of(result)
        row = self._published.get(self.digest(cell))
        return Known.from_json(row) if row else None

    def missing(self, cells: Sequence[Cell]) -> list[Cell]:
        """What has to be run, in the same order: for its figures, or for the version that such a one goes on from."""
        wanted = {cell for cell in cells if self.known(cell) is None}
        parents = {cell.parent for cell in wanted if cell.parent}
        return [cell for cell in cells if cell in wanted or (cell in parents and not self._can_be_gone_on_from(cell))]

    def publish(self, known: Mapping[Cell, Known]) -> None:
        """Make figures a part of the project, in the place of those that were."""
        rows = {self.digest(cell): {"cell": str(cell)} | asdict(one) for cell, one in known.items()}
        lines = ",\n".join(f"{json.dumps(digest)}: {json.dumps(row)}" for digest, row in rows.items())
        PUBLISHED.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")

    def _can_be_gone_on_from(self, cell: Cell) -> bool:
        result = self.get(cell)
        return result is not None and (result["failed"] is not None or self.version(cell).exists())

    def put(self, cell: Cell, result: dict[str, Any], out: Path | None) -> None:
        """Keep a result: whole or, if this process is killed, not at all.

        Args:
            cell: What was run.
            result: As JSON.
            out: What a training that succeeded has left; kept where others go on from it, but for the tar.
        """
        if out and cell.is_gone_on_from:
            (out / "adapter.tar").unlink()
            shutil.rmtree(self.version(cell), ignore_errors=True)
            out.rename(self.version(cell))
        with tempfile.NamedTemporaryFile("w", dir=self.folder, prefix=ATTEMPT_PREFIX, delete=False) as file:
            json.dump(
                {"cell": cell._asdict(), "settings": self.settings(cell), "code": code_sha256(worker)} | result, file
            )
        Path(file.name).replace(self._path(cell))

    def version(self, cell: Cell) -> Path:
        """What ``out/`` of a cell that others go on from held."""
        return self.folder / self.digest(cell)

    def digest(self, cell: Cell) -> str:
        """Names a cell's result."""
        return hashlib.sha256(json.dumps(self.settings(cell), sort_keys=True).encode()).hexdigest()[:16]

    @cache  # noqa: B019 - lives as long as the process
    def settings(self, cell: Cell) -> dict[str, Any]:
        """All that decides what comes out, as far as the code does not."""
        arm, skill = ARMS[cell.arm], SKILLS[cell.skill]
        config = self.config(cell, self.asked(cell))
        replayed = self.rehearsing(cell) if arm.replay else None
        rehearses = replayed or config.num_rehearsal
        return {
            "base": self.base.weights_sha256,
            "training": file_sha256(skill.training),
            "heldout": file_sha256(skill.heldout),
            "scorer": skill.scorer,
            "parent": self.digest(cell.parent) if cell.parent else None,
            "config": config.model_dump(),
            "replayed": replayed.model_dump() | {"max_tokens": MAX_REPLAYED_TOKENS} if replayed else None,
            "rehearsal": [_shipped_sha256("rehearsal.jsonl"), REHEARSAL_WEIGHT, MAX_REHEARSED] if rehearses else None,
            "general": _shipped_sha256("general.jsonl"),
        }

    def asked(self, cell: Cell) -> Hyperparameters:
        """What a job of this cell asks for: its way's, and of plain fine-tuning as many epochs as the default has."""
        asked = ARMS[cell.arm].hyperparameters
        if isinstance(asked, SdftHyperparameters):
            return asked
        return asked.model_copy(update={"n_epochs": self.rehearsing(cell).num_epochs})

    def rehearsing(self, cell: Cell) -> TrainingConfig:
        """The config of the default arm: what a replay takes its prompts and its share from."""
        return self.config(cell, SdftHyperparameters())

    def config(self, cell: Cell, asked: Hyperparameters) -> TrainingConfig:
        """What a job with these hyperparameters would train with on the cell's demonstrations."""
        return resolve(
            asked,
            method="sdft" if isinstance(asked, SdftHyperparameters) else "supervised",
            seed=cell.seed,
            facts=self._facts(cell.skill),
            num_parameters=self.base.num_parameters,
            has_earlier=cell.parent is not None,
        )

    @cache  # noqa: B019
    def _facts(self, skill: str) -> DatasetFacts:
        data = Split(read_demonstrations(SKILLS[skill].training), read_demonstrations(SKILLS[skill].heldout), "")
        return Lengths.of(data, self._chat).facts

    @contextmanager
    def attempt(self) -> Iterator[Path]:
        """A folder for one training, removed at its end; a killed one's is removed by ``alone``."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=ATTEMPT_PREFIX, ignore_cleanup_errors=True) as path:
            yield Path(path)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder, and clear what a killed run has left in it.

        Raises:
            SystemExit: Another process holds it.
        """
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SystemExit(f"Another study runs in {self.folder}; wait for it, or choose another --out") from None
            for left in self.folder.glob(f"{ATTEMPT_PREFIX}*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield

    def _path(self, cell: Cell) -> Path:
        return self.folder / f"{self.digest(cell)}.json"


def file_sha256(path: Path) -> str:
    """Digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _shipped_sha256(name: str) -> str:
    return hashlib.sha256(resources.files("worker.data").joinpath(name).read_bytes()).hexdigest()
