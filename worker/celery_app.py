"""The Celery worker: how it is configured, and what its main process does at its start and end.

``celery -A worker.celery_app worker --concurrency=1``, one worker a device. This is where the worker reads settings.
"""

import os
import socket
from functools import cache
from typing import Any

from celery import Celery
from celery.signals import setup_logging, worker_init, worker_shutdown, worker_shutting_down

from app.dispatch import celery_settings
from app.domain.ids import new_id
from app.domain.lifecycle import MAX_JOB_SECONDS
from app.logs import configure_logging
from app.resources import open_resources
from app.services.workers import WorkerProcess
from app.settings import Settings
from worker.attempt import Slot
from worker.cores import usable_cores
from worker.home import OwnedHome, WorkerHome
from worker.launcher import TRAINER
from worker.seat import Seat
from worker.sweeper import POOL_SIZE, Sweeper

SLOT_POOL_SIZE = 2
"""The attempt's own loop and its lease keeper."""
BACKSTOP_SECONDS = 15 * 60
"""Celery's own limit strikes so much later than the attempt's, should a supervisor hang."""

settings = Settings()

app = Celery("sdft", include=["worker.tasks"])
app.conf.update(
    celery_settings(settings.broker.url.get_secret_value(), key_prefix=settings.broker.key_prefix),
    worker_pool="prefork",  # the only pool with time limits
    worker_pool_start_method="spawn",  # the sweeper is a thread: a fork could copy a lock that it holds
    worker_concurrency=1,
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,  # or a short job waits behind a long one while another worker is idle
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_send_task_events=False,
    worker_soft_shutdown_timeout=0,
    task_acks_late=False,  # the lease recovers a lost attempt; a repeated message would only repeat a crash
    task_reject_on_worker_lost=False,
    task_time_limit=max(settings.limits.job_seconds, MAX_JOB_SECONDS) + BACKSTOP_SECONDS,
)


@cache
def slot() -> Slot:
    """Where the attempts of this pool process run; opened on first use, never in the main process."""
    home, times = WorkerHome.of_parent(), settings.worker
    return Slot(
        resources=open_resources(settings, pool_size=SLOT_POOL_SIZE),
        home=home,
        times=times,
        max_seconds=settings.limits.job_seconds,
        num_threads=times.threads or usable_cores(),
        seat=Seat(TRAINER, home.folder, times),
    )


def worker_process(worker_id: str, pid: int) -> WorkerProcess:
    """How this worker reports itself."""
    return WorkerProcess(worker_id, socket.gethostname(), pid, settings.worker.device)


@setup_logging.connect  # type: ignore[untyped-decorator]
def _configure_logging(**_: Any) -> None:
    configure_logging(settings.log_format)


@worker_init.connect  # type: ignore[untyped-decorator]
def _open(**_: Any) -> None:
    home = OwnedHome(settings.storage.work, new_id("worker"))
    resources = open_resources(settings, pool_size=POOL_SIZE)
    sweeper = Sweeper(resources, worker_process(home.worker_id, os.getpid()), home, settings.worker)
    sweeper.start()

    def drain(**_: Any) -> None:
        home.drain()

    def close(**_: Any) -> None:
        sweeper.stop()
        resources.close()
        home.close()

    worker_shutting_down.connect(drain, weak=False)
    worker_shutdown.connect(close, weak=False)
