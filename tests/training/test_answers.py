"""Under which names answers are remembered: whatever decides an answer is part of them."""

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from worker import answers, circumstances
from worker.answers import answer_memory
from worker.circumstances import code_sha256
from worker.hf.token_pass import compiled_pass
from worker.sdft.policy import Rollout

SAID = [Rollout([1], [2, 0], stopped=True)]


@pytest.fixture
def asked(tmp_path: Path) -> Any:
    """What the base is remembered to have said; it says something first."""

    def recall(device: str = "cpu", *, keep: bool = False, revision: str = "r") -> list[Rollout] | None:
        policy: Any = SimpleNamespace(
            device=torch.device(device),
            head=SimpleNamespace(weight_VH=torch.zeros(1, 1)),
            stop_ids={0},
            parent_alpha=8,
            lora_alpha=8,
            parent_parameters=dict,
            parameters=dict,
            twin_parameters=dict,
        )
        order: Any = SimpleNamespace(answers=str(tmp_path), base=SimpleNamespace(weights_sha256="b", revision=revision))
        memory = answer_memory(order, policy)
        assert memory is not None
        if keep:
            memory.keep("base", [[1]], [9], SAID)
        return memory.recall("base", [[1]], [9])

    return recall


def test_answers_of_other_code_are_not_given_again(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(keep=True) == asked() == SAID
    monkeypatch.setattr(answers, "code_sha256", lambda *_: "a fix of decoding")
    assert asked() is None


def test_answers_of_the_same_weights_under_another_config_are_not_given_again(asked: Any) -> None:
    """Fault caught: a base imported anew with another rope_theta answers as the old one did."""
    assert asked(keep=True) == SAID
    assert asked(revision="another") is None


def test_answers_with_another_number_of_threads_are_not_given_again(
    asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(keep=True) == SAID
    monkeypatch.setattr(torch, "get_num_threads", lambda: 61)
    assert asked() is None


def test_answers_of_another_gpu_are_not_given_again(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "an H100")
    assert asked("cuda", keep=True) == SAID
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "an A100")
    assert asked("cuda") is None


def test_a_changed_a_moved_or_a_new_source_is_other_code(tmp_path: Path) -> None:
    def digest() -> str:
        package = ModuleType("package")  # a new one, as a new process has
        package.__path__ = [str(tmp_path)]
        return code_sha256(package)

    (tmp_path / "one.py").write_text("x = 1\n")
    found = [digest(), digest()]
    (tmp_path / "one.py").write_text("x = 2\n")
    found.append(digest())
    (tmp_path / "one.py").rename(tmp_path / "two.py")
    found.append(digest())
    (tmp_path / "three.c").write_text("int x;\n")
    found.append(digest())
    (tmp_path / "one.py").write_text("")
    found.append(digest())
    assert found[0] == found[1]
    assert len(set(found)) == 5


def test_a_report_names_code_hardware_and_libraries() -> None:
    found = circumstances.circumstances(torch.device("cpu"))
    assert set(found) == {"code_sha256", "hardware", "versions"}
    assert found["hardware"]["threads"] == torch.get_num_threads()
    assert found["hardware"]["compiled_pass"] == compiled_pass()
    if Path("/proc/cpuinfo").exists():
        assert found["hardware"]["processor"] in Path("/proc/cpuinfo").read_text()
