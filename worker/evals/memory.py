"""Greedy answers that were given before, in a folder of this machine: one small file for each question set and arm.

The base is asked the same questions by every job, and the candidate of one job is the parent of the next. A file is
named by the digest of all that decides an answer, so it is never wrong, only there or not. Knows no model.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from worker.sdft.policy import Arm, Rollout

MAX_FILES: Final = 256
"""Of some 25 kB each; those that were not used for longest go first."""

Prompts = Sequence[Sequence[int]]


class AnswerMemory:
    """What some weights said to some prompts. A folder that cannot be read or written is one that holds nothing.

    Args:
        folder: Shared by any number of processes; made when first needed.
        weights: Digest of each arm's weights.
        settings: Whatever else an answer depends on: device, libraries, ids that end an answer.
    """

    def __init__(self, folder: Path, weights: Mapping[Arm, str], settings: Mapping[str, Any]) -> None:
        self._folder, self._weights, self._settings = folder, weights, settings

    def recall(self, arm: Arm, prompts: Prompts, limits: Sequence[int]) -> list[Rollout] | None:
        """All answers of an arm to these prompts under these limits, or ``None``."""
        path = self._path(arm, prompts, limits)
        with suppress(OSError):
            answers = _checked(path.read_bytes())
            if answers is not None:
                os.utime(path)
                return [
                    Rollout(list(prompt), ids, stopped=stopped)
                    for prompt, (ids, stopped) in zip(prompts, answers, strict=True)
                ]
        return None

    def keep(self, arm: Arm, prompts: Prompts, limits: Sequence[int], rollouts: Sequence[Rollout]) -> None:
        """Remember answers, whole or not at all; who else writes the same file writes the same bytes."""
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(self._path(arm, prompts, limits), _sealed([(one.ids, one.stopped) for one in rollouts]))
            for path in sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime)[:-MAX_FILES]:
                path.unlink(missing_ok=True)

    def _path(self, arm: Arm, prompts: Prompts, limits: Sequence[int]) -> Path:
        decides = [self._weights[arm], self._settings, [list(prompt) for prompt in prompts], list(limits)]
        return self._folder / f"{hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()}.json"


def _write(path: Path, content: bytes) -> None:
    """Put a file in its place at once: a reader sees all of it or none."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)


def _sealed(answers: list[tuple[list[int], bool]]) -> bytes:
    """Answers after their digest: a power cut may leave a file that has its name and not its bytes."""
    body = json.dumps(answers).encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _checked(content: bytes) -> list[tuple[list[int], bool]] | None:
    digest, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    return [(ids, stopped) for ids, stopped in json.loads(body)]
