"""``python -m app.cli`` is ``sdft``."""

from app.cli import main

main()
