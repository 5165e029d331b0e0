"""The API process: ``uvicorn --factory app.main:create_app``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import Depends, FastAPI

from app.api import adapters, aliases, evaluations, files, health, jobs, models
from app.api.admission import Admission
from app.api.dependencies import refuse_unknown_query
from app.api.docs import serve_docs
from app.api.problems import handle_errors
from app.api.schemas.common import Problem
from app.logs import configure_logging
from app.resources import Resources, open_resources
from app.settings import Settings

ROUTERS = (
    files.router,
    jobs.router,
    models.router,
    adapters.router,
    aliases.router,
    evaluations.router,
    health.router,
)


def create_app(settings: Settings | None = None, *, resources: Resources | None = None) -> FastAPI:
    """The application.

    Args:
        settings: From the environment if not given.
        resources: Opened from the settings, and closed at the end, if not given.
    """
    settings = settings or Settings()
    if resources is None:
        configure_logging(settings.log_format)
    held = resources or open_resources(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.openapi()  # made and kept now, as the first errors read it
        yield
        if resources is None:
            held.close()

    app = FastAPI(
        title="SDFT service",
        summary="Self-distillation fine-tuning: demonstrations in, versioned LoRA adapters and evidence out.",
        version=version("sdft-service"),
        lifespan=lifespan,
        dependencies=[Depends(refuse_unknown_query)],
        responses={"4XX": {"model": Problem}, "5XX": {"model": Problem}},
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.settings, app.state.resources = settings, held
    for router in ROUTERS:
        app.include_router(router)
    if settings.docs:
        serve_docs(app)
    handle_errors(app)
    app.add_middleware(Admission)
    return app
