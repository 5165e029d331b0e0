"""What an adapter was taught and still knows, put together from the reports of its versions."""

import pytest

from app.db.clock import NOW
from app.services.lineage import ancestors, past_scores
from tests import factories
from tests.service.conftest import error_of


def suite(name, role, *, measure="share_right", **scores):
    arms = [
        {"arm": arm, "score": {"value": score, "low": score - 0.1, "high": score + 0.1}}
        for arm, score in scores.items()
    ]
    return {"name": name, "role": role, "measure": measure, "n": 40, "arms": arms}


GENERAL = suite("general ability", "general", base=0.9, candidate=0.9)


@pytest.fixture
def line(session, project, base):
    """Publishes versions of one line, each from the one before unless told otherwise."""
    versions = []

    def publish(*suites, report_unjudged=(), **values):
        parent = versions[-1] if versions else None
        version = factories.make_version(
            session,
            project=project,
            adapter=parent and session.get_one(factories.models.Adapter, parent.adapter_id),
            job=factories.make_job(session, "succeeded", project=project, adapter_name="home"),
            **{
                "version": len(versions) + 1,
                "parent_version_id": parent and parent.id,
                "report": {
                    "suites": [GENERAL, *suites],
                    "unjudged": [{"suite": name} for name in report_unjudged],
                },
            }
            | values,
        )
        session.commit()
        versions.append(version)
        return version

    return publish


def three_skills(line):
    return [
        line(suite("home", "skill", base=0.0, candidate=0.9, ceiling=1.0)),
        line(
            suite("home", "skill", base=0.1, parent=0.2, candidate=0.8, ceiling=1.0),
            suite("home:1", "earlier", parent=0.9, candidate=0.7),
        ),
        line(
            suite("home", "skill", base=0.2, parent=0.1, candidate=0.9, ceiling=1.0),
            suite("home:2", "earlier", parent=0.8, candidate=0.5),
            suite("home:1", "earlier", parent=0.7, candidate=0.8),
        ),
    ]


def scores_of(lineage):
    return [[cell and cell["score"] for cell in row] for row in lineage["scores"]]


def test_a_suite_of_which_nothing_could_be_judged_has_no_cell(http, line):
    line(suite("home", "skill", base=0.0, candidate=0.9))
    line(
        suite("home", "skill", base=0.1, parent=0.2, candidate=0.8),
        suite("home:1", "earlier", parent=0.0, candidate=0.0) | {"n": 0},
    )
    line(
        suite("home", "skill", base=0.1, parent=0.2, candidate=0.8),
        suite("home:1", "earlier", parent=0.5, candidate=0.5),
        report_unjudged=["home:1"],
    )
    lineage = http.get("/v1/adapters/home/lineage").json()
    assert [row[0] for row in scores_of(lineage)] == [0.9, None, None]


@pytest.mark.parametrize("num_trained", [3, None])
def test_a_score_on_what_a_version_was_trained_on_or_may_have_been_is_no_cell(http, line, num_trained):
    """Two versions from the base on one file, parted by other seeds, know most of each other's questions."""
    line(suite("home", "skill", base=0.0, candidate=0.9))
    seen = suite("home:1", "other", base=0.0, candidate=1.0)
    seen["arms"][1]["num_trained"] = num_trained
    line(suite("home", "skill", base=0.1, candidate=0.8), seen, parent_version_id=None)
    assert scores_of(http.get("/v1/adapters/home/lineage").json()) == [[0.9, None], [None, 0.8]]


def test_three_skills_give_a_matrix_that_is_full_up_to_its_diagonal(http, line):
    versions = three_skills(line)
    lineage = http.get("/v1/adapters/home/lineage").json()
    assert [(row["version"], row["parent"]) for row in lineage["versions"]] == [(1, None), (2, "home:1"), (3, "home:2")]
    assert [row["job_id"] for row in lineage["versions"]] == [version.job_id for version in versions]
    assert [(column["adapter"], column["version"], column["n"]) for column in lineage["suites"]] == [
        ("home", 1, 40),
        ("home", 2, 40),
        ("home", 3, 40),
    ]
    # Above it: what a version made of the next skill before that was taught, and nothing of the one after.
    assert scores_of(lineage) == [[0.9, 0.2, None], [0.7, 0.8, 0.1], [0.8, 0.5, 0.9]]
    assert [cell["score"] for cell in lineage["base"]] == [0.0, 0.1, 0.2]
    corner = lineage["scores"][2][0]
    assert (corner["low"], corner["high"]) == (pytest.approx(0.7), pytest.approx(0.9))
    assert corner["evaluation_id"] == lineage["versions"][2]["evaluation_id"]
    figures = lineage["figures"]
    assert (figures["of"], figures["measure"]) == ("home:3", "share_right")
    assert figures["average_accuracy"] == pytest.approx((0.8 + 0.5 + 0.9) / 3)
    assert figures["backward_transfer"] == pytest.approx(-0.2)
    assert figures["forgetting"] == pytest.approx(0.2)
    assert figures["forward_transfer"] == pytest.approx(0.0)


def test_a_versions_own_report_goes_before_what_it_scored_as_a_starting_point(http, line):
    line(suite("home", "skill", base=0.0, candidate=0.9))
    line(suite("home", "skill", candidate=0.8), suite("home:1", "earlier", parent=0.6, candidate=0.7))
    assert scores_of(http.get("/v1/adapters/home/lineage").json())[0][0] == 0.9


