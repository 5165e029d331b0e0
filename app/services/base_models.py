"""The allow list of foundation models, and counting tokens as they do, without loading one.

A prompt's tokens are those of its contents plus what the chat template adds, which was measured when the model was
added: so the service needs a tokenizer, but neither templates nor torch.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session
from tokenizers import Tokenizer

from app.db.models import BaseModel, Blob, File
from app.domain.errors import Conflict, Invalid, NotFound
from app.services import blobs
from app.storage.store import Store, StoredBlob

_FACTS = (
    "source", "revision", "path", "digests", "weights_sha256", "chat_template_sha256", "overheads", "architecture",
    "num_parameters", "context_tokens", "license",
)  # fmt: skip


class TokenCounter:
    """Counts as one base model does.

    Args:
        store: Has the model's own tokenizer, which is read when something is counted.
        tokenizer: Where it lies there.
        overheads: What its chat template adds, as ``worker.hf.import_model`` measured it.
    """

    def __init__(self, store: Store, tokenizer: StoredBlob, overheads: Mapping[str, Any]) -> None:
        self._store = store
        self._blob = tokenizer
        self._overheads = overheads

    @cached_property
    def fingerprint(self) -> str:
        """The same for two that count alike."""
        return f"{self._blob.sha256} {json.dumps(dict(self._overheads), sort_keys=True)}"

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return _read_tokenizer(self._store, self._blob)

    def text(self, text: str) -> int:
        """Tokens of a text by itself."""
        # A batch of one: it counts the same, and encode() alone would let no other thread run meanwhile.
        return len(self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0])

    def prompt(self, messages: Iterable[Mapping[str, str]]) -> int:
        """Tokens of a conversation, generation prompt included; off by a few where texts meet."""
        messages = list(messages)
        return template_tokens(self._overheads, [message["role"] for message in messages]) + sum(
            self.text(message["content"]) for message in messages
        )


def template_tokens(overheads: Mapping[str, Any], roles: Sequence[str]) -> int:
    """What the chat template adds to messages of these roles, in tokens."""
    per_message = overheads.get("message", {})
    return int(overheads.get("conversation", 0)) + sum(
        int((overheads.get("system") if role == "system" else per_message.get(role)) or 0) for role in roles
    )


def refused_roles(base: BaseModel, roles: Iterable[str]) -> list[str]:
    """Those roles that the base's chat template cannot render."""
    known = {"system": base.overheads.get("system", 0)} | base.overheads.get("message", {})
    return [role for role in roles if known.get(role, 0) is None]


def check_roles(base: BaseModel, file: File, *, param: str) -> None:
    """Refuse a file with messages that the base's chat template cannot render.

    Raises:
        Invalid: It has some.
    """
    if refused := refused_roles(base, (file.validation or {})["stats"]["roles"]):
        message = f"The chat template of {base.name} takes no {refused[0]} messages; use another base or rewrite them."
        raise Invalid("unrecognized_role", message, param=param)


def register(session: Session, store: Store, models: Path, facts: Mapping[str, Any]) -> BaseModel:
    """Allow jobs on a model that lies in the model store.

    Args:
        session: To write with.
        store: Takes the tokenizer, which every API process needs.
        models: The model store.
        facts: As ``worker.hf.import_model`` prints them.

    Raises:
        Conflict: The name stands for other weights, which versions may hang on.
    """
    row = session.get(BaseModel, facts["name"])
    if row and row.weights_sha256 != facts["weights_sha256"]:
        message = "This name stands for other weights; adapters may be trained on them. Add these under another name."
        raise Conflict("model_name_taken", message, param="name")
    tokenizer = blobs.put(session, store, models / facts["path"] / facts["tokenizer_path"])
    if row is None:
        row = BaseModel(name=facts["name"])
        session.add(row)
    for name in _FACTS:
        setattr(row, name, facts[name])
    row.tokenizer_sha256 = tokenizer.sha256
    row.removed_at = None
    session.flush()
    return row


def list_base_models(session: Session) -> Sequence[BaseModel]:
    """Those that jobs may train on, oldest first."""
    query = select(BaseModel).where(BaseModel.removed_at.is_(None)).order_by(BaseModel.created_at, BaseModel.name)
    return session.scalars(query).all()


def find(session: Session, name: str) -> BaseModel | None:
    """The base that jobs may train on, by its name."""
    row = session.get(BaseModel, name)
    return row if row and row.removed_at is None else None


def remove(session: Session, name: str) -> None:
    """Take no more jobs on a base; its adapters stay.

    Raises:
        NotFound: It is not on the list.
    """
    row = find(session, name)
    if row is None:
        raise NotFound("model_not_found", "There is no base model of this name.")
    row.removed_at = datetime.now(UTC)
    session.flush()


def required(session: Session, name: str) -> BaseModel:
    """The base a request names.

    Raises:
        Invalid: It is not on the list; the message says what is.
    """
    row = find(session, name)
    if row is None:
        known = ", ".join(base.name for base in list_base_models(session)) or "none yet"
        message = f"There is no base model of this name that can be trained; there are: {known}."
        if name.startswith("ft:"):
            message += " To go on from a version, name its base as model and the version as parent_adapter."
        raise Invalid("model_not_found", message, param="model")
    return row


def counter(session: Session, store: Store, base: BaseModel) -> TokenCounter:
    """What counts tokens for a base; needs no session to count."""
    blob = session.get_one(Blob, base.tokenizer_sha256)
    return TokenCounter(store, StoredBlob(blob.sha256, blob.num_bytes), base.overheads)


@lru_cache(maxsize=2)  # tens of megabytes each
def _read_tokenizer(store: Store, blob: StoredBlob) -> Tokenizer:
    tokenizer = Tokenizer.from_buffer(store.read_bytes(blob))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
