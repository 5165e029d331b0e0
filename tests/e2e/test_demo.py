"""The demo's whole story through a service of its own, with a tiny model in place of the one that is fetched."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.cli.home import Home
from app.demo import run
from tests.e2e.conftest import MODEL

MEASURED = r"\d+% \(\d+% to \d+%\)"


@pytest.fixture
def home(server_folder: Path) -> Path:
    return server_folder / "demo"


def test_three_skills_in_a_row_and_what_they_did_to_each_other(
    home: Path,
    models: tuple[Path, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def add_tiny_model(home: Home) -> Path:
        command = [sys.executable, "-m", "app.cli", "models", "add", MODEL, f"--folder={models[0] / MODEL}"]
        facts = json.loads(subprocess.check_output([*command, f"--home={home.root}", "--json"]))
        return home.folder("models") / str(facts["path"])

    monkeypatch.setattr(run, "add_base_model", add_tiny_model)
    monkeypatch.setattr(run, "MODEL", MODEL)
    monkeypatch.setattr(sys, "argv", ["demo", "--skills=3", f"--home={home}"])

    assert run.main() == 0

    told = capsys.readouterr().out
    assert re.findall(r"On top of (\S+), which", told) == ["demo:1", "demo:2"]
    assert len(re.findall(r"asked \(held out\)", told)) == 3
    summary = told.partition("What the skills did to each other")[2]
    assert "demo:1 was taught home, demo:2 was taught route, demo:3 was taught tool." in summary
    rows = {row.split()[0]: len(re.findall(MEASURED, row)) for row in summary.splitlines() if row.strip()}
    # Beside the diagonal is what a version made of the next skill untaught; nobody asked the first one for the third.
    assert [rows[f"demo:{version}"] for version in (1, 2, 3)] == [2, 3, 3]
    for figure in ("average accuracy", "backward transfer", "forgetting", "forward transfer"):
        assert re.search(rf"{figure} +[+-]\d+\.\d points", summary), summary