def test_ancestors_of_another_line_are_rows_and_columns_too(http, session, project, line):
    first = line(suite("home", "skill", base=0.0, candidate=0.9))
    factories.make_version(
        session,
        project=project,
        job=factories.make_job(session, "succeeded", project=project, adapter_name="route"),
        parent_version_id=first.id,
        report={"suites": [suite("route", "skill", candidate=0.8), suite("home:1", "earlier", candidate=0.4)]},
    )
    session.commit()
    route = http.get("/v1/adapters/route/lineage").json()
    assert [f"{row['adapter']}:{row['version']}" for row in route["versions"]] == ["home:1", "route:1"]
    assert scores_of(route) == [[0.9, None], [0.4, 0.8]]
    assert route["figures"]["forgetting"] == pytest.approx(0.5)
    home = http.get("/v1/adapters/home/lineage").json()
    assert [f"{row['adapter']}:{row['version']}" for row in home["versions"]] == ["home:1"]


def test_figures_go_along_the_latest_versions_own_ancestors_only(http, session, line):
    first, *_ = three_skills(line)
    line(
        suite("home", "skill", parent=0.3, candidate=0.9),
        suite("home:1", "earlier", candidate=0.9),
        parent_version_id=first.id,
    )
    lineage = http.get("/v1/adapters/home/lineage").json()
    assert scores_of(lineage)[3] == [0.9, None, None, 0.9]
    assert lineage["figures"]["of"] == "home:4"
    assert lineage["figures"]["average_accuracy"] == pytest.approx(0.9)
    assert scores_of(lineage)[0][3] == 0.3


def test_a_deleted_version_keeps_its_scores_and_is_judged_no_more(http, session, line):
    versions = three_skills(line)
    versions[2].deleted_at = NOW
    session.commit()
    lineage = http.get("/v1/adapters/home/lineage").json()
    assert [row["deleted"] for row in lineage["versions"]] == [False, False, True]
    assert scores_of(lineage)[2] == [0.8, 0.5, 0.9]
    assert lineage["figures"]["of"] == "home:2"
    for version in versions[:2]:
        version.deleted_at = NOW
    session.commit()
    figures = http.get("/v1/adapters/home/lineage").json()["figures"]
    assert set(figures.values()) == {None}


def test_scores_of_different_kinds_are_not_averaged_and_figures_are_of_those_counted(http, line):
    line(suite("home", "skill", base=-2.0, candidate=-1.0, measure="negative_nll"))
    line(suite("home", "skill", candidate=0.8), suite("home:1", "earlier", candidate=-1.5, measure="negative_nll"))
    line(
        suite("home", "skill", base=-2.0, candidate=-1.0, measure="negative_nll"),
        suite("home:1", "earlier", candidate=-1.5, measure="negative_nll"),
        suite("home:2", "earlier", candidate=0.6),
    )
    lineage = http.get("/v1/adapters/home/lineage").json()
    assert scores_of(lineage) == [[-1.0, None, None], [-1.5, 0.8, None], [-1.5, 0.6, -1.0]]
    figures = lineage["figures"]
    assert (figures["of"], figures["measure"], figures["average_accuracy"]) == ("home:3", "share_right", 0.6)
    assert (figures["backward_transfer"], figures["forgetting"]) == (pytest.approx(-0.2), pytest.approx(0.2))
    assert figures["forward_transfer"] is None


def test_figures_of_free_text_alone_are_in_nats(http, line):
    line(suite("home", "skill", base=-2.0, candidate=-1.0, measure="negative_nll"))
    figures = http.get("/v1/adapters/home/lineage").json()["figures"]
    assert (figures["measure"], figures["average_accuracy"]) == ("negative_nll", -1.0)


def test_a_version_that_held_nothing_out_is_a_row_without_a_column(http, line):
    line(suite("home", "skill", candidate=0.9))
    line(suite("home:1", "earlier", candidate=0.6))
    lineage = http.get("/v1/adapters/home/lineage").json()
    assert scores_of(lineage) == [[0.9], [0.6]]
    assert lineage["figures"]["forgetting"] == pytest.approx(0.3)


def test_a_poller_that_has_the_lineage_is_not_sent_it_again(http, line):
    line(suite("home", "skill", candidate=0.9))
    tag = http.get("/v1/adapters/home/lineage").headers["etag"]
    assert http.get("/v1/adapters/home/lineage", headers={"If-None-Match": tag}).status_code == 304


def test_a_job_that_goes_on_is_told_what_the_lineage_scored(line, session):
    _, second, _ = three_skills(line)
    told = past_scores(session, ancestors(session, second.id)[::-1])
    # Of the third version and of its skill nothing: neither was there when the job began.
    assert [(one.version, one.skill, one.value) for one in told] == [
        ("base", "home:1", 0.0),
        ("base", "home:2", 0.1),
        ("home:1", "home:1", 0.9),
        ("home:1", "home:2", 0.2),
        ("home:2", "home:1", 0.7),
        ("home:2", "home:2", 0.8),
    ]
    assert (told[2].low, told[2].high) == (0.8, 1.0)


def test_an_adapter_that_is_not_there_has_no_lineage(http):
    error = error_of(http.get("/v1/adapters/nothing/lineage"), 404)
    assert error["code"] == "adapter_not_found"
    assert "list" in error["message"]
