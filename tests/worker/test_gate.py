"""A version's gate is decided, kept and heeded in the transaction that publishes it."""

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.db.models import Adapter, AdapterVersion, Alias, AuditEntry, Evaluation, Job, JobEvent
from app.domain.errors import Conflict, NotFound, PreconditionFailed
from app.services import adapters, aliases, publishing, runs
from app.services.aliases import Expected, Move
from tests import factories
from tests.worker.stages import bounds, results, suite
from tests.worker.test_races import running_job, together

RULE = {"min_gain": 0.1, "max_forgetting": 0.1, "confidence": 0.95, "on_pass": "production"}
GOOD = (suite("skill", 0.5), suite("general", 0.0))
SHARES = {"base": 0.94, "candidate": 0.89}
BAD = (suite("skill", 0.5), suite("general", -0.5))


@pytest.fixture
def published(session: Session) -> Any:
    """Publishes one more version of one line."""
    project = factories.make_project(session)

    def publish(
        suites: Any, gate: dict[str, Any] | None = RULE, *, unjudged: Any = (), lineage: Any = (), parent: Any = None
    ) -> AdapterVersion:
        parent_id = parent and parent.id
        factories.make_job(session, project=project, adapter_name="home", gate=gate, parent_version_id=parent_id)
        claim = runs.claim_next(session, factories.make_worker(session).id, 60)
        assert claim
        return publishing.publish(session, claim, results(session, suites=suites, unjudged=unjudged, lineage=lineage))

    return publish


def decision(session: Session, version: AdapterVersion) -> Any:
    return session.scalar(select(Evaluation.gate).where(Evaluation.job_id == version.job_id))


def pointed_at(session: Session) -> dict[str, str]:
    return {alias.name: alias.version_id for alias in session.scalars(select(Alias))}


def told(session: Session, version: AdapterVersion) -> list[tuple[str, str]]:
    events = select(JobEvent).where(JobEvent.job_id == version.job_id).order_by(JobEvent.seq)
    return [(event.level, event.message) for event in session.scalars(events) if "ttempt" not in event.message]


def test_a_version_that_passes_takes_the_alias(session: Session, published: Any) -> None:
    first = published(GOOD)
    second = published(GOOD, parent=first)
    assert decision(session, second)["verdict"] == "pass"
    assert [(one["question"], one["value"]) for one in decision(session, second)["criteria"]] == [
        ("gain", 0.5),
        ("forgetting", 0.0),
        ("lost", 0.0),
    ]
    assert pointed_at(session) == {"production": second.id}
    entries = session.scalars(select(AuditEntry).order_by(AuditEntry.created_at)).all()
    assert [(one.actor, one.subject, one.details["from_version"], one.details["to_version"]) for one in entries] == [
        (first.job_id, "home@production", None, 1),
        (second.job_id, "home@production", 1, 2),
    ]
    (gate_level, gate), (_, moved), *_ = told(session, second)
    assert gate_level == "info"
    assert gate.startswith("Gate: pass. skill: gain +0.500 (+0.451 to +0.549)")
    assert moved == "home@production points at version 2 now."


def test_a_version_that_passes_takes_no_alias_from_one_that_it_does_not_go_on_from(
    session: Session, published: Any
) -> None:
    """Fault caught: a version of two skills replaced by one that was trained from the base and has neither."""
    first = published(GOOD)
    second = published(BAD, parent=first)
    third = published(GOOD, parent=second)
    assert pointed_at(session) == {"production": third.id}  # past one that failed
    other = published(GOOD)
    assert decision(session, other)["verdict"] == "pass"
    assert pointed_at(session) == {"production": third.id}
    level, message = told(session, other)[1]
    assert level == "warn"
    assert message.startswith("home@production stays at version 3: version 4 does not go on from it")


def test_a_version_that_fails_is_published_and_takes_no_alias(session: Session, published: Any) -> None:
    good, bad = published(GOOD), published(BAD)
    assert session.get_one(Job, bad.job_id).status == "succeeded"
    assert decision(session, bad)["verdict"] == "fail"
    assert pointed_at(session) == {"production": good.id}
    assert told(session, bad)[0][0] == "warn"
    assert told(session, bad)[0][1].startswith("Gate: fail.")


def test_a_report_that_shows_nothing_moves_nothing(session: Session, published: Any) -> None:
    version = published(())
    assert decision(session, version)["verdict"] == "insufficient_evidence"
    assert pointed_at(session) == {}


def test_a_suite_that_could_not_be_judged_moves_nothing(session: Session, published: Any) -> None:
    version = published(GOOD, unjudged=[{"suite": "lm_eval:quiz", "role": "client", "sentence": "It broke."}])
    assert decision(session, version)["verdict"] == "insufficient_evidence"
    assert pointed_at(session) == {}
    assert told(session, version)[0][1].endswith("It broke.")


