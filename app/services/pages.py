"""Lists, a page at a time, stable while rows come and go: the cursor is the last row, not a number."""

from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from sqlalchemy import ColumnElement, Select, true, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.domain.errors import Invalid

Row = TypeVar("Row")


@dataclass(frozen=True)
class PageRequest:
    """Which page: at most ``limit`` rows after the row with the id ``after``."""

    after: str | None
    limit: int
    order: Literal["asc", "desc"]


@dataclass(frozen=True)
class Page(Generic[Row]):
    """Its rows, and whether more follow."""

    rows: list[Row]
    has_more: bool


def page(
    session: Session,
    scope: Select[Row],
    request: PageRequest,
    *,
    key: tuple[InstrumentedAttribute[Any], ...],
    shown: ColumnElement[bool] = true(),  # noqa: B008 - an immutable SQL constant
) -> Page[Row]:
    """One page of rows.

    Args:
        session: To read with.
        scope: Everything that may be a cursor: what the caller owns, also what was deleted since the page before.
        request: Which page.
        key: Columns that order the rows; unique together.
        shown: Which rows of the scope are listed.

    Raises:
        Invalid: The cursor is not the id of a row in scope.
    """
    descending = request.order == "desc"
    query = scope.where(shown)
    if request.after is not None:
        entity: Any = key[-1].class_
        cursor = session.execute(scope.with_only_columns(*key).where(entity.id == request.after)).one_or_none()
        if cursor is None:
            message = "There is no item with this id in this list; send the id of the last item of the page before."
            raise Invalid("unknown_cursor", message, param="after")
        here, there = tuple_(*key), tuple_(*cursor)
        query = query.where(here < there if descending else here > there)
    ordering = [column.desc() if descending else column.asc() for column in key]
    rows: list[Row] = list(session.scalars(query.order_by(*ordering).limit(request.limit + 1)))
    return Page(rows[: request.limit], has_more=len(rows) > request.limit)
