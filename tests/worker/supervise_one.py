"""One supervisor process without Celery: claims one job, sees one attempt through, says how it went.

``TEST_NO_FENCE`` takes the fence and the trust out, for the control run that must show what they are for.
``TEST_DIE`` names the point at which the process ends as by ``kill -9``.
"""

import os
import signal
import socket
import sys
import time
from dataclasses import replace

import structlog
from sqlalchemy import select

from app.db.models import Job
from app.db.session import make_sessions, transaction
from app.domain.ids import new_id
from app.logs import configure_logging
from app.resources import open_resources
from app.services import publishing, records, runs, workers
from app.settings import Settings
from tests.worker.conftest import fake_trainer
from worker import attempt
from worker.attempt import Slot, run_attempt
from worker.home import OwnedHome
from worker.lease import LeaseKeeper
from worker.seat import Seat

if os.environ.get("TEST_NO_FENCE"):

    def unfenced(session, claim):
        return session.scalars(select(Job).where(Job.id == claim.job_id).with_for_update()).one()

    for module in (runs, records, publishing):
        module.held = unfenced
    LeaseKeeper.trusted = True


def die(*_arguments, **_named):
    os.kill(os.getpid(), signal.SIGKILL)


publish = publishing.publish
match os.environ.get("TEST_DIE"):
    case "after the claim":
        attempt.prepare = die
    case "with a stored checkpoint that no row names":
        records.record_checkpoint = die
    case "with stored results that no row names":
        publishing.publish = die
    case "in the publishing transaction":
        publishing.publish = lambda *arguments: die(publish(*arguments))
    case "after the publishing commit":
        attempt.shutil.rmtree = die

settings = Settings()
configure_logging(settings.log_format)
home = OwnedHome(settings.storage.work, new_id("worker"))
url = settings.database.url.get_secret_value()
# A short timeout: a test may freeze this process while it holds a row.
sessions = make_sessions(url, pool_size=2, statement_timeout_seconds=2)
resources = replace(open_resources(settings), sessions=sessions)
seat = Seat(fake_trainer(settings.storage.work), home.folder, settings.worker)
slot = Slot(resources, home, settings.worker, max_seconds=3600, num_threads=1, seat=seat)
claimed_at = time.monotonic()
with transaction(resources.sessions) as session:
    workers.report(
        session, workers.WorkerProcess(home.worker_id, socket.gethostname(), os.getpid(), "cpu"), draining=False
    )
    claim = runs.claim_next(session, home.worker_id, settings.worker.lease_seconds)
if claim is None:
    sys.exit("nothing to claim")
with structlog.contextvars.bound_contextvars(job_id=claim.job_id, attempt=claim.fence):
    run_attempt(slot, claim, claimed_at=claimed_at)
home.close()
