import hashlib

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from app.db.models import BaseModel
from app.domain.errors import Conflict, Invalid, NotFound
from app.services import base_models
from tests import factories


@pytest.fixture
def facts(tmp_path):
    """What the importer says about a model folder that it left in the model store."""
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.enable_truncation(2)
    (tmp_path / "org--m").mkdir()
    (tmp_path / "org--m" / "tokenizer.json").write_text(words.to_str())
    return {
        "name": "org/m",
        "source": "hub:org/m",
        "revision": "1" * 40,
        "license": None,
        "path": "org--m",
        "digests": {"model.safetensors": "0" * 64},
        "weights_sha256": "0" * 64,
        "tokenizer_path": "tokenizer.json",
        "chat_template_sha256": "0" * 64,
        "overheads": {"conversation": 10, "system": -2, "message": {"user": 3, "assistant": 4, "tool": None}},
        "architecture": "LlamaForCausalLM",
        "num_parameters": 10,
        "context_tokens": 100,
    }


def test_a_model_that_was_added_can_be_trained_and_counted_with(session, store, tmp_path, facts):
    base_models.register(session, store, tmp_path, facts)
    base = base_models.required(session, "org/m")
    digest = hashlib.sha256((tmp_path / "org--m" / "tokenizer.json").read_bytes()).hexdigest()
    assert (base.tokenizer_sha256, base.context_tokens, base.license) == (digest, 100, None)
    counter = base_models.counter(session, store, base)
    assert counter.text("one two three four") == 4  # and not cut to the tokenizer's own two
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one two three"}]
    assert counter.prompt(chat) == 10 - 2 + 2 + 3 + 3


def test_adding_the_same_model_again_changes_nothing(session, store, tmp_path, facts):
    first = base_models.register(session, store, tmp_path, facts)
    assert base_models.register(session, store, tmp_path, facts) is first
    assert len(base_models.list_base_models(session)) == 1


def test_a_name_never_comes_to_stand_for_other_weights(session, store, tmp_path, facts):
    base_models.register(session, store, tmp_path, facts)
    base_models.remove(session, "org/m")
    with pytest.raises(Conflict):
        base_models.register(session, store, tmp_path, facts | {"weights_sha256": "1" * 64})


def test_a_removed_model_takes_no_jobs_until_it_is_added_again(session, store, tmp_path, facts):
    base_models.register(session, store, tmp_path, facts)
    base_models.remove(session, "org/m")
    with pytest.raises(Invalid, match="there are: none yet"):
        base_models.required(session, "org/m")
    with pytest.raises(NotFound):
        base_models.remove(session, "org/m")
    assert session.get(BaseModel, "org/m")
    base_models.register(session, store, tmp_path, facts)
    assert base_models.required(session, "org/m")


def test_roles_that_the_template_refuses_are_known(session):
    base = factories.make_base_model(session, overheads={"system": None, "message": {"user": 1, "tool": None}})
    assert base_models.refused_roles(base, ["user", "system", "tool", "assistant"]) == ["system", "tool"]
