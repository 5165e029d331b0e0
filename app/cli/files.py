"""``sdft upload`` and ``sdft validate``: demonstrations on their way in."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from app.cli.connection import Key, Url, connect
from app.cli.home import DEFAULT_HOME, Home, HomeOption
from app.cli.output import INVALID_FILE_EXIT_CODE, Json, describe_finding, print_json

PathArgument = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSONL, one demonstration a line.")]


def upload(
    path: PathArgument, home: HomeOption = DEFAULT_HOME, url: Url = None, key: Key = None, json: Json = False
) -> None:
    """Upload a file of demonstrations. Exit code 4 if it cannot be trained on."""
    client = connect(Home(home), url, key)
    with path.open("rb") as content:
        file = client.files.create(file=content, purpose="fine-tune")
    if json:
        print_json(file.to_dict())
    else:
        typer.echo(
            f"{file.id} ({file.bytes:,} bytes)\nTrain on it: sdft jobs create --training-file {file.id} --model ..."
        )


def validate(path: PathArgument, json: Json = False) -> None:
    """Check a file of demonstrations on this machine, without a service. Exit code 4 if it cannot be trained on."""
    from app.domain.validation import validate as find_faults

    report = find_faults(path)
    if json:
        errors, warnings = ([asdict(finding) for finding in found] for found in (report.errors, report.warnings))
        print_json({"valid": report.valid, "n_examples": report.n_examples, "errors": errors, "warnings": warnings})
    else:
        state = "can be trained on" if report.valid else "cannot be trained on"
        typer.echo(f"{path}: {report.n_examples} examples, {state}.")
        for kind, findings in (("error", report.errors), ("warning", report.warnings)):
            for finding in findings:
                typer.echo(f"  {kind}: {describe_finding(asdict(finding))}")
    if not report.valid:
        raise typer.Exit(INVALID_FILE_EXIT_CODE)
