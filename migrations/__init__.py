"""Schema history, run by Alembic through ``app.db.migrate``."""