def test_an_earlier_skill_that_fell_little_by_little_moves_nothing(session: Session, published: Any) -> None:
    asked = suite("earlier", -0.05)
    scores = [{"arm": arm, "num_right": round(400 * share), "score": bounds(share)} for arm, share in SHARES.items()]
    best = {"version": "home:1", "suite": "earlier", "score": bounds(1.0)}
    version = published((*GOOD, asked | {"arms": scores}), lineage=[best])
    doubts = [one for one in decision(session, version)["criteria"] if one["verdict"] != "pass"]
    assert [(one["against"], one["value"], one["verdict"]) for one in doubts] == [
        ("home:1", pytest.approx(0.11), "insufficient_evidence")
    ]
    assert pointed_at(session) == {}


def test_a_gate_without_an_alias_only_judges(session: Session, published: Any) -> None:
    version = published(GOOD, RULE | {"on_pass": None})
    assert decision(session, version)["verdict"] == "pass"
    assert pointed_at(session) == {}


def test_without_a_gate_nothing_is_decided(session: Session, published: Any) -> None:
    version = published(GOOD, None)
    assert decision(session, version) is None
    assert pointed_at(session) == {}


def versions_that_passed(sessions: sessionmaker[Session], number: int) -> tuple[str, str]:
    """A line with some versions; its project and name."""
    with sessions.begin() as session:
        project = factories.make_project(session)
    for _ in range(number):
        claim = running_job(sessions, project=project, adapter_name="home", gate=RULE | {"on_pass": None})
        with sessions.begin() as session:
            publishing.publish(session, claim, results(session, suites=GOOD))
    return project.id, "home"


def test_of_many_who_saw_the_same_alias_one_moves_it(committed_sessions: sessionmaker[Session]) -> None:
    project_id, name = versions_that_passed(committed_sessions, 8)
    with committed_sessions.begin() as session:
        seen = aliases.move(
            session, project_id, name, "production", Move(1), expected=Expected(), actor="key-1"
        ).moved.id

    def move(number: int) -> bool:
        try:
            with committed_sessions.begin() as session:
                expected = Expected(tags={seen})
                aliases.move(session, project_id, name, "production", Move(number), expected=expected, actor="key-1")
        except PreconditionFailed:
            return False
        return True

    assert together(*[lambda number=number: move(number) for number in range(2, 9)]).count(True) == 1


def test_many_who_make_the_same_alias_all_move_it(committed_sessions: sessionmaker[Session]) -> None:
    project_id, name = versions_that_passed(committed_sessions, 6)

    def move(number: int) -> None:
        with committed_sessions.begin() as session:
            aliases.move(session, project_id, name, "production", Move(number), expected=Expected(), actor="key-1")

    together(*[lambda number=number: move(number) for number in range(1, 7)])
    with committed_sessions.begin() as session:
        entries = session.scalars(select(AuditEntry).order_by(AuditEntry.created_at)).all()
        befores = [entry.details["from_version"] for entry in entries]
        afters = [entry.details["to_version"] for entry in entries]
        assert befores == [None, *afters[:-1]]  # one after the other, none from a place it had left
        [alias] = session.scalars(select(Alias)).all()
        assert session.get_one(AdapterVersion, alias.version_id).version == afters[-1]


def test_an_alias_never_points_at_a_version_that_was_deleted_meanwhile(
    committed_sessions: sessionmaker[Session],
) -> None:
    for _ in range(15):
        project_id, name = versions_that_passed(committed_sessions, 1)
        with committed_sessions.begin() as session:
            model_id = session.scalars(
                select(AdapterVersion.model_id).join(Adapter).where(Adapter.project_id == project_id)
            ).one()

        def move(project_id: str = project_id, name: str = name) -> bool:
            try:
                with committed_sessions.begin() as session:
                    aliases.move(session, project_id, name, "production", Move(1), expected=Expected(), actor="key-1")
            except NotFound:
                return False
            return True

        def delete(project_id: str = project_id, model_id: str = model_id) -> bool:
            try:
                with committed_sessions.begin() as session:
                    adapters.delete_model(session, project_id, model_id)
            except Conflict:
                return False
            return True

        moved, deleted = together(move, delete)
        assert moved != deleted


@pytest.fixture(autouse=True)
def _base_model(request: pytest.FixtureRequest) -> None:
    """Made once: threads would race to make it."""
    if "committed_sessions" in request.fixturenames:
        with request.getfixturevalue("committed_sessions").begin() as session:
            factories.make_base_model(session)
