"""The schema's history: raced, undone and done again, and the same as the models."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Engine, create_engine, inspect
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from app.db.migrate import alembic_config, is_at_head, upgrade
from app.db.models import Base, Job
from app.domain.lifecycle import FAILURE_CODES, PHASES, STATUSES
from tests import factories

RACERS = 6


@pytest.fixture
def empty_database(postgres_url: str) -> Iterator[str]:
    server = create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with server.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE fresh")
    yield postgres_url.replace("/postgres?", "/fresh?")
    with server.connect() as connection:
        connection.exec_driver_sql("DROP DATABASE fresh WITH (FORCE)")


@pytest.fixture
def engine(empty_database: str) -> Engine:
    return create_engine(empty_database, poolclass=NullPool)


def test_upgrades_that_race_all_succeed(empty_database: str, engine: Engine) -> None:
    code = f"from app.db.migrate import upgrade; upgrade({empty_database!r})"
    root = Path(__file__).parents[2]
    racers = [subprocess.Popen([sys.executable, "-c", code], cwd=root, stderr=subprocess.PIPE) for _ in range(RACERS)]
    errors = [racer.communicate()[1].decode() for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * RACERS, errors
    assert is_at_head(engine)


def test_up_down_and_up_again_with_the_models_as_the_end(empty_database: str, engine: Engine) -> None:
    config = alembic_config(empty_database)
    assert not is_at_head(engine)
    upgrade(empty_database)
    assert is_at_head(engine)
    command.check(config)
    command.downgrade(config, "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    assert not is_at_head(engine)
    upgrade(empty_database)
    command.check(config)
    assert set(inspect(engine).get_table_names()) == {*Base.metadata.tables, "alembic_version"}


def test_jobs_of_the_release_that_guided_rollouts_can_still_be_read(empty_database: str, engine: Engine) -> None:
    """Fault caught: queued jobs, and evaluations of versions that such jobs made, that end with an internal error."""
    config = alembic_config(empty_database)
    upgrade(empty_database)
    with Session(engine) as session:
        job_id = factories.make_job(session, hyperparameters={"n_epochs": "auto"}, resolved={"seed": 1}).id
        session.commit()
    command.downgrade(config, "0009")
    add = """UPDATE jobs SET hyperparameters = hyperparameters || '{"guided_share": "auto"}',
        resolved = resolved || '{"guided_share": 0.0}'"""
    with engine.begin() as connection:
        connection.exec_driver_sql(add)
    upgrade(empty_database)
    with Session(engine) as session:
        job = session.get_one(Job, job_id)
        assert (job.hyperparameters, job.resolved) == ({"n_epochs": "auto"}, {"seed": 1})


@pytest.mark.parametrize(("column", "known"), [("error_code", FAILURE_CODES), ("phase", PHASES), ("status", STATUSES)])
def test_a_job_may_be_in_every_state_that_the_code_knows(
    empty_database: str, engine: Engine, column: str, known: tuple[str, ...]
) -> None:
    upgrade(empty_database)
    query = f"SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'ck_jobs_{column}'"
    with engine.connect() as connection:
        allowed = connection.exec_driver_sql(query).scalar_one()
    assert set(re.findall(r"'(\w+)'", allowed)) == set(known)
