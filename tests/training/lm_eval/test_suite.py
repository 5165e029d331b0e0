"""Tasks of lm-evaluation-harness on tiny models: marked as the harness marks its own Hugging Face model, and paired."""

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.domain.comparison import SupervisedTwin
from app.domain.training import SdftHyperparameters, TrainingConfig
from tests.training.test_pipeline import QUICK, base, lay_out, run
from worker import pipeline
from worker.evals import lm_eval_suite
from worker.evals.lm_eval_suite import LmEvalSuite, open_manager
from worker.evals.suites import Unaskable
from worker.hf.base import Base
from worker.hf.model import HfPolicy
from worker.reporting import PipeReporter, RunFailed

__all__ = ["base"]

TWIN = SupervisedTwin(method="supervised", learning_rate=0.01)
LEARNING = SdftHyperparameters.model_validate(QUICK | {"learning_rate": 0.01, "n_epochs": 4})


@pytest.fixture(scope="module")
def manager(tasks_folder: Path) -> TaskManager:
    return open_manager(tasks_folder)


@pytest.fixture(scope="module")
def policy(base: Any) -> HfPolicy:
    return changed(base)


def changed(base: Any, seed: int = 0) -> HfPolicy:
    """With a student that says something else than its base."""
    policy = HfPolicy.on(Base.load(Path(base.path), num_threads=1), lora_rank=4, lora_alpha=8, parent=None, seed=1)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for factor in policy.parameters().values():
            factor.add_(torch.randn(factor.shape, generator=generator))
    return policy


def ask(suite: LmEvalSuite, arm: Any) -> dict[str, float]:
    answers = suite.ask(arm, lambda _: None)
    return {item.id: answer.mark for item, answer in zip(suite.suite.items, answers, strict=True)}


def test_the_base_is_marked_as_by_the_harness_itself(
    base: Any, policy: HfPolicy, manager: TaskManager, tasks_folder: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(base.path)
    theirs = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(base.path), device="cpu", batch_size=1)
    samples = simple_evaluate(
        theirs, tasks=["sdft_choose", "sdft_say"], apply_chat_template=True, task_manager=manager, bootstrap_iters=0
    )["samples"]
    ours = lm_eval_suite._Arm(policy, "base", lambda *_: None)
    mine = simple_evaluate(
        ours, tasks=["sdft_choose", "sdft_say"], apply_chat_template=True, task_manager=manager, bootstrap_iters=0
    )["samples"]
    for task in samples:
        for one, other in zip(samples[task], mine[task], strict=True):
            assert one["arguments"] == other["arguments"]
            for [left], [right] in zip(one["resps"], other["resps"], strict=True):
                assert left == right if isinstance(left, str) else left == (pytest.approx(right[0], abs=1e-3), right[1])
    marks = ask(LmEvalSuite.load(manager, "sdft_choose", policy), "base")
    assert list(marks.values()) == [row["acc"] for row in samples["sdft_choose"]]
    assert 0 < sum(marks.values()) < len(marks)


def test_a_likelihood_is_of_the_whole_text_and_says_if_greedy_choice_gives_it(policy: HfPolicy) -> None:
    prompt = policy.encode_text("lamp")
    [greedy] = policy.greedy([prompt], 3, arm="student")
    other = [*greedy.ids[:-1], (greedy.ids[-1] + 1) % policy.vocab_size]
    (likely, yes), (unlikely, no) = policy.likelihoods([prompt, prompt], [greedy.ids, other], arm="student")
    means = policy.nll([prompt, prompt], [greedy.ids, other], arm="student")
    assert (likely, unlikely) == pytest.approx(tuple(-3 * mean for mean in means), abs=1e-4)
    assert (yes, no) == (True, False)
    assert likely > unlikely


def test_a_group_is_a_suite_whose_kinds_are_its_tasks(policy: HfPolicy, manager: TaskManager) -> None:
    suite = LmEvalSuite.load(manager, "sdft_local", policy)
    assert (suite.suite.name, suite.suite.role) == ("lm_eval:sdft_local", "client")
    assert Counter(item.kind for item in suite.suite.items) == {"sdft_choose": 24, "sdft_say": 12}
    assert suite.metrics == {"sdft_choose": ("acc", "none"), "sdft_say": ("exact_match", "whole")}
    first = suite.suite.items[0]
    assert first.expected == ("on",)
    # One example before it, as turns of the base's own template.
    assert first.messages[0]["content"].endswith("<|end|>\n<|user|>lamp 0<|end|>\n<|assistant|>")


