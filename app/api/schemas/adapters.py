"""Adapter lines, their versions and the files of a version."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel

from app.api.schemas.common import Identified, unix
from app.db.models import Adapter, AdapterFile
from app.services.adapters import Published


class VersionObject(BaseModel):
    """A published, immutable set of LoRA weights."""

    object: Literal["adapter.version"]
    adapter: str
    version: int
    model: str
    base_model: str
    parent_model: str | None
    job_id: str
    evaluation_id: str | None
    gate_verdict: str | None
    aliases: list[str]
    archive_file_id: str
    manifest_sha256: str
    created_at: int

    @classmethod
    def of(cls, published: Published) -> Self:
        """A version as clients see it."""
        version = published.version
        return cls(
            object="adapter.version",
            adapter=version.adapter.name,
            version=version.version,
            model=version.model_id,
            base_model=version.adapter.base_model,
            parent_model=published.parent_model_id,
            job_id=version.job_id,
            evaluation_id=published.evaluation_id,
            gate_verdict=published.gate_verdict,
            aliases=published.aliases,
            archive_file_id=version.archive_file_id,
            manifest_sha256=version.manifest_sha256,
            created_at=unix(version.created_at),
        )


class VersionFileObject(BaseModel):
    """One file of a version's folder."""

    path: str
    bytes: int
    sha256: str


class VersionWithFilesObject(VersionObject):
    """A version and what its folder holds."""

    files: list[VersionFileObject]

    @classmethod
    def having(cls, published: Published, files: Sequence[AdapterFile]) -> Self:
        """A version with its files as clients see them."""
        shown = [VersionFileObject(path=file.path, bytes=file.num_bytes, sha256=file.sha256) for file in files]
        return cls.model_validate(VersionObject.of(published).model_dump() | {"files": shown})


class AdapterObject(Identified):
    """A named line of versions over one base."""

    object: Literal["adapter"]
    name: str
    base_model: str
    created_at: int
    latest_version: int | None
    versions: list[VersionObject]

    @classmethod
    def of(cls, adapter: Adapter, versions: Sequence[Published]) -> Self:
        """A line as clients see it, versions oldest first."""
        return cls(
            id=adapter.id,
            object="adapter",
            name=adapter.name,
            base_model=adapter.base_model,
            created_at=unix(adapter.created_at),
            latest_version=max((published.version.version for published in versions), default=None),
            versions=[VersionObject.of(published) for published in versions],
        )
