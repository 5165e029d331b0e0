"""Files and what their validation found."""

from typing import Any, Literal, Self

from pydantic import BaseModel

from app.api.schemas.common import Identified, unix
from app.db.models import File


class FileObject(Identified):
    """Uploaded bytes, or a job's results."""

    object: Literal["file"]
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: str
    status_details: str | None
    expires_at: int | None

    @classmethod
    def of(cls, file: File) -> Self:
        """A row as clients see it."""
        return cls(
            id=file.id,
            object="file",
            bytes=file.num_bytes,
            created_at=unix(file.created_at),
            filename=file.filename,
            purpose=file.purpose,
            status=file.status,
            status_details=file.status_details,
            expires_at=None,
        )


class FindingObject(BaseModel):
    """Something that validation found."""

    code: str
    line: int | None
    path: str
    message: str
    hint: str


class ValidationObject(BaseModel):
    """The report of a training file. ``counts`` has all findings by code, the lists the first hundred of each."""

    object: Literal["file.validation"]
    file_id: str
    valid: bool
    n_examples: int
    errors: list[FindingObject]
    warnings: list[FindingObject]
    counts: dict[str, int]
    stats: dict[str, Any]
