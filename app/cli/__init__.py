"""The ``sdft`` command. Whatever is heavy is imported inside the command that needs it, so that help is instant.

Exit codes: 0 done, 1 error, 2 the version did not pass its gate, 3 the job failed or was cancelled, 4 the file did not
pass validation, 64 wrong usage.
"""

import sys

import typer

from app.cli import adapters, demo, evaluate, evaluations, files, jobs, keys, models, report, up
from app.cli.output import explain

USAGE_EXIT_CODE = 64

cli = typer.Typer(
    name="sdft",
    help="Self-distillation fine-tuning as a service: demonstrations in, versioned LoRA adapters and evidence out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cli.command("up")(up.up)
cli.command("demo")(demo.demo)
cli.command("upload")(files.upload)
cli.command("validate")(files.validate)
cli.command("evaluate")(evaluate.evaluate)
cli.command("report")(report.report)
cli.add_typer(jobs.cli, name="jobs")
cli.add_typer(evaluations.cli, name="evaluations")
cli.add_typer(adapters.cli, name="adapters")
cli.add_typer(models.cli, name="models")
cli.add_typer(keys.cli, name="keys")


def main() -> None:
    """Entry point: runs a command, and turns an error into what it is, how to fix it, and an exit code."""
    try:
        sys.exit(cli(standalone_mode=False))
    except typer.Abort:
        sys.exit(130)
    except typer.TyperException as error:
        from typer.rich_utils import rich_format_error

        rich_format_error(error)  # type: ignore[arg-type]
        sys.exit(USAGE_EXIT_CODE)
    except Exception as error:
        exit_code = explain(error, as_json="--json" in sys.argv)
        if exit_code is None:
            raise
        sys.exit(exit_code)
