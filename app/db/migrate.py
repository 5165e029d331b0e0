"""Brings a database to the current schema, and says whether it is there. The steps lie in ``migrations``.

The folder is found next to the ``app`` package, in a clone and in an installed wheel alike.
"""

import os
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

FOLDER = Path(__file__).parents[2] / "migrations"


def alembic_config(url: str) -> Config:
    """What Alembic's commands take. The URL goes around its ini syntax, where a ``%`` would be an error."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["url"] = url
    return config


def upgrade(url: str) -> None:
    """Apply what is missing. Safe to run from many processes at once: one works, the others wait."""
    command.upgrade(alembic_config(url), "head")


def is_at_head(engine: Engine) -> bool:
    """Whether the database has exactly the schema that this code was written for."""
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_heads()
    return set(current) == set(ScriptDirectory(str(FOLDER)).get_heads())


if __name__ == "__main__":
    upgrade(os.environ["SDFT_DATABASE__URL"])
