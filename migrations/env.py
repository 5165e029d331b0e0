"""How Alembic reaches the database: one connection, one session lock, one transaction a revision.

The URL comes from ``app.db.migrate``, or from ``SDFT_DATABASE__URL`` when a developer runs ``alembic`` by hand.
"""

import os

from alembic import context
from sqlalchemy import NullPool, create_engine, text

from app.db.models import Base

LOCK_KEY = 0x5DF7
"""Any number, the same in every version: whoever holds it may change the schema."""


def run() -> None:
    """Run the asked-for migrations while no one else does."""
    url = context.config.attributes.get("url") or os.environ["SDFT_DATABASE__URL"]
    # Without a pool, closing the connection ends the session, and with it the lock, on every way out.
    with create_engine(url, poolclass=NullPool).connect() as connection:
        # The session's lock, not the transaction's: CREATE INDEX CONCURRENTLY has to run outside of one.
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": LOCK_KEY})
        connection.commit()
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            compare_server_default=True,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()


run()
