"""The pages are true where a program can tell: links lead somewhere, tables name all that there is."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from app.domain.lifecycle import FAILURE_CODES, MAX_FAILED_ATTEMPTS, RETRYABLE
from app.settings import Settings

ROOT = Path(__file__).parents[2]
ROOMS = ("docs", "benchmarks", "tests")
PAGES = [*ROOT.glob("*.md"), *(page for room in ROOMS for page in (ROOT / room).rglob("*.md"))]


def prose(page: Path) -> str:
    """Without what stands in fences."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path) if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def variables(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Names of the environment variables that settings are read from."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from variables(kind, f"{prefix}{name.upper()}__")
        else:
            yield f"{prefix}{name.upper()}"


def test_the_table_of_settings_has_them_all_and_no_other() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    table = page.partition("## Settings")[2].partition("\n## ")[0]
    told: list[str] = []
    for row in re.findall(r"^\| (`SDFT_[^|]+)\|", table, re.MULTILINE):
        first, *others = re.findall(r"`(\w+)`", row)
        told += [first, *(first.rpartition("__")[0] + other for other in others)]
    assert sorted(told) == sorted(variables(Settings, "SDFT_"))


def test_the_api_page_says_what_to_do_about_every_failure_and_how_often_it_is_tried() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \| (\d) \|", page.partition("## When a job fails")[2], re.MULTILINE))
    assert told == {code: str(MAX_FAILED_ATTEMPTS if code in RETRYABLE else 1) for code in FAILURE_CODES}
