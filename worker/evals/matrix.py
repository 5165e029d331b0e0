"""The retention matrix: what each version of a lineage scores on each skill it was taught, where anyone asked."""

from collections.abc import Collection, Mapping, Sequence

from worker.evals.run import ArmName
from worker.evals.schema import LineageScore, SuiteReport

BASE = "base"


def retention_matrix(
    suites: Sequence[SuiteReport],
    past: Sequence[LineageScore],
    names: Mapping[ArmName, str],
    *,
    unjudged: Collection[str] = (),
    outside: Collection[str] = (),
) -> list[LineageScore]:
    """Put together what this report measured and what those of earlier versions did.

    Args:
        suites: Of this report, earlier skills nearest first.
        past: Scores from earlier reports, oldest version first.
        names: What arms are called as versions, where they have a name.
        unjudged: Suites of which too little could be judged for a score.
        outside: Arms that are of no version of the lineage.

    Returns:
        Cells by version, the base first, and by skill, oldest first; none where there is no earlier skill.
    """
    skills = skills_in_order(suites)
    if not any(suite.role == "earlier" for suite in skills):
        return []
    now = [
        LineageScore(version=names.get(one.arm, one.arm), suite=suite.name, score=one.score)
        for suite in skills
        if suite.n and suite.name not in unjudged
        for one in suite.arms
        if one.arm not in {"ceiling", *outside} and one.num_trained == 0
    ]
    cells = {(one.version, one.suite): one for one in [*past, *now]}
    versions = dict.fromkeys([BASE, *(one.version for one in past), *(one.version for one in now)])
    found = [cells.get((version, suite.name)) for version in versions for suite in skills]
    return [one for one in found if one]


def skills_in_order(suites: Sequence[SuiteReport]) -> list[SuiteReport]:
    """The suites that ask for what a lineage was taught, oldest first."""
    earlier = [suite for suite in reversed(suites) if suite.role == "earlier"]
    return [*earlier, *(suite for suite in suites if suite.role == "skill")]
