"""What every noun's schemas are made of."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from app.services.pages import Page


class Strict(BaseModel):
    """Part of a request: nothing unknown, nothing that only looks like the right type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Identified(BaseModel):
    """What can be an item of a list, and so a cursor."""

    id: str


Row = TypeVar("Row")
Item = TypeVar("Item", bound=Identified)


class ListObject(BaseModel, Generic[Item]):
    """A page of a list; the next one is asked for with ``after`` = ``last_id``."""

    object: Literal["list"]
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, page: Page[Row], show: Callable[[Row], Item]) -> Self:
        """The rows of a page, each as its object."""
        return cls.having([show(row) for row in page.rows], has_more=page.has_more)

    @classmethod
    def having(cls, data: list[Item], *, has_more: bool = False) -> Self:
        """Objects as a page."""
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return cls(object="list", data=data, first_id=first, last_id=last, has_more=has_more)


class DeletedObject(BaseModel):
    """That a thing is gone."""

    id: str
    object: str
    deleted: bool


class ProblemError(BaseModel):
    """What OpenAI's clients read of an error."""

    message: str
    type: str
    param: str | None
    code: str
    errors: list[dict[str, Any]] = Field(
        description="The first hundred, or of a file's lines the first hundred a code."
    )
    counts: dict[str, int] = Field(description="How many findings there are of each code, listed or not.")


class Problem(BaseModel):
    """An error: RFC 9457, with OpenAI's ``error`` inside."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    error: ProblemError
    request_id: str


def unix(moment: datetime) -> int:
    """Seconds, as every time in this API."""
    return int(moment.timestamp())


def unix_or_none(moment: datetime | None) -> int | None:
    """The same, where there may be none."""
    return None if moment is None else unix(moment)
