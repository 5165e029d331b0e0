"""What the ``sdft`` command promises without a service: help at once, exit codes, JSON, errors that help."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.columns import Columns
from rich.markup import escape
from rich.text import Text

from app.cli import main
from app.cli.connection import connect
from app.cli.download import how_to_load
from app.cli.estimate_view import show_estimate
from app.cli.home import Home
from app.cli.output import CliError, console, explain, print_fields, print_table, say
from app.domain.characters import CONTROLS

DATA = Path(__file__).parents[2] / "app" / "demo" / "data"


def sdft(*arguments: str | Path, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    named = {name: value for name, value in os.environ.items() if not name.startswith("SDFT_")}
    environment = named | ({"SDFT_HOME": str(home)} if home else {})
    command = [sys.executable, "-m", "app.cli", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


@pytest.fixture
def bad_file(tmp_path: Path) -> Path:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"messages": []}\nnot json\n')
    return path


def test_help_costs_less_cpu_than_a_third_of_a_second():
    """Of its own time, so that a busy machine does not count; the best of three."""

    def cpu_seconds() -> float:
        before = os.times()
        assert sdft("--help").returncode == 0
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(cpu_seconds() for _ in range(3)) < 0.33


def test_a_good_file_is_valid():
    result = sdft("validate", DATA / "home.jsonl", "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["n_examples"] == 64


def test_a_bad_file_has_its_own_exit_code_and_every_finding(bad_file: Path):
    result = sdft("validate", bad_file, "--json")
    assert result.returncode == 4
    assert [finding["line"] for finding in json.loads(result.stdout)["errors"]][:2] == [1, 2]
    assert "line 2:" in sdft("validate", bad_file).stdout


def test_findings_that_are_not_listed_are_counted(tmp_path: Path):
    (tmp_path / "bad.jsonl").write_text("not json\n" * 1000)
    shown = sdft("validate", tmp_path / "bad.jsonl").stdout.splitlines()
    assert len(shown) == 102
    assert shown[-1] == "  and 900 more: invalid_json"
    told = json.loads(sdft("validate", tmp_path / "bad.jsonl", "--json").stdout)
    assert (len(told["errors"]), told["counts"]) == (100, {"invalid_json": 1000})


def test_an_estimate_that_nothing_tells_says_what_would_have_to_be_alike(capsys: pytest.CaptureFixture[str]):
    told = {
        "examples": {"total": 30, "held_out": 8}, "steps": 48, "tokens": {"trained": 900}, "seconds": None,
        "truncations": {"count": 0, "counted": 30, "lines": []}, "peak_memory_bytes": None,
        "peak_memory_is_at_least": False, "queue": {"wait_seconds": None}, "not_counted": [], "calibrated_on": 0,
    }  # fmt: skip
    client: Any = SimpleNamespace(post=lambda *_, **__: told)
    show_estimate(client, {}, as_json=False)
    assert "base, method, objective and teacher" in capsys.readouterr().out


def test_wrong_usage_has_its_own_exit_code():
    result = sdft("jobs", "lst")
    assert result.returncode == 64
    assert "list" in result.stderr


def test_without_a_service_the_error_says_how_to_start_one(tmp_path: Path):
    result = sdft("jobs", "list", home=tmp_path / "none")
    assert result.returncode == 1
    assert "sdft up" in result.stderr
    assert not (tmp_path / "none").exists()


def test_with_json_errors_are_json_too(tmp_path: Path):
    result = sdft("jobs", "list", "--json", home=tmp_path)
    assert "sdft up" in json.loads(result.stdout)["error"]["message"]


def test_a_service_that_does_not_answer_is_named(tmp_path: Path):
    began = time.monotonic()
    result = sdft("jobs", "list", "--url", "http://127.0.0.1:9", "--key", "sk-none", home=tmp_path)
    assert result.returncode == 1
    assert "http://127.0.0.1:9/v1" in result.stderr
    assert time.monotonic() - began < 30


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Of a service that was announced and does not answer, with its key."""
    running = {"url": "http://127.0.0.1:9", "database_url": "", "broker_url": ""}
    (tmp_path / "service.json").write_text(json.dumps(running))
    (tmp_path / "key").write_text("sk-saved\n")
    return tmp_path


