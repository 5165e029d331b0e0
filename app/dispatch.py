"""The doorbell. Task names and broker options live here once, for the API that rings and the worker that answers.

A message carries a job id and means "look at the queue". Losing, doubling or forging one must not matter: the job
is its row, and a worker's sweeper rings again for queued rows that nobody claimed.
"""

from typing import Any

from celery import Celery

TRAIN_TASK = "sdft.train"
TRAIN_QUEUE = "train"


WORKER_TIMEOUT_SECONDS = 5
RING_TIMEOUT_SECONDS = 1
"""A client waits for its answer meanwhile, and the sweeper rings again anyway."""


def celery_settings(url: str, *, key_prefix: str, timeout_seconds: float = WORKER_TIMEOUT_SECONDS) -> dict[str, Any]:
    """Client settings shared by both sides; the worker adds its own in ``worker.celery_app``."""
    return {
        "broker_url": url,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "visibility_timeout": 3600,
            "socket_timeout": timeout_seconds,
            "socket_connect_timeout": timeout_seconds,
            "socket_keepalive": True,
            "health_check_interval": 25,
            "global_keyprefix": key_prefix,
        },
        "task_default_queue": TRAIN_QUEUE,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "task_publish_retry_policy": {"max_retries": 0},  # without a policy kombu tries for ever
        "worker_enable_remote_control": False,
    }


class Broker:
    """A Celery client that can only ring.

    Args:
        url: Redis or Valkey URL.
        key_prefix: Keeps a shared broker's keys apart.
    """

    def __init__(self, url: str, *, key_prefix: str) -> None:
        self._celery = Celery("sdft", set_as_current=False)
        self._celery.conf.update(celery_settings(url, key_prefix=key_prefix, timeout_seconds=RING_TIMEOUT_SECONDS))

    def ring(self, job_id: str) -> None:
        """Tell some worker that a job may be waiting.

        Raises:
            kombu.exceptions.OperationalError: The broker did not take the message within seconds.
        """
        self._celery.send_task(TRAIN_TASK, args=[job_id], queue=TRAIN_QUEUE)

    def ping(self) -> None:
        """Raise if the broker cannot be reached."""
        with self._celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)

    def close(self) -> None:
        """Close pooled connections."""
        self._celery.close()
