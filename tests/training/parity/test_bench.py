"""The benchmark on a tiny base: that its arms do the same work is what its numbers rest on."""

import json
import sys

import pytest

from benchmarks import loss_memory
from benchmarks.arms import BATCH_SIZE
from benchmarks.conductor import run
from benchmarks.table import render
from tests.tiny_models import save_tiny
from worker.hf.import_model import FACTS_NAME

NEW_TOKENS = 5
STEPS = 3


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = save_tiny("llama", tmp_path_factory.mktemp("base"))
    (folder / FACTS_NAME).write_text(json.dumps({"num_parameters": 20_000}))
    return folder


def play(base, folder, *, names, new_tokens):
    return run(
        names, folder, steps=STEPS, threads=1, base=str(base), skill="home", new_tokens=new_tokens,
        num_demonstrations=2 * BATCH_SIZE,
    )  # fmt: skip


def test_timed_arms_say_equally_many_tokens_and_see_the_same_prompts(base, tmp_path):
    """Fault caught: a rollout that ended early in one arm only, a teacher that was shown less."""
    timed = play(base, tmp_path, names=["ours", "trl-paper", "supervised", "ours-4", "trl-4"], new_tokens=NEW_TOKENS)
    arms = timed["arms"]
    for arm in arms.values():
        assert [step["tokens"] for step in arm["steps"]] == [BATCH_SIZE * NEW_TOKENS] * STEPS
        assert all(sum(step["phases"].values()) <= step["seconds"] for step in arm["steps"])
        assert arm["peak_memory_bytes"] > 0
    assert arms["ours"]["size"] == arms["trl-paper"]["size"]
    for ours, theirs in (("ours", "trl-paper"), ("ours-4", "trl-4")):
        assert arms[ours]["work"] == pytest.approx(arms[theirs]["work"])
    whole = play(base, tmp_path, names=["trl-paper"], new_tokens=None)
    assert all(0 <= arm["score"] <= 1 for arm in whole["arms"].values())
    machine = {"cpu": "a", "threads": 1, "cores": 1, "load": [0.0], "torch": "1", "transformers": "1", "peft": "1"}
    loss = {way: {"extra_bytes": 1e9, "seconds": 1.0} for way in ("fused", "whole")}
    table = render(
        {"machine": machine | {"trl": "1"}, "warm_up": 2, "timed": {"5": timed}, "whole": whole, "loss": loss}
    )
    rows = {row.split(" | ")[0]: row for row in table.split("### A whole job")[0].splitlines() if row.startswith("| ")}
    for theirs in ("| TRL 1.16 as the paper", "| TRL as the paper, 4 a prompt"):
        assert rows[theirs].endswith("| 1.00x |")
    assert table.count("| TRL 1.16 as the paper |") == 2


def test_both_ways_to_compute_the_loss_give_one_loss_and_one_gradient(monkeypatch, capsys):
    monkeypatch.setattr(loss_memory, "VOCABULARY", 500)
    said = []
    for way in ("fused", "whole"):
        monkeypatch.setattr(sys, "argv", ["loss_memory", way, "1"])
        loss_memory.main()
        said.append(json.loads(capsys.readouterr().out))
    for number in ("loss", "gradient"):
        assert said[0][number] == pytest.approx(said[1][number], rel=1e-4)
