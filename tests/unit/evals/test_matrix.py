"""The retention matrix is in the order of time and says nothing of what nobody asked."""

from tests.unit.evals.reports import lineage, report, suite
from worker.evals.matrix import retention_matrix
from worker.evals.schema import LineageScore, Report, SuiteReport

PAST = [
    LineageScore.model_validate({"version": version, "suite": skill, "score": {"value": value, "low": 0, "high": 1}})
    for version, skill, value in (
        ("base", "home:1", 0.0),
        ("home:1", "home:1", 0.9),
        ("home:1", "home:2", 0.2),
        ("home:2", "home:1", 0.7),
        ("home:2", "home:2", 0.8),
    )
]


def third() -> list[SuiteReport]:
    """Of a third version: earlier skills come nearest first."""
    return report(
        suite("skill", "base", "parent", "candidate", "ceiling", name="route"),
        suite("earlier", "parent", "candidate", name="home:2"),
        suite("earlier", "parent", "candidate", name="home:1"),
        suite("general", "base", "parent", "candidate"),
    ).suites


def test_past_and_present_make_one_table_oldest_first() -> None:
    cells = [
        (one.version, one.suite, round(one.score.value, 3))
        for one in retention_matrix(third(), PAST, {"parent": "home:2"})
    ]
    assert cells == [
        ("base", "home:1", 0.0),
        ("base", "route", 0.1),
        ("home:1", "home:1", 0.9),
        ("home:1", "home:2", 0.2),
        # What the starting point scored now goes before what it scored then.
        ("home:2", "home:1", 0.1),
        ("home:2", "home:2", 0.1),
        ("home:2", "route", 0.2),
        ("candidate", "home:1", 0.2),
        ("candidate", "home:2", 0.2),
        ("candidate", "route", 0.3),
    ]


def test_a_skill_that_is_not_asked_now_has_no_column() -> None:
    suites = [one for one in third() if one.name != "home:1"]
    assert {one.suite for one in retention_matrix(suites, PAST, {"parent": "home:2"})} == {"home:2", "route"}


def test_a_skill_that_could_not_be_judged_has_no_score_now() -> None:
    """Fault caught: nothing right of nothing asked was a score of 0, the worst of the column."""
    nothing = [one.model_copy(update={"n": 0}) if one.name == "home:1" else one for one in third()]
    for suites, unjudged in ((nothing, ()), (third(), {"home:1"})):
        found = retention_matrix(suites, PAST, {"parent": "home:2"}, unjudged=unjudged)
        assert {one.version for one in found if one.suite == "home:1"} == {"base", "home:1", "home:2"}
        [before] = [one.score.value for one in found if (one.version, one.suite) == ("home:2", "home:1")]
        assert before == 0.7


def test_without_an_earlier_skill_there_is_none() -> None:
    first = report(suite("skill", "base", "candidate"), suite("general", "base", "candidate"))
    assert retention_matrix(first.suites, PAST, {}) == []


def test_a_report_with_one_can_be_read_again() -> None:
    made = report(
        suite("skill", "base", "parent", "candidate"),
        suite("earlier", "parent", "candidate", name="home:1"),
        lineage=lineage(),
    )
    assert Report.model_validate_json(made.model_dump_json()) == made
