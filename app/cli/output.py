"""What commands print: JSON for programs, tables for people, and errors that say how to go on."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.domain.characters import CONTROLS

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ERROR_EXIT_CODE = 1
GATE_EXIT_CODE = 2
JOB_FAILED_EXIT_CODE = 3
INVALID_FILE_EXIT_CODE = 4
EXIT_CODES = {"gate_not_passed": GATE_EXIT_CODE, "invalid_file": INVALID_FILE_EXIT_CODE}
"""Of errors that scripts tell from others, by code."""


class CliError(Exception):
    """Something the person at the terminal can fix; the message says how."""


def printable(text: str) -> str:
    """A text with what would control the terminal, or turn a line around, escaped; newlines and tabs stay."""
    return CONTROLS.sub(lambda found: found[0] if found[0] in "\n\t" else ascii(found[0])[1:-1], text)


def say(text: str, *, err: bool = False) -> None:
    """A line, or several, for people."""
    typer.echo(printable(text), err=err)


def print_json(value: object) -> None:
    """One JSON value a line."""
    typer.echo(json.dumps(value, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """A table, or a line that says why there is none."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")  # an id that is cut is none
    for row in rows:
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    if table.row_count:
        console().print(table)
    else:
        say(empty)


def print_fields(found: Mapping[str, Any]) -> None:
    """An object of the API as a table: what it has no value for is left out."""

    def show(name: str, value: Any) -> str:
        if name.endswith("_at") or name == "estimated_finish":
            return show_time(value)
        return value if isinstance(value, str) else json.dumps(value)

    shown = {name: value for name, value in found.items() if value not in (None, [], {})}
    print_table(("field", "value"), ((name, show(name, value)) for name, value in shown.items()), empty="")


def console(*, width: int | None = 240, stderr: bool = False, quiet: bool = False) -> "Console":
    """Where people read; what is no terminal folds at ``width`` columns, or at rich's 80."""
    from app.cli.terminal import Terminal

    terminal = Terminal(stderr=stderr, quiet=quiet)
    return terminal if terminal.is_terminal or width is None else Terminal(width=width, stderr=stderr, quiet=quiet)


def show_time(seconds: float) -> str:
    """Unix seconds as local time."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def insist_on_pass(gate: dict[str, Any] | None) -> None:
    """Leave with the gate's exit code unless there is no gate, or it was passed."""
    if gate and gate["verdict"] != "pass":
        raise typer.Exit(GATE_EXIT_CODE)


def explain(error: Exception, *, as_json: bool) -> int | None:
    """Print an expected error and give its exit code. None if it is not one: that is a bug and keeps its traceback."""
    found = _describe(error)
    if found is None:
        return None
    if as_json:
        print_json({"error": found})
    else:
        told, *more = _lines(found)
        typer.secho(f"Error: {printable(told)}", fg="red", err=True)
        for line in (*more, *getattr(error, "__notes__", ())):
            say(f"  {line}", err=True)
    return EXIT_CODES.get(found.get("code") or "", ERROR_EXIT_CODE)


def _lines(found: dict[str, Any]) -> list[str]:
    """What was found, and after it what that does not say yet."""
    message, param, errors = found["message"], found.get("param"), found.get("errors") or []
    if found.get("code") == "invalid_file" and len(errors) == 1:
        return [describe_finding(errors[0])]
    by_line = any(one.get("line") for one in errors)
    head = message if by_line or not param or param in message else f"{message} ({param})"
    more = [one for one in errors if one["message"] not in message or (by_line and len(errors) > 1)]
    return [head, *map(describe_finding, more)]


def describe_finding(finding: dict[str, Any]) -> str:
    """One thing that is wrong with a file or a request, and where, on a line."""
    line, path = finding.get("line"), finding.get("path")
    where = ", ".join(part for part in (f"line {line}" if line else "", path) if part)
    place = f"{where}: " if where else ""
    return f"{place}{finding['message']} {finding.get('hint') or ''}".rstrip()


def _describe(error: Exception) -> dict[str, Any] | None:
    from app.cli.download import BadDownload
    from app.domain.errors import ServiceError
    from app.embedded import ProcessFailed

    if isinstance(error, CliError | ProcessFailed | BadDownload | OSError):
        return {"code": "cli_error", "message": str(error)}
    if isinstance(error, ServiceError):
        return {
            "code": error.code,
            "message": error.message,
            "param": error.param,
            "errors": error.errors,
            "counts": dict(error.counts),
        }
    # An error of a library that was never loaded is not what happened.
    if "sqlalchemy" in sys.modules and (found := _describe_database(error)):
        return found
    return _describe_answer(error) if "openai" in sys.modules else None


def _describe_database(error: Exception) -> dict[str, Any] | None:
    from sqlalchemy.exc import OperationalError

    if isinstance(error, OperationalError):
        return {"code": "database_unavailable", "message": f"The database does not answer: {error.orig}".strip()}
    return None


def _describe_answer(error: Exception) -> dict[str, Any] | None:
    """What the API said, or that it said nothing."""
    import openai

    if isinstance(error, openai.APIStatusError):
        body = error.body if isinstance(error.body, dict) else {}
        return {"message": error.message, **body, "status": error.status_code, "request_id": error.request_id}
    if isinstance(error, openai.APIConnectionError):
        message = f"No answer from {error.request.url}. Is the service running? `sdft up` starts one."
        return {"code": "no_answer", "message": message}
    return None