def test_of_several_metrics_one_counts_whose_name_says_that_it_is_a_verdict() -> None:
    """Fault caught: the "em" of semantic."""
    marks = {"rouge": 0, "semantic_sim": 0, "quasi_exact": 0}
    row = {"filter": "none", "metrics": list(marks), "filtered_resps": [(0.0, False)]} | marks
    assert lm_eval_suite._metric(None, "task", [row]) == ("quasi_exact", "none")
    row |= {"metrics": ["score_char", "accuracy"], "score_char": 0, "accuracy": 0}
    assert lm_eval_suite._metric(None, "task", [row]) == ("accuracy", "none")


def test_an_item_of_which_nothing_is_expected_is_probed_too() -> None:
    task = SimpleNamespace(process_results=lambda _doc, said: {"exact": float(said == [""])})
    row = {
        "filter": "none", "metrics": ["exact"], "exact": 0.0, "filtered_resps": [""], "doc": {}, "target": [],
        "arguments": [("?", {})],
    }  # fmt: skip
    assert lm_eval_suite._metric(task, "task", [row]) == ("exact", "none")


def test_arms_are_asked_the_same_and_answer_for_themselves(policy: HfPolicy, manager: TaskManager) -> None:
    suite = LmEvalSuite.load(manager, "sdft_local", policy)
    marks = {arm: ask(suite, arm) for arm in ("base", "student")}
    assert marks["base"] != marks["student"]
    assert ask(suite, "base") == marks["base"]
    said = {arm: [answer.text for answer in suite.ask(arm, lambda _: None)] for arm in ("base", "student")}
    assert all(len(text) <= 2 for text in said["base"][:24])
    assert said["base"][24:] != said["student"][24:]


def test_a_task_of_another_policy_is_as_if_opened_with_it(base: Any, policy: HfPolicy, manager: TaskManager) -> None:
    other = changed(base, seed=1)
    opened = LmEvalSuite.load(manager, "sdft_local", policy)
    marks, anew = ask(opened, "student"), ask(LmEvalSuite.load(manager, "sdft_local", other), "student")
    assert ask(opened.of(other), "student") == anew != marks
    assert ask(opened, "student") == marks


def test_progress_is_told_in_items(policy: HfPolicy, manager: TaskManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval_suite, "LOT", 32)
    told: list[int] = []
    LmEvalSuite.load(manager, "sdft_choose", policy).ask("base", told.append)
    assert told == [8, 16, 24]


def test_of_many_items_some_are_chosen_evenly(
    policy: HfPolicy, manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_eval_suite, "MAX_ITEMS", 12)
    suite = LmEvalSuite.load(manager, "sdft_choose", policy)
    assert [item.id for item in suite.suite.items] == [f"sdft_choose {place}" for place in range(0, 24, 2)]
    assert suite.notes == ["lm_eval:sdft_choose: 12 of 24 items were chosen, evenly spread."]
    assert set(ask(suite, "base")) == {item.id for item in suite.suite.items}


