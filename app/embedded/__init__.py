"""Postgres and Valkey out of wheels, so that neither ``sdft up`` nor a test needs apt, Docker or root.

Knows nothing of the service: it starts two real servers below a folder, on unix sockets only, and ends them. What a
``kill -9`` leaves running is found and ended by the next start; see docs/decisions/0002-embedded-servers.md.
"""

from app.embedded.postgres import start_postgres
from app.embedded.processes import ProcessFailed, Server
from app.embedded.valkey import start_valkey

__all__ = ["ProcessFailed", "Server", "start_postgres", "start_valkey"]
