"""Whether the process lives, and whether it can do its work. Open to everyone; says nothing of the inside."""

from collections.abc import Callable
from typing import Literal

import anyio
import anyio.to_thread
import structlog
from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import JSONResponse

from app.api.dependencies import ResourcesDep
from app.db.migrate import is_at_head
from app.resources import Resources
from app.services.workers import count_live

log = structlog.get_logger()
router = APIRouter(tags=["health"])

_PATIENCE_SECONDS = 1.5
_CAN_WAIT = ("broker", "workers")
Outcome = Literal["ok", "failed", "warning"]


class Health(BaseModel):
    """That the process answers."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """What the process needs, one by one.

    Without the broker jobs are still taken: a sweeper rings later. Without a worker they wait.
    """

    status: Literal["ready", "not_ready"]
    checks: dict[str, Outcome]


@router.get("/healthz")
@router.head("/healthz", include_in_schema=False)  # what many uptime probes ask by
async def healthz() -> Health:
    """Touches nothing."""
    return Health(status="ok")


@router.get("/readyz", response_model=Readiness)
@router.head("/readyz", include_in_schema=False)
async def readyz(resources: ResourcesDep) -> JSONResponse:
    """Asks the database, the store and the broker, all at once and none for long, and whether any worker lives."""
    probes = _probes(resources)
    checks: dict[str, Outcome] = dict.fromkeys(probes, "failed")

    async def check(name: str) -> None:
        with anyio.move_on_after(_PATIENCE_SECONDS):
            if await anyio.to_thread.run_sync(_passes, name, probes[name], abandon_on_cancel=True):
                checks[name] = "ok"

    async with anyio.create_task_group() as group:
        for name in probes:
            group.start_soon(check, name)
    for name in _CAN_WAIT:
        if checks[name] == "failed":
            checks[name] = "warning"
    is_ready = "failed" not in checks.values()
    body = Readiness(status="ready" if is_ready else "not_ready", checks=checks)
    return JSONResponse(body.model_dump(), status_code=200 if is_ready else 503)


def _probes(resources: Resources) -> dict[str, Callable[[], object]]:
    engine = resources.sessions.kw["bind"]
    return {
        "database": lambda: engine.connect().close(),
        "schema": lambda: is_at_head(engine),
        "store": resources.store.check,
        "broker": resources.broker.ping,
        "workers": lambda: _any_worker(resources),
    }


def _any_worker(resources: Resources) -> bool:
    with resources.sessions() as session:
        return count_live(session) > 0


def _passes(name: str, probe: Callable[[], object]) -> bool:
    """A probe fails by raising, whatever it raises, or by answering no."""
    try:
        return probe() is not False
    except Exception:
        log.warning("not_ready", check=name, exc_info=True)
        return False
