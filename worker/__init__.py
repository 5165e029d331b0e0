"""The training side. Never imports FastAPI or ``app.api``."""
