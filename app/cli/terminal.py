"""A console that shows what others wrote and obeys none of it. Imports rich: from inside commands only."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from app.cli.output import printable


class Terminal(Console):
    """Escapes what controls a terminal in all that is printed; rich's own styles and cursor moves are no text."""

    def render_str(self, text: str, **how: Any) -> Text:
        """A string as rich prints it, escaped before its width is taken."""
        return super().render_str(printable(text), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Whatever else is printed."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)
