"""A trainer that does as its training files say, speaking the real protocol through the real reporter.

The file holds one JSON object, see ``Script``. Its "weights" are a digest over all steps since the first, carried by
checkpoints, so that a resumed run ends with the same bytes as an uninterrupted one, or the test fails.
"""

import hashlib
import json
import os
import signal
import sys
import tarfile
import time
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel

from app.domain.lifecycle import Phase
from app.domain.trainer_protocol import DRAINED_EXIT_CODE, REPORT_FD_VARIABLE, Order, Stay, checkpoint_path
from worker import reporting
from worker.reporting import Drained, PipeReporter, Supervisor


class Script(BaseModel):
    steps: int = 3
    step_seconds: float = 0.01
    checkpoint_every: int = 1
    crash_at: int | None = None
    crash_attempts: int = 99  # crash in the first so many attempts only
    crash_signal: int | None = None  # else exit 3
    ignore_term: bool = False
    hang_at: int | None = None
    batch_seconds: float = 0.0  # of each of ten batches before the first step
    fail: str | None = None
    say: str | None = None  # a raw line for the pipe
    aside_seconds: float = 0.0  # of a twin, or of all other seeds, where the order asks for them
    evaluate_seconds: float = 0.0
    trust_seconds: float = 45.0
    prints: str = ""
    say_after_the_end: str = ""
    tidy_seconds: float = 0.0  # after the end, before the next one
    leave: bool = False  # after the end, for reasons of its own


def main() -> None:
    reporting.WORKING_SECONDS = 0  # a script's times are short
    stay = Stay.model_validate_json(sys.argv[-1])
    supervisor = Supervisor(sys.stdin.fileno(), trust_seconds=stay.trust_seconds)
    with os.fdopen(int(os.environ[REPORT_FD_VARIABLE]), "wb") as pipe:
        for _ in range(stay.max_jobs):
            folder = supervisor.next_attempt(stay.idle_seconds)
            if folder is None or not attempt(folder, pipe, supervisor):
                return


def attempt(folder: Path, pipe: BinaryIO, supervisor: Supervisor) -> bool:
    """Whether this process can take another one."""
    script = Script.model_validate_json((folder / "train.jsonl").read_bytes())
    order = Order.model_validate_json((folder / "order.json").read_bytes())
    reporter = PipeReporter(pipe, folder, supervisor.leave)
    supervisor.trust_seconds = script.trust_seconds
    os.write(sys.stdout.fileno(), f"at work on {order.job_id}\n{script.prints}".encode())
    if script.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if script.say:
        pipe.write(script.say.encode() + b"\n")
        pipe.flush()
    state = train(script, order, folder, reporter)
    if script.fail:
        reporter.failed(script.fail, "As scripted.")
        return False
    if order.compare:
        train_aside("comparing", script, reporter)
    reporter.phase("evaluating")
    time.sleep(script.evaluate_seconds)
    if order.seeds > 1:
        train_aside("replicating", script, reporter)
    export(folder, state)
    reporter.finished(trained_tokens=script.steps * 10, scorer="exact", max_completion_tokens=8)
    if script.say_after_the_end:
        time.sleep(0.5)  # the attempt listens no more by then
        pipe.write(script.say_after_the_end.encode())
        pipe.flush()
    time.sleep(script.tidy_seconds)
    return not script.leave


def train(script: Script, order: Order, folder: Path, reporter: PipeReporter) -> bytes:
    done, state = 0, b"start"
    if order.resume_step is not None:
        saved = json.loads((folder / "resume/state.safetensors").read_bytes())
        assert (folder / "resume/adapter/adapter_config.json").exists()
        done, state = saved["step"], saved["state"].encode()
    reporter.phase("training")
    for _ in range(10 if script.batch_seconds else 0):
        time.sleep(script.batch_seconds)
        reporter.working()
    for step in range(done + 1, script.steps + 1):
        time.sleep(script.step_seconds)
        state = hashlib.sha256(state + str(step).encode()).hexdigest().encode()
        reporter.step(step, script.steps, step * 10, {"train_loss": 1 / step})
        if step == script.hang_at:
            time.sleep(600)
        if step == script.crash_at and order.attempt <= script.crash_attempts:
            os.kill(os.getpid(), script.crash_signal) if script.crash_signal else sys.exit(3)
        if step % script.checkpoint_every == 0 or reporter.should_stop():
            save(folder, step, state, reporter)
        if reporter.should_stop():
            sys.exit(DRAINED_EXIT_CODE)
    return state


def train_aside(phase: Phase, script: Script, reporter: PipeReporter) -> None:
    """Steps of what is not the version; no checkpoint is written between them."""
    reporter.phase(phase)
    for step in range(1, 101):
        time.sleep(script.aside_seconds / 100)
        try:
            reporter.progress(step, 100)
        except Drained:
            sys.exit(DRAINED_EXIT_CODE)


def save(folder: Path, step: int, state: bytes, reporter: PipeReporter) -> None:
    place = folder / checkpoint_path(step)
    write_adapter(place, state)
    (place / "state.safetensors").write_text(json.dumps({"step": step, "state": state.decode()}))
    reporter.checkpoint(step, place, {"train_loss": 1 / step})


def export(folder: Path, state: bytes) -> None:
    out = folder / "out"
    write_adapter(out, state)
    (out / "report.json").write_text(json.dumps({"suites": []}))
    (out / "report.html").write_text("<!doctype html>")
    (out / "heldout.jsonl").write_text("{}\n")


def write_adapter(place: Path, state: bytes) -> None:
    adapter = place / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(state)
    (adapter / "SHA256SUMS").write_text(hashlib.sha256(state).hexdigest())
    with tarfile.open(place / "adapter.tar", "w") as archive:
        for path in sorted(adapter.iterdir()):
            archive.addfile(tarfile.TarInfo(path.name), None) if path.stat().st_size == 0 else archive.add(
                path, path.name
            )


if __name__ == "__main__":
    main()
