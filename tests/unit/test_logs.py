"""What the log says of an error, in both of its forms."""

import logging

import pytest
import structlog

from app.logs import configure_logging


@pytest.fixture(autouse=True)
def _as_before():
    config, handlers, level = structlog.get_config(), logging.root.handlers, logging.root.level
    yield
    structlog.configure(**config)
    logging.root.handlers = handlers
    logging.root.setLevel(level)


def serve(presented: str) -> None:
    raise ZeroDivisionError("no such number")


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("log", [structlog.get_logger(), logging.getLogger("a library")], ids=["ours", "theirs"])
def test_a_traceback_names_the_line_and_no_values(capsys, log_format, log):
    """Fault caught: on a terminal, an error showed every variable: the client's key, and megabytes of a file."""
    configure_logging(log_format)
    secret = "sk-" + "k" * 40
    try:
        serve(secret)
    except ZeroDivisionError:
        log.exception("unhandled_error")
    told = capsys.readouterr().err
    assert "unhandled_error" in told
    assert "in serve" in told
    assert "ZeroDivisionError: no such number" in told
    assert "kkk" not in told
