"""What tables of a report look like at a terminal."""

from collections.abc import Iterator
from typing import Literal

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text


def titled(title: str, table: Table) -> Iterator[RenderableType]:
    """A table and a line before it; nothing of one without rows."""
    if table.row_count:
        table.title, table.title_justify, table.title_style = title, "left", "bold"
        yield Text()
        yield table


def columns(*names: str) -> Table:
    """Names left; what begins with ``>`` is a number. What finds no room is folded, never cut."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in names:
        justify: Literal["left", "right"] = "right" if name.startswith(">") else "left"
        table.add_column(name.lstrip(">"), justify=justify, overflow="fold")
    return table


def words(name: str) -> str:
    """A name of code as people write it."""
    return name.replace("_", " ")
