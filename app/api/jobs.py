"""``/v1/fine_tuning/jobs``: post, follow and cancel jobs."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy.orm import Session

from app.api.bodies import StrictRoute, answered
from app.api.dependencies import BodyDigestDep, CallerDep, ResourcesDep, SendingDep, SessionDep, pages
from app.api.downloads import revalidated
from app.api.schemas.common import ListObject
from app.api.schemas.estimates import EstimateObject
from app.api.schemas.job_requests import CreateJob
from app.api.schemas.jobs import CheckpointObject, EventObject, JobObject
from app.db.models import Job
from app.db.session import transaction
from app.domain.errors import Invalid
from app.services import configs, estimates, idempotency, jobs
from app.services.pages import Page, PageRequest
from app.services.standings import standings

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], route_class=StrictRoute)

JobsPage = Annotated[PageRequest, Depends(pages(default=20, maximum=100))]
CheckpointsPage = Annotated[PageRequest, Depends(pages(default=10, maximum=100))]


def read_metadata(
    request: Request,
    metadata: Annotated[str | None, Query(description="`metadata[key]=value`, or `metadata=null` for none.")] = None,
) -> Mapping[str, str] | None:
    """Pairs that the listed jobs must have; null for jobs without metadata.

    Raises:
        Invalid: It is written in another way.
    """
    pairs = {name: value for name, value in request.query_params.items() if name.startswith("metadata")}
    if metadata == "null" and len(pairs) == 1:
        return None
    if any(not (name.startswith("metadata[") and name.endswith("]")) for name in pairs):
        message = "Filter with metadata[key]=value, or with metadata=null for jobs without metadata."
        raise Invalid("invalid_value", message, param="metadata")
    return {name[len("metadata[") : -1]: value for name, value in pairs.items()}


@router.post("", response_model=JobObject)
def create_job(
    *,
    body: CreateJob,
    resources: ResourcesDep,
    caller: CallerDep,
    sending: SendingDep,
    body_sha256: BodyDigestDep,
) -> Response:
    """Queue a job. With the same Idempotency-Key, or as the OpenAI client's own retry, it is queued once.

    Its files are read between two short transactions; the second looks again whether all that it names is there.
    """
    store = resources.store

    def stands(job_id: str) -> bool:
        return jobs.get(session, caller.project_id, job_id).cancel_requested_at is None

    with transaction(resources.sessions) as session:
        if answer := idempotency.first_answer(session, sending, body_sha256, stands=stands):
            return answered(answer)
        asked = body.understood()
        checked = jobs.check(session, store, caller.project_id, asked)
    jobs.check_lengths(store, checked)
    configs.check(store, asked, checked)
    with transaction(resources.sessions) as session:

        def act() -> dict[str, Any]:
            job = jobs.create(session, store, resources.broker, caller.project_id, asked)
            return _shown(session, job).model_dump(mode="json")

        return answered(idempotency.answer_once(session, sending, body_sha256, act, stands=stands))


@router.post("/estimate")
def estimate_job(body: CreateJob, resources: ResourcesDep, caller: CallerDep) -> EstimateObject:
    """What a job would take: the same body, the same errors, and nothing is queued."""
    asked = body.understood()
    return EstimateObject.of(estimates.estimate(resources.sessions, resources.store, caller.project_id, asked))


@router.get("")
def list_jobs(
    session: SessionDep,
    caller: CallerDep,
    page: JobsPage,
    metadata: Annotated[Mapping[str, str] | None, Depends(read_metadata)],
) -> ListObject[JobObject]:
    """List jobs, newest first."""
    found = jobs.list_jobs(session, caller.project_id, page, metadata=metadata)
    return ListObject[JobObject].of(Page(standings(session, found.rows), found.has_more), JobObject.of)


@router.get("/{job_id}", response_model=JobObject)
def retrieve_job(job_id: str, request: Request, session: SessionDep, caller: CallerDep) -> Response:
    """One job; takes If-None-Match."""
    return revalidated(request, _shown(session, jobs.get(session, caller.project_id, job_id)))


@router.post("/{job_id}/cancel")
def cancel_job(job_id: str, session: SessionDep, caller: CallerDep) -> JobObject:
    """Cancel a job: at once while it waits, within seconds while it runs. Twice is once."""
    return _shown(session, jobs.cancel(session, caller.project_id, job_id))


@router.get("/{job_id}/events")
def list_events(job_id: str, session: SessionDep, caller: CallerDep, page: JobsPage) -> ListObject[EventObject]:
    """What happened to a job, newest first."""
    job = jobs.get(session, caller.project_id, job_id)
    return ListObject[EventObject].of(jobs.list_events(session, job, page), EventObject.of)


@router.get("/{job_id}/checkpoints")
def list_checkpoints(
    job_id: str, session: SessionDep, caller: CallerDep, page: CheckpointsPage
) -> ListObject[CheckpointObject]:
    """The states that a job has left on its way, newest first."""
    job = jobs.get(session, caller.project_id, job_id)
    model_id = jobs.model_id(session, job)
    found = jobs.list_checkpoints(session, job, page)
    return ListObject[CheckpointObject].of(found, lambda row: CheckpointObject.of(row, model_id))


def _shown(session: Session, job: Job) -> JobObject:
    return JobObject.of(standings(session, [job])[0])