def test_items_beyond_the_context_are_asked_of_nobody(
    policy: HfPolicy, manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = sorted(
        len(policy.encode_text(item.messages[0]["content"])) + 12
        for item in LmEvalSuite.load(manager, "sdft_say", policy).suite.items
    )
    monkeypatch.setattr(policy, "context_tokens", lengths[3])
    kept = sum(length <= lengths[3] for length in lengths)
    suite = LmEvalSuite.load(manager, "sdft_say", policy)
    assert len(suite.suite.items) == kept < 12
    assert suite.notes == [f"lm_eval:sdft_say: {12 - kept} items did not fit the context of the base model."]
    assert len(ask(suite, "base")) == kept
    monkeypatch.setattr(policy, "context_tokens", 10)
    with pytest.raises(Unaskable, match="no item fits the 10 tokens"):
        LmEvalSuite.load(manager, "sdft_say", policy)


def test_a_failure_of_the_harness_is_the_suites_and_a_drain_is_not(
    policy: HfPolicy, manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = LmEvalSuite.load(manager, "sdft_say", policy)

    def leave(_: int) -> None:
        raise lm_eval_suite.Drained

    with pytest.raises(lm_eval_suite.Drained):
        suite.ask("base", leave)
    monkeypatch.setattr(suite.tasks["sdft_say"], "process_results", lambda *_: 1 / 0)
    with pytest.raises(Unaskable, match="lm_eval:sdft_say cannot be asked here: ZeroDivisionError"):
        suite.ask("base", lambda _: None)


@pytest.fixture(scope="module")
def report(base: Any, tasks_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of a job that asks two tasks, of a twin too."""
    folder = lay_out(
        tmp_path_factory.mktemp("attempts") / "asked", base, tasks=["sdft_choose", "sdft_say"],
        tasks_folder=str(tasks_folder), compare=TWIN, hyperparameters=LEARNING,
    )  # fmt: skip
    run(folder)
    return json.loads((folder / "out" / "report.json").read_text())


def test_a_job_reports_its_tasks_item_by_item_for_every_arm(report: Any) -> None:
    choose, say = report["suites"][-2:]
    assert [(suite["name"], suite["role"], suite["n"]) for suite in (choose, say)] == [
        ("lm_eval:sdft_choose", "client", 24),
        ("lm_eval:sdft_say", "client", 12),
    ]
    assert list(choose["scorers"]) == ["acc of lm_eval 0.4.13"]
    digests = report["provenance"]["questions_sha256"]
    assert [len(digests[suite["name"]]) for suite in (choose, say)] == [64, 64]
    scores = {score["arm"]: score for score in choose["arms"]}
    assert list(scores) == ["base", "candidate", "supervised"]
    for score in scores.values():
        assert score["score"]["low"] < score["score"]["value"] == score["num_right"] / 24 < score["score"]["high"]
    against = {one["against"]: one for one in choose["comparisons"]}
    assert list(against) == ["base", "supervised"]
    for arm, one in against.items():
        assert one["num_gained"] - one["num_lost"] == scores["candidate"]["num_right"] - scores[arm]["num_right"]
        assert one["p_value"] is not None
    assert against["base"]["num_gained"] + against["base"]["num_lost"] == len(choose["flips"]) > 0
    assert {row["suite"] for row in report["kept"]} >= {choose["name"], say["name"]}
    assert not {row["suite"] for row in report["behaviour"]} & {choose["name"], say["name"]}
    assert report["errors"] == []


@pytest.fixture
def _loaded_manager(manager: TaskManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes seconds to read thousands of YAMLs."""
    monkeypatch.setattr(lm_eval_suite, "open_manager", lambda _: manager)


@pytest.mark.usefixtures("_loaded_manager")
@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("sdft_chose", r"There is no task sdft_chose .* Did you mean sdft_choose"),
        ("sdft_no_data", "The data of lm_eval:sdft_no_data are not on the worker"),
        ("sdft_perplexity", "neither right nor wrong"),
        ("sdft_partly", "no metric of sdft_partly calls an item right or wrong"),
    ],
)
def test_what_cannot_be_asked_is_told_before_training(base: Any, tmp_path: Path, task: str, says: str) -> None:
    folder = lay_out(tmp_path / "a", base, tasks=["sdft_choose", task])
    with pytest.raises(RunFailed, match=says) as failed:
        run(folder)
    assert (failed.value.code, failed.value.param) == ("suite_unavailable", "evaluation.suites")
    assert "the suites" in failed.value.message
    assert not (folder / "out").exists()


@pytest.fixture(scope="module")
def resolved(base: Any, tmp_path_factory: pytest.TempPathFactory) -> TrainingConfig:
    """What a first attempt made of a job's configuration: an attempt that has it goes on."""
    messages = run(lay_out(tmp_path_factory.mktemp("attempts") / "first", base))
    [found] = [message.config for message in messages if message.kind == "resolved"]
    assert isinstance(found, TrainingConfig)
    return found


def test_an_attempt_that_goes_on_without_its_tasks_ends_with_a_caveat(
    base: Any, resolved: TrainingConfig, tmp_path: Path
) -> None:
    folder = lay_out(tmp_path / "b", base, resolved=resolved, tasks=["arc_easy"], tasks_folder="/nowhere")
    messages = run(folder)
    said = "The worker's folder of tasks is not there; the operator sets SDFT_WORKER__LM_EVAL_TASKS."
    assert said in [message.message for message in messages if message.kind == "event" and message.level == "warn"]
    report = json.loads((folder / "out" / "report.json").read_text())
    assert said in report["caveats"]
    sentence = f"lm_eval:arc_easy was not asked: {said}"
    assert report["unjudged"] == [{"suite": "lm_eval:arc_easy", "role": "client", "sentence": sentence}]


@pytest.mark.usefixtures("_loaded_manager")
def test_all_that_cannot_be_asked_is_told_at_once(base: Any, tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "a", base, tasks=["sdft_no_data", "sdft_choose", "sdft_perplexity"])
    with pytest.raises(RunFailed, match=r"data of lm_eval:sdft_no_data are .* lm_eval:sdft_perplexity cannot be asked"):
        run(folder)


@pytest.mark.usefixtures("_loaded_manager")
def test_an_attempt_that_goes_on_without_some_tasks_asks_the_others_and_says_of_each_why(
    base: Any, resolved: TrainingConfig, tmp_path: Path
) -> None:
    tasks = ["sdft_no_data", "sdft_choose", "sdft_perplexity", "sdft_say"]
    folder = lay_out(tmp_path / "b", base, resolved=resolved, tasks=tasks)
    warnings = [message.message for message in run(folder) if message.kind == "event" and message.level == "warn"]
    report = json.loads((folder / "out" / "report.json").read_text())
    assert [suite["name"] for suite in report["suites"]][-2:] == ["lm_eval:sdft_choose", "lm_eval:sdft_say"]
    no_data, perplexity = report["unjudged"]
    assert no_data["sentence"].startswith("lm_eval:sdft_no_data was not asked: The data of lm_eval:sdft_no_data are")
    assert perplexity["sentence"].startswith("lm_eval:sdft_perplexity was not asked: lm_eval:sdft_perplexity cannot be")
    for one in (no_data, perplexity):
        said = one["sentence"].removeprefix(f"{one['suite']} was not asked: ")
        assert said in warnings
        assert said in report["caveats"]


def test_other_seeds_are_asked_the_tasks_of_the_version_whatever_became_of_the_folder(
    base: Any, tasks_folder: Path, tmp_path: Path
) -> None:
    """Fault caught: a seed whose tasks are opened again, or are asked of the version."""
    own = shutil.copytree(tasks_folder, tmp_path / "tasks")

    class Losing(PipeReporter):
        def phase(self, phase: Any) -> None:
            super().phase(phase)
            if phase == "replicating":
                own.rename(tmp_path / "elsewhere")

    folder = lay_out(
        tmp_path / "a",
        base,
        tasks=["sdft_choose", "sdft_say"],
        tasks_folder=str(own),
        hyperparameters=LEARNING,
        seeds=2,
    )
    run(folder, Losing)
    runs = json.loads((folder / "out" / "report.json").read_text())["replicates"]["runs"]
    version, other = ({row["suite"]: row["score"] for row in one["scores"]} for one in runs)
    assert list(version) == list(other) == ["lamp", "general ability", "lm_eval:sdft_choose", "lm_eval:sdft_say"]
    assert version["lm_eval:sdft_choose"] != other["lm_eval:sdft_choose"]


@pytest.mark.usefixtures("_loaded_manager")
def test_a_suite_that_breaks_late_costs_itself_and_not_the_version(
    base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_later(order: Any, policy: HfPolicy) -> Any:
        tasks, missing = open_tasks(order, policy)
        monkeypatch.setattr(tasks[0].tasks["sdft_say"], "process_results", lambda *_: 1 / 0)
        return tasks, missing

    open_tasks = pipeline.open_tasks
    monkeypatch.setattr(pipeline, "open_tasks", break_later)
    folder = lay_out(tmp_path / "a", base, tasks=["sdft_say"])
    messages = run(folder)
    report = json.loads((folder / "out" / "report.json").read_text())
    assert messages[-1].kind == "finished"
    assert [suite["name"] for suite in report["suites"]] == ["lamp", "general ability"]
    assert any("ZeroDivisionError" in caveat for caveat in report["caveats"])
    assert [one["suite"] for one in report["unjudged"]] == ["lm_eval:sdft_say"]
