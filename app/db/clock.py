"""The one clock that leases, waits and ages are measured by: the database's, the same for every process."""

from sqlalchemy import DateTime, func

NOW = func.clock_timestamp(type_=DateTime(timezone=True))
"""This moment, also in the middle of a transaction."""
