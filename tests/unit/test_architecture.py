"""The promises about the shape of the code: who may import whom, what stays light, what stays out."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
FLOORS = {"transformers": "5.3", "torch": "2.6", "starlette": "0.49.1", "celery": "5.7"}
"""Below these lie known vulnerabilities, or behaviour that the queue relies on."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = [
    Requirement(text)
    for texts in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for text in texts
]


def loaded_by(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after a statement."""
    code = (
        f"import json, sys\n{statement}\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    )
    return set(json.loads(subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()[-1]))


def test_the_api_process_loads_no_torch():
    assert not loaded_by("import app.main") & {"torch", "transformers", "peft", "worker"}


def test_celery_processes_load_no_torch():
    settings = "import os; os.environ |= {f'SDFT_{name}': '/nowhere' for name in NAMES}".replace(
        "NAMES", "('DATABASE__URL', 'BROKER__URL', 'STORAGE__ROOT', 'STORAGE__MODELS', 'STORAGE__WORK')"
    )
    assert not loaded_by(f"{settings}; import worker.tasks") & {"torch", "transformers", "peft", "fastapi"}


def test_help_loads_nothing_heavy():
    assert not loaded_by("import app.cli") & {
        "openai",
        "sqlalchemy",
        "pydantic",
        "celery",
        "fastapi",
        "obstore",
        "rich",
    }


def test_imports_follow_the_arrows():
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout


def test_the_algorithm_imports_torch_and_nothing_else():
    """Fault caught: any other package or room; a contract of import-linter can only forbid those that it names."""
    foreign = [
        f"{path.name}: {name}"
        for path in (ROOT / "worker" / "sdft").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or "."] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        if name.partition(".")[0] not in {"torch", *sys.stdlib_module_names}
        and not f"{name}.".startswith("worker.sdft.")
    ]
    assert foreign == []


@pytest.mark.parametrize("package", FLOORS)
def test_known_bad_versions_cannot_be_installed(package: str):
    [declared] = [item for item in REQUIRED if item.name == package]
    [floor] = [item.version for item in declared.specifier if item.operator == ">="]
    assert Version(floor) >= Version(FLOORS[package])


def test_everything_that_is_required_is_pinned():
    pinned = {Requirement(line).name for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {item.name for item in REQUIRED} <= pinned


def test_no_path_of_a_machine_is_in_the_tree():
    files = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    homes = re.compile(rf"{re.escape(str(ROOT.parent))}/|[/]home/(?!sdft\b)\w+/|[/]root/|[/]Users/\w+/")
    named = [name for name in files if name and homes.search((ROOT / name).read_text(errors="replace"))]
    assert named == []


def test_every_invariant_of_the_trainer_has_tests_that_exist() -> None:
    """Fault caught: a test that was renamed or deleted and leaves its invariant to nobody."""
    page = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) == 23
    for row in [*rows, *(line for line in page.splitlines() if "::" in line)]:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named
        for path, name in named:
            assert f"def {name}(" in (ROOT / "tests" / path).read_text(encoding="utf-8"), f"{path}::{name}"
