"""The report's shape is published: whoever reads reports can rely on it."""

import json
from pathlib import Path

from worker.evals.schema import Flip, Report, ScorerError

PUBLISHED = Path("docs/report.schema.json")
WRITE = (
    'python -c "import json; from worker.evals.schema import Report; '
    f'print(json.dumps(Report.model_json_schema(), indent=2))" > {PUBLISHED}'
)


def test_the_published_schema_is_the_reports() -> None:
    """Fault caught: a field that comes, goes or changes without anybody seeing it."""
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    assert published == Report.model_json_schema(), (
        f"The report has another shape than {PUBLISHED}. If readers would stumble, raise schema_version. "
        f"Then write it anew, and look at the diff: {WRITE}"
    )


def test_what_was_said_holds_no_character_that_postgres_refuses() -> None:
    """A byte-level base may say any byte. Fault caught: a job that failed when all was done but the report's row."""
    said = {"base": "right", "candidate": "a\0b"}
    flip = Flip(item="1", kind="k", change="lost", against=["base"], prompt="\0?", expected=["\0"], answers=said)
    error = ScorerError(suite="s", item="1", arm="candidate", scorer="regex", message="of \0")
    assert flip.answers == {"base": "right", "candidate": "a\ufffdb"}
    assert not any("\\u0000" in one.model_dump_json() for one in (flip, error))
