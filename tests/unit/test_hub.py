"""What the operator is told when the hub cannot be asked for a base model."""

from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

from worker.hf.import_model import CannotImport, from_hub


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (HTTPError("[Errno -2] Name or service not known"), "not known. Check the way to the hub"),
        (OfflineModeIsEnabled("Cannot reach https://huggingface.co."), "HF_HUB_OFFLINE is set; unset it"),
    ],
    ids=["no network", "told to stay offline"],
)
def test_a_hub_that_cannot_be_asked_is_one_sentence_and_no_traceback(
    error: Exception, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(HfApi, "model_info", refuse)
    with pytest.raises(CannotImport) as told:
        from_hub("org/small", "main", None, lambda _: None).fetch(Path("nowhere"))
    assert advice in str(told.value)
    assert "--folder" in str(told.value)
