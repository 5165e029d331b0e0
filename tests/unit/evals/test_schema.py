"""The report's shape is published: whoever reads reports can rely on it."""

import json
from pathlib import Path

from worker.evals.schema import Report

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
