"""The study on a tiny model: killed, begun again, and the control file of its replay."""

import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import psutil
import pytest

from app.demo.skills import data_path
from app.domain import training as domain_training
from app.domain.demonstrations import read_demonstrations
from benchmarks import forgetting
from benchmarks.study import store
from benchmarks.study.cells import ARMS, Arm, Cell, plan
from benchmarks.study.figures import Count, Known, Outcome
from benchmarks.study.store import Results
from benchmarks.study.training import lay_out
from tests.tiny_models import save_tiny
from worker.dataset import part
from worker.hf.base import Base
from worker.hf.import_model import FACTS_NAME, measure
from worker.hf.model import HfPolicy
from worker.rehearsal import rehearsal

HOME, TOOL = (Cell("rehearsal", skill, 0) for skill in ("home", "tool"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny("llama", tmp_path_factory.mktemp("base"))
    facts = {"name": "tiny", "source": "folder:tiny", "revision": "r1", "license": None, **measure(folder)}
    (folder / FACTS_NAME).write_text(json.dumps(facts))
    return folder


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_killed_study_goes_on_where_it_was_and_ends_with_table_and_plot(base, tmp_path, monkeypatch):
    out = tmp_path / "study"
    asked = f"--base {base} --out {out} --arms rehearsal --skills tool --seeds 0 --threads 1".split()
    results = Results(out, base)
    first = out / f"{results.digest(HOME)}.json"
    study = subprocess.Popen([sys.executable, "-m", "benchmarks.forgetting", *asked], stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: (first.exists() and list(out.glob("attempt-*/order.json"))) or study.poll() is not None)
        trainers = psutil.Process(study.pid).children()
    finally:
        study.kill()
        study.wait()
    assert trainers
    wait_for(lambda: not any(trainer.is_running() for trainer in trainers))
    assert results.get(TOOL) is None
    was = first.read_bytes(), first.stat().st_mtime_ns

    forgetting.main(asked)
    assert (first.read_bytes(), first.stat().st_mtime_ns) == was
    report = results.get(TOOL)["report"]
    assert report["provenance"]["parent"]["model_id"] == str(HOME)
    assert {suite["name"] for suite in report["suites"]} == {"tool", "home:1", "general ability"}
    assert not list(out.glob("attempt-*"))
    page = (out / "study.md").read_text()
    assert "2 of 96 trainings are done" in page
    assert page.count("**SDFT + rehearsal (the default)**") == 2
    home, tool = (results.rehearsing(cell).total_steps for cell in (HOME, TOOL))
    assert f"Optimizer steps of every way: home {home}, tool after home {tool}." in page
    drawn = "".join(ET.parse(out / "study.svg").getroot().itertext())
    assert "tool after home: forgot of other kinds" in drawn

    monkeypatch.setattr(forgetting, "train", None)
    forgetting.main(asked)


def test_what_was_published_is_not_run_again_nor_what_it_went_on_from(base, tmp_path, monkeypatch):
    """Fault caught: a new checkout that trains home anew, whose version nothing that is missing goes on from."""
    monkeypatch.setattr(store, "PUBLISHED", tmp_path / "results.json")
    monkeypatch.setattr(forgetting, "PUBLISHED", tmp_path / "results.json")
    readme = tmp_path / "README.md"
    readme.write_text(f"Before.\n{forgetting.BEGINS}\nold\n{forgetting.ENDS}\nAfter.\n")
    monkeypatch.setattr(forgetting, "README", readme)
    monkeypatch.setitem(ARMS, "again", Arm("told twice", ARMS["rehearsal"].hyperparameters))
    cells = plan(["rehearsal", "sft"], ["home", "tool"], [0])
    outcome = Outcome(Count(30, 40), None, {"other": Count(1, 9)}, 0.1, 60.0)
    Results(tmp_path / "first", base).publish({cell: Known(None, outcome, 40, 60.0, "c0de") for cell in cells[:3]})
    again = Results(tmp_path / "again", base)
    assert again.missing(cells[:3]) == []
    assert again.missing(cells) == [cells[1], cells[3]]
    assert cells[3].parent == cells[1]

    asked = ["--base", str(base), "--out", str(tmp_path / "again"), "--publish"]
    forgetting.main(asked)
    page = (tmp_path / "study.md").read_text()
    assert "3 of 96 trainings are done" in page
    assert "told twice" not in page
    said = readme.read_text()
    assert said.startswith(f"Before.\n{forgetting.BEGINS}\n| learned, % | home | tool after home |\n")
    assert said.endswith(f"3 of 96 trainings are done.\n{forgetting.ENDS}\nAfter.\n")
    assert "rehearsed" not in (tmp_path / "study.svg").read_text()
    assert Results(tmp_path / "again", base).missing(cells[:3]) == []


def test_a_training_that_two_ways_ask_for_is_asked_for_once_and_not_missing_under_the_other_name(
    base, tmp_path, monkeypatch
):
    """As every rollout sampled is the default where answers are short."""
    monkeypatch.setattr(store, "PUBLISHED", tmp_path / "results.json")
    monkeypatch.setitem(ARMS, "again", Arm("told twice", ARMS["rehearsal"].hyperparameters))
    asked = plan(["rehearsal", "again"], ["home"], [0, 3])
    known = Known(None, Outcome(Count(30, 40), None, {"other": Count(1, 9)}, 0.1, 60.0), 40, 60.0, "c0de")
    Results(tmp_path, base).publish({HOME: known})
    results = Results(tmp_path, base)
    left = results.missing(asked)
    assert {cell.seed for cell in left} == {3}
    assert forgetting.outlook(results, [*left, Cell("sft", "home", 3)]).startswith("2 are left, about 0.0 h")
    forgetting.write(results, asked)
    page = (tmp_path / "study.md").read_text()
    assert "told twice" not in page
    assert "1 of 97 trainings are done" in page

    Results(tmp_path, base).publish({HOME: known, HOME._replace(seed=3): known})
    forgetting.write(Results(tmp_path, base), [cell for cell in asked if cell.arm == "again"])
    page = (tmp_path / "study.md").read_text()
    assert "told twice" not in page
    assert "2 of 97 trainings are done" in page


def test_two_studies_do_not_share_a_folder(base, tmp_path):
    results = Results(tmp_path, base)
    with results.alone(), pytest.raises(SystemExit, match="Another study"), Results(tmp_path, base).alone():
        pass


@pytest.mark.parametrize("default", [(domain_training, "NEUTRAL_SHARE"), (store, "REHEARSAL_WEIGHT")])
def test_a_changed_default_makes_another_cell_of_those_that_it_concerns(base, tmp_path, monkeypatch, default):
    plain = HOME._replace(arm="sft")
    before = [Results(tmp_path, base).digest(cell) for cell in (HOME, TOOL, plain)]
    monkeypatch.setattr(*default, 0.2)
    after = [Results(tmp_path, base).digest(cell) for cell in (HOME, TOOL, plain)]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, False, True]


def test_a_replay_has_the_prompts_the_share_and_the_weight_of_rehearsal(base, tmp_path):
    results = Results(tmp_path / "study", base)
    cell = Cell("sft-replay", "tool", 0)  # of a random model's few answers that end, this seed has some of each kind
    start(results, cell.parent)
    folder = tmp_path / "attempt"
    folder.mkdir()
    before = {"finished": {"scorer": "normalized", "max_completion_tokens": 14}}
    order = lay_out(cell, results, folder, before, threads=1)
    assert (order.method, order.hyperparameters.batch_size, order.hyperparameters.n_epochs) == ("supervised", 24, 1)
    lines = read_demonstrations(folder / "train.jsonl")
    steps = results.rehearsing(cell).total_steps
    assert len(lines) == steps * 24
    taught = {one.messages[0]["content"] for one in read_demonstrations(data_path("tool", "training"))}
    counts = Counter(one.messages[0]["content"] for one in lines)
    assert {counts.pop(prompt) for prompt in taught} == {steps * 8 // 64}
    data = part(order, folder)
    shown = [one for one in data.training if one.messages[0]["content"] in taught]  # the rest is what is replayed
    prompts = rehearsal(order, folder, replace(data, training=shown))
    rehearsed = [messages[0]["content"] for some in prompts.values() for messages in some]
    assert counts.keys() <= set(rehearsed)
    home = {one.messages[0]["content"] for one in read_demonstrations(data_path("home", "training"))}
    assert counts.total() == steps * 16
    assert 0.2 < sum(counts[prompt] for prompt in home) / counts.total() < 0.5


def start(results, cell):
    """The version of a cell, as if it had been trained."""
    version = results.version(cell)
    policy = HfPolicy.on(Base.load(Path(results.base.path)), lora_rank=2, lora_alpha=4, parent=None, seed=0)
    policy.save_adapter(version / "adapter", base_name="tiny", base_revision="r1")
    (version / "heldout.jsonl").write_bytes(data_path("home", "heldout").read_bytes())
