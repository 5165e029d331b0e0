"""Models as OpenAI's clients know them: trainable bases and published versions."""

from typing import Literal, Self

from app.api.schemas.common import Identified, unix
from app.db import models
from app.services.adapters import Published


class ModelObject(Identified):
    """Something that can be named as ``model``."""

    object: Literal["model"]
    created: int
    owned_by: str
    base_model: str | None
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
            context_tokens=None,
            adapter=f"{version.adapter.name}:{version.version}",
            aliases=[f"{version.adapter.name}@{alias}" for alias in published.aliases],
        )
