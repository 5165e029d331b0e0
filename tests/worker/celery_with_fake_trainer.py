"""The worker's Celery app with the fake trainer. Loaded by the main process and, as an included module, by its pool."""

import functools
import os
import sys
from pathlib import Path

from app.services import runs
from worker import tasks
from worker.attempt import run_attempt
from worker.celery_app import app

FAKE_TRAINER = (sys.executable, str(Path(__file__).with_name("fake_trainer.py")))

runs.RETRY_SECONDS = float(os.environ.get("TEST_RETRY_SECONDS", "0.1"))
tasks.run_attempt = functools.partial(run_attempt, command=FAKE_TRAINER)
app.conf.include = ["worker.tasks", "tests.worker.celery_with_fake_trainer"]
