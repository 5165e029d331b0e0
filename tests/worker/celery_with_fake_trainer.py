"""The worker's Celery app with the fake trainer. Loaded by the main process and, as an included module, by its pool."""

import os

from app.services import runs
from tests.worker.conftest import fake_trainer
from worker import celery_app
from worker.celery_app import app

runs.RETRY_SECONDS = float(os.environ.get("TEST_RETRY_SECONDS", "0.1"))
celery_app.TRAINER = fake_trainer(celery_app.settings.storage.work)
app.conf.include = ["worker.tasks", "tests.worker.celery_with_fake_trainer"]
