"""``sdft upload`` and ``sdft validate``: demonstrations and suites of questions on their way in."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from app.cli.connection import Key, Url, connect
from app.cli.home import DEFAULT_HOME, Home, HomeOption
from app.cli.output import INVALID_FILE_EXIT_CODE, Json, describe_finding, print_json, say

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types import FileObject

PathArgument = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSONL, one example a line.")]
Purpose = Annotated[
    Literal["fine-tune", "evals"], typer.Option(help="Demonstrations to train on, or questions to measure with.")
]
_QUESTIONS_HINT = "These look like questions to measure with: --purpose evals."


def upload(
    path: PathArgument,
    purpose: Purpose = "fine-tune",
    home: HomeOption = DEFAULT_HOME,
    url: Url = None,
    key: Key = None,
    json: Json = False,
) -> None:
    """Upload a file of demonstrations, or of questions. Exit code 4 if it has errors."""
    client = connect(Home(home), url, key)
    with _hint_at_questions(path, purpose):
        file = send(client, path, purpose)
    option = {"fine-tune": "Train on it: sdft jobs create --training-file", "evals": "Ask it: sdft jobs create --suite"}
    if json:
        print_json(file.to_dict())
    else:
        say(f"{file.id} ({file.bytes:,} bytes)\n{option[purpose]} {file.id} --model ...")


def send(client: "OpenAI", path: Path, purpose: Literal["fine-tune", "evals"]) -> "FileObject":
    """Upload what lies on this machine."""
    with path.open("rb") as content:
        return client.files.create(file=content, purpose=purpose)


def validate(path: PathArgument, purpose: Purpose = "fine-tune", json: Json = False) -> None:
    """Check a file on this machine, without a service. Exit code 4 if it has errors."""
    from app.domain import validation

    report = (validation.validate if purpose == "fine-tune" else validation.validate_suite)(path)
    if json:
        errors, warnings = ([asdict(finding) for finding in found] for found in (report.errors, report.warnings))
        facts = {"valid": report.valid, "n_examples": report.n_examples, "errors": errors, "warnings": warnings}
        print_json(facts | {"counts": report.counts})
    else:
        use = "trained on" if purpose == "fine-tune" else "asked"
        state = f"can be {use}" if report.valid else f"cannot be {use}"
        say(f"{path}: {report.n_examples} examples, {state}.")
        for kind, findings in (("error", report.errors), ("warning", report.warnings)):
            for finding in findings:
                say(f"  {kind}: {describe_finding(asdict(finding))}")
        listed = Counter(finding.code for finding in (*report.errors, *report.warnings))
        for code, count in (report.counts - listed).items():
            say(f"  and {count:,} more: {code}")
        if not report.valid and purpose == "fine-tune" and _has_questions(path):
            say(_QUESTIONS_HINT)
    if not report.valid:
        raise typer.Exit(INVALID_FILE_EXIT_CODE)


@contextmanager
def _hint_at_questions(path: Path, purpose: str) -> Iterator[None]:
    """Tell who uploads questions as demonstrations, once they are refused."""
    from openai import UnprocessableEntityError

    try:
        yield
    except UnprocessableEntityError as error:
        if purpose == "fine-tune" and _has_questions(path):
            error.add_note(_QUESTIONS_HINT)
        raise


def _has_questions(path: Path) -> bool:
    """Whether its first line is a question to measure with."""
    from app.domain.demonstrations import raw_lines
    from app.domain.questions import parse_question
    from app.domain.strict_json import Malformed

    with path.open("rb") as source:
        try:
            parse_question(next(raw_lines(source), b""), 1)
        except Malformed:
            return False
    return True
