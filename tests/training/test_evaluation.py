"""An evaluation asked for by itself, on tiny models: it says of a version what the version's own report said."""

import io
import json
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from app.domain.trainer_protocol import (
    MESSAGES,
    EarlierSkill,
    EvaluationOrder,
    Finished,
    Order,
    ParentRef,
    PastScore,
    SuiteFile,
    Taught,
)
from app.domain.training import SdftHyperparameters
from tests.training.test_pipeline import QUICK, base, lay_out, run  # noqa: F401 - base is a fixture
from worker.evals.suites import general_suite
from worker.evaluation import Evaluation
from worker.pipeline import open_attempt
from worker.reporting import PipeReporter


@pytest.fixture(scope="module")
def versions(base: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:  # noqa: F811
    """Two versions of different ranks, of two skills, as their jobs left them."""
    folders = []
    for word, rank in (("lamp", 2), ("fan", 4)):
        quick = SdftHyperparameters.model_validate(QUICK | {"lora_rank": rank, "learning_rate": 1e-2})
        folder = lay_out(tmp_path_factory.mktemp("versions") / word, base, word=word, hyperparameters=quick)
        said = run(folder)
        (folder / "said").write_text(said[-1].model_dump_json())
        folders.append(folder)
    return folders


def ask(
    folder: Path, versions: list[Path], *, against: bool = True, goes_on: bool = True, general: bool = True,
    rehearsed: bool = True, skilled: bool = True, questions: bytes | None = None,
    held_out: Sequence[str] = (), **order: Any,
) -> tuple[Any, list[Any]]:  # fmt: skip
    """Ask the first version its own skill and the second one's; the report and what was said on the pipe."""
    folder.mkdir()
    if questions is not None:
        (folder / "mine.jsonl").write_bytes(questions)
    first, second = versions
    trained = Order.model_validate_json((first / "order.json").read_bytes())
    shutil.copytree(first / "out" / "adapter", folder / "version")
    skills = []
    for index, (adapter, version) in enumerate(zip(("lamp", "fan"), versions, strict=True)):
        shutil.copy(version / "out" / "heldout.jsonl", folder / f"{index}.jsonl")
        said = Finished.model_validate_json((version / "said").read_bytes())
        skills.append(
            EarlierSkill(
                adapter=adapter,
                version=1,
                path=f"{index}.jsonl",
                sha256=f"{index}" * 64,
                scorer=said.scorer,
                max_completion_tokens=said.max_completion_tokens,
            )
        )
    if against:
        shutil.copytree(second / "out" / "adapter", folder / "parent")
    asked = EvaluationOrder(
        job_id="ftjob-2",
        attempt=1,
        base=trained.base,
        version=ParentRef(adapter="lamp", version=1, model_id="ft:tiny:default:lamp:1"),
        against=ParentRef(adapter="fan", version=1, model_id="ft:tiny:default:fan:1") if against else None,
        goes_on=against and goes_on,
        skills=skills if skilled else [],
        general=general,
        rehearsed=rehearsed,
        suites=[] if questions is None else [SuiteFile(name="file mine.jsonl", path="mine.jsonl", sha256="9" * 64)],
        taught=Taught(files=[] if questions is None else [str(first / "train.jsonl")], held_out=held_out),
        num_threads=1,
        **order,
    )
    (folder / "order.json").write_text(asked.model_dump_json())
    pipe = io.BytesIO()
    open_attempt(folder, PipeReporter(pipe, folder, threading.Event())).run()
    messages = [MESSAGES.validate_json(line) for line in pipe.getvalue().splitlines()]
    return json.loads((folder / "out" / "report.json").read_text()), messages


def arms(report: Any, suite: str) -> dict[str, Any]:
    [found] = [one for one in report["suites"] if one["name"] == suite]
    return {arm["arm"]: (arm["score"]["value"], pytest.approx(arm["nll"], rel=1e-5)) for arm in found["arms"]}


def test_both_versions_score_what_their_own_reports_say(versions: list[Path], tmp_path: Path) -> None:
    report, messages = ask(tmp_path / "asked", versions)
    lamp, fan = (json.loads((version / "out" / "report.json").read_text()) for version in versions)
    asked = arms(report, "lamp")
    assert asked["candidate"] == arms(lamp, "lamp")["candidate"]
    assert asked["base"] == arms(lamp, "lamp")["base"]
    assert asked["candidate"] != asked["base"]
    assert arms(report, "fan:1")["parent"] == arms(fan, "fan")["candidate"]
    assert {one["role"] for one in report["suites"]} == {"skill", "earlier", "general"}
    assert list(dict.fromkeys(one["version"] for one in report["lineage"])) == ["base", "fan:1", "lamp:1"]
    assert report["provenance"]["against"]["adapter"] == "fan"
    assert report["provenance"]["questions_sha256"] == {"lamp:1": "0" * 64, "fan:1": "1" * 64}
    assert {row["copied"] for row in report["behaviour"]} == {None}
    assert "path" not in report["provenance"]["base"]
    of_job = lamp["provenance"]
    assert {name: report["provenance"][name] for name in ("code_sha256", "base")} == {
        name: of_job[name] for name in ("code_sha256", "base")
    }
    assert len(of_job["code_sha256"]) == 64
    assert of_job["base"]["tokenizer_sha256"] == "2" * 64
    assert report["cost"]["trained_tokens"] == 0
    assert [message.phase for message in messages if message.kind == "phase"] == ["loading", "evaluating", "exporting"]
    assert messages[-1].kind == "report_finished"
    page = (tmp_path / "asked" / "out" / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "the version that it is compared with" in page


def test_the_best_score_of_the_lineage_counts_here_too(versions: list[Path], tmp_path: Path) -> None:
    """Fault caught: "ship it" of a version that its own job's report found to have lost an earlier skill bit by bit."""
    best = PastScore(version="fan:1", skill="fan:1", value=1.0, low=0.9, high=1.0)
    report, _ = ask(tmp_path / "asked", versions, against=False, general=False, past=[best])
    assert [one["score"]["value"] for one in report["lineage"] if one["version"] == "fan:1"] == [1.0]
    assert "points less than fan:1 had" in report["summary"]["retention"]["sentence"]


def test_a_version_that_it_does_not_go_on_from_is_none_of_its_lineage(versions: list[Path], tmp_path: Path) -> None:
    report, _ = ask(tmp_path / "asked", versions, goes_on=False, general=False)
    assert {one["version"] for one in report["lineage"]} == {"base", "lamp:1"}


@pytest.mark.parametrize("rehearsed", [True, False])
def test_kinds_count_as_rehearsed_only_where_the_versions_training_had_the_shipped_prompts(
    versions: list[Path], tmp_path: Path, *, rehearsed: bool
) -> None:
    report, _ = ask(tmp_path / "asked", versions, rehearsed=rehearsed)
    counts = {row["num_rehearsed_kinds"] for row in report["kept"] if row["suite"] == "general ability"}
    assert max(counts) == (6 if rehearsed else 0)


def test_only_what_is_asked_is_asked(versions: list[Path], tmp_path: Path) -> None:
    report, _ = ask(tmp_path / "asked", versions, against=False, general=False)
    assert [one["role"] for one in report["suites"]] == ["skill", "earlier"]
    assert set(arms(report, "lamp")) == {"base", "candidate"}
    assert set(arms(report, "fan:1")) == {"base", "candidate"}


def test_where_only_general_ability_is_asked_no_scorer_of_a_skill_and_no_split_is_named(
    versions: list[Path], tmp_path: Path
) -> None:
    """Fault caught: "Scorer of the skill: nll", though no likelihood was measured, and questions "were held out"."""
    report, _ = ask(tmp_path / "asked", versions, against=False, skilled=False)
    assert [one["role"] for one in report["suites"]] == ["general"]
    assert {report["method"][name] for name in ("scorer", "scorer_reason", "split")} == {None}
    page = (tmp_path / "asked" / "out" / "report.html").read_text()
    assert "Scorer of the skill" not in page
    assert "held out when" not in page


def test_a_skill_of_a_later_version_is_not_called_an_earlier_one(tmp_path: Path) -> None:
    skills = [
        EarlierSkill(
            adapter="home",
            version=version,
            path=f"{version}.jsonl",
            sha256=f"{version}" * 64,
            scorer=scorer,
            max_completion_tokens=8,
            inherited=version < 3,
        )
        for version, scorer in ((1, "exact"), (2, "normalized"), (3, "json"))
    ]
    for skill in skills:
        (tmp_path / skill.path).write_bytes(b'{"prompt": "a", "completion": "1"}\n')
    order = EvaluationOrder.model_construct(
        version=ParentRef(adapter="home", version=2, model_id="ft:tiny:default:home:2"),
        against=None, skills=skills, suites=[], general=False,
    )  # fmt: skip
    evaluation = Evaluation(tmp_path, order, PipeReporter(io.BytesIO(), tmp_path, threading.Event()))
    suites, _ = evaluation.suites()
    assert [(suite.name, suite.role) for suite in suites] == [
        ("home:1", "earlier"), ("home", "skill"), ("home:3", "other"),
    ]  # fmt: skip
    assert evaluation.scorer().name == "normalized"


def lines(name: str, numbers: Sequence[int]) -> str:
    return "".join(json.dumps({"prompt": f"{name} {number}", "completion": "1"}) + "\n" for number in numbers)


def counted(folder: Path, **taught: Taught) -> dict[str, Any]:
    """By suite, how many questions home:3 and the version beside it, home:1, have seen."""
    skills = [
        EarlierSkill(
            adapter="home", version=version, path=f"{version}.jsonl", sha256="0" * 64, scorer="exact",
            max_completion_tokens=8, inherited=version == 3,
        )
        for version in (3, 1)
    ]  # fmt: skip
    home = [ParentRef(adapter="home", version=version, model_id=f"ft:{version}") for version in (1, 3)]
    order = EvaluationOrder.model_construct(
        version=home[1], against=home[0], skills=skills, general=True, rehearsed=False,
        suites=[SuiteFile(name="file mine.jsonl", path="mine.jsonl", sha256="0" * 64)], **taught,
    )  # fmt: skip
    suites, _ = Evaluation(folder, order, PipeReporter(io.BytesIO(), folder, threading.Event())).suites()
    return {suite.name: dict(suite.num_trained) for suite in suites}


def test_what_either_version_was_trained_on_is_counted_in_every_suite(tmp_path: Path) -> None:
    """Fault caught: two trainings from the base on one file, parted by other seeds, said to be asked held-out ones."""
    questions = {1: range(8), 3: range(5, 13)}
    of_general = {"messages": [*general_suite().items[0].messages, {"role": "assistant", "content": "1"}]}
    (tmp_path / "train.jsonl").write_text(lines("p", range(30)) + json.dumps(of_general) + "\n")
    for version, numbers in questions.items():
        (tmp_path / f"{version}.jsonl").write_text(lines("p", numbers))
    asked = {"prompt": "P  6", "expected": "1", "scorer": "exact"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(asked) + "\n" + json.dumps(asked | {"prompt": "p 12"}) + "\n")
    first, third = (
        Taught(versions=[f"home:{version}"], files=["train.jsonl"], held_out=[f"{version}.jsonl"]) for version in (1, 3)
    )
    assert counted(tmp_path, taught=third, against_taught=first) == {
        "home": {"candidate": 0, "parent": 5},
        "home:1": {"candidate": 5, "parent": 0},
        "general ability": {"candidate": 1, "parent": 1},
        "file mine.jsonl": {"candidate": 0, "parent": 1},
    }
    # Where a file is gone, only what a version was itself measured on is known not to have been in it.
    gone = first.model_copy(update={"files": [], "deleted": first.versions})
    assert counted(tmp_path, taught=third, against_taught=gone) == {
        "home": {"candidate": 0, "parent": None},
        "home:1": {"candidate": 5, "parent": 0},
        "general ability": {"candidate": 1, "parent": None},
        "file mine.jsonl": {"candidate": 0, "parent": None},
    }


def test_a_deleted_file_is_owned_up_to(versions: list[Path], tmp_path: Path) -> None:
    gone = Taught(versions=["fan:1"], deleted=["fan:1"])
    report, _ = ask(tmp_path / "asked", versions, general=False, against_taught=gone)
    assert any(note.startswith("The training file of fan:1 has been deleted") for note in report["caveats"])
    assert ("fan:1", "lamp") not in {(one["version"], one["suite"]) for one in report["lineage"]}


def test_questions_of_the_clients_own_are_asked_of_all_and_said_to_be_known_where_they_were_trained_on(
    versions: list[Path], tmp_path: Path
) -> None:
    own = str(versions[0] / "out" / "heldout.jsonl")
    held_out = Path(own).read_text()
    known = next(number for number in range(30) if f'lamp {number}"' not in held_out)
    questions = (
        b"""{"prompt": "lamp %d", "expected": "on", "scorer": "exact"}
{"prompt": "Is it?", "expected": ["It is", "is"], "scorer": "contains", "max_tokens": 5}
"""
        % known
    )
    report, _ = ask(tmp_path / "asked", versions, general=False, questions=questions, held_out=[own])
    [mine] = [suite for suite in report["suites"] if suite["role"] == "client"]
    assert (mine["name"], mine["n"], mine["measure"]) == ("file mine.jsonl", 2, "share_right")
    assert {arm["arm"] for arm in mine["arms"]} == {"base", "parent", "candidate"}
    [said] = [note for note in report["caveats"] if "was trained on" in note]
    assert said.startswith(
        "file mine.jsonl: this version, or one that it goes on from, was trained on the prompts of 1"
    )
    # What was held out of that file was not trained on, whether its own skill is asked now or not.
    every = [str(versions[0] / "train.jsonl")]
    report, _ = ask(tmp_path / "again", versions, general=False, questions=questions, held_out=every)
    assert not [note for note in report["caveats"] if "was trained on" in note]