def test_the_saved_key_goes_to_the_homes_own_service_alone(home: Path):
    """Fault caught: it went to whatever address was named."""
    own = Home(home)
    for url in (None, "", " http://127.0.0.1:9 ", "http://127.0.0.1:9/v1/"):
        client = connect(own, url, None)
        assert (str(client.base_url), client.api_key) == ("http://127.0.0.1:9/v1/", "sk-saved")
    for url in ("http://127.0.0.1:10", "https://127.0.0.1:9", "http://127.0.0.1.example:9"):
        with pytest.raises(CliError, match="--key or SDFT_API_KEY"):
            connect(own, url, " ")
        assert connect(own, url, " sk-named\n").api_key == "sk-named"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--key", "ключ"), "copy it again"),
        (("--key", "sk-a b"), "copy it again"),
        (("--url", "127.0.0.1:8733"), "write http://127.0.0.1:8733."),
        (("--url", "localhost:8733"), "write http://localhost:8733."),
        (("--url", "ftp://sdft"), "write http://sdft."),
        (("--url", "http://[::1"), "is no URL"),
        (("--url", "http://sdft:99999"), "is no URL"),
        (("--url", "http://"), "is no URL"),
        (("--url", f"http://{'a' * 70}.example"), "is no URL"),
    ],
)
def test_what_cannot_be_a_url_or_a_key_is_told_in_a_sentence(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
):
    monkeypatch.setattr(sys, "argv", ["sdft", "jobs", "list", f"--home={home}", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    told = capsys.readouterr().err.splitlines()
    assert (left.value.code, len(told)) == (1, 1)
    assert said in told[0]


def test_an_empty_text_is_no_job(home: Path):
    result = sdft("jobs", "watch", "", home=home)
    assert result.returncode == 64
    assert "names no job" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("evaluations", "show", ""), "An empty text names no evaluation"),
        (("evaluations", "cancel", "eval-1/x"), "eval-1/x names no evaluation"),
        (("report", ""), "An empty text names no job"),
        (("report", "eval-1/examples"), "no evaluation (eval-...)"),
        (("report", "home:1/archive"), "NAME:VERSION"),
        (("adapters", "pull", ""), "An empty text names no adapter"),
        (("adapters", "pull", "ft:org/tiny:acme:home:abc"), "NAME:VERSION"),
        (("adapters", "pull", "home:1/.."), "NAME:VERSION"),
        (("adapters", "lineage", ""), "An empty text names no adapter"),
        (("adapters", "lineage", "home:1"), "home:1 names no adapter"),
        (("adapters", "promote", ":1", "--alias", "production"), "NAME:VERSION"),
        (("adapters", "promote", "home:1", "--alias", ""), "--alias"),
        (("adapters", "remove-alias", "@production"), "NAME@ALIAS"),
        (("adapters", "remove-alias", "home@production/.."), "NAME@ALIAS"),
    ],
)
def test_what_can_be_no_name_is_told_so_by_the_command(
    *, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path, arguments: Any, said: str
):
    """Fault caught: it became a part of another address, which answered something else, or that it is no route."""
    monkeypatch.setattr(sys, "argv", ["sdft", *arguments, f"--home={home}"])
    with pytest.raises(SystemExit) as left:
        main()
    told = capsys.readouterr().err
    assert left.value.code == 1
    assert said in told


def test_what_others_wrote_does_not_control_the_terminal(capsys: pytest.CaptureFixture[str]):
    """Fault caught: the reason of a move, or the name of a key, could rewrite the screen of whoever lists them."""
    hostile = "a\x1b[2Jb\x9bc\x07\u202ed\r\x7f"
    told = r"a\x1b[2Jb\x9bc\x07\u202ed\r\x7f"
    print_table(("name",), [[hostile]], empty="")
    print_table(("name",), [], empty=hostile)
    print_fields({"name": hostile})
    say(f"{hostile}\n{hostile}")
    error = CliError(hostile)
    error.add_note(hostile)
    explain(error, as_json=False)
    console().print(Columns([Text(hostile.replace("\x07", "").replace("\r", ""))]))
    for markup in (f"[bold]{escape(hostile)}[/]", Text.from_markup(escape(hostile))):
        console().print(markup)
    shown = "".join(capsys.readouterr())
    assert shown.count(told) == 8
    assert not CONTROLS.search(shown.replace("\n", ""))


def test_a_home_that_cannot_be_used_is_an_error_and_no_traceback(tmp_path: Path):
    (tmp_path / "home").touch()
    result = sdft("keys", "list", home=tmp_path / "home")
    assert result.returncode == 1
    assert result.stderr.startswith("Error: ")
    assert str(tmp_path / "home") in result.stderr


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("hub:org/small", 'AutoModelForCausalLM.from_pretrained("org/small", revision="abc")'),
        ("wheel:llm-small==0.1.2", "BASE: the folder of the base model small (wheel llm-small==0.1.2)"),
    ],
)
def test_who_pulls_an_adapter_is_told_which_base_it_needs(tmp_path: Path, source: str, said: str):
    base = {"name": "small", "source": source, "revision": "abc"}
    (tmp_path / "provenance.json").write_text(json.dumps({"base": base}))
    assert said in how_to_load(tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--hub ID, --folder DIR and --wheel NAME==VERSION"),
        (("--hub", "org/small", "--folder", "."), "by one of --hub ID"),
        (("--wheel", "small==1.0"), "--sha256"),
        (("--folder", ".", "--revision", "main"), "--revision is of --hub"),
    ],
)
def test_a_model_from_nowhere_is_refused_in_words_of_the_command_itself(
    tmp_path: Path, options: tuple[str, ...], said: str
):
    """Fault caught: the usage of the module that adds it, whose options the command does not have."""
    result = sdft("models", "add", "small", *options, home=tmp_path / "none")
    assert result.returncode == 64
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert not (tmp_path / "none").exists()
