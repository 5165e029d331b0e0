"""``/v1/evaluations``: ask versions, and read what they scored, for programs and for people."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse

from app.api.bodies import StrictRoute, answered
from app.api.dependencies import BodyDigestDep, BrokerDep, CallerDep, SendingDep, SessionDep, StoreDep, pages
from app.api.downloads import revalidated
from app.api.negotiation import prefers
from app.api.schemas.common import ListObject
from app.api.schemas.evaluations import (
    CreateEvaluation,
    EvaluationObject,
    EvaluationSummary,
    ExampleObject,
    Flip,
)
from app.services import evaluations, idempotency
from app.services.pages import PageRequest

router = APIRouter(prefix="/v1/evaluations", tags=["evaluations"], route_class=StrictRoute)

EvaluationsPage = Annotated[PageRequest, Depends(pages(default=20, maximum=200))]
# The page shows clients' own texts; whatever they say, it loads and runs nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@router.post("", response_model=EvaluationObject)
def create_evaluation(
    *,
    body: CreateEvaluation,
    session: SessionDep,
    broker: BrokerDep,
    caller: CallerDep,
    sending: SendingDep,
    body_sha256: BodyDigestDep,
) -> Response:
    """Queue an evaluation of a version. Retries are safe, as for a job."""

    def act() -> dict[str, Any]:
        evaluated = evaluations.create(session, broker, caller.project_id, body.understood())
        return EvaluationObject.having_report(evaluated).model_dump(mode="json")

    def stands(evaluation_id: str) -> bool:
        return evaluations.get(session, caller.project_id, evaluation_id).job.cancel_requested_at is None

    return answered(idempotency.answer_once(session, sending, body_sha256, act, stands=stands))


@router.get("")
def list_evaluations(session: SessionDep, caller: CallerDep, page: EvaluationsPage) -> ListObject[EvaluationSummary]:
    """List evaluations, newest first, without their reports."""
    return ListObject[EvaluationSummary].of(
        evaluations.list_evaluations(session, caller.project_id, page), EvaluationSummary.of
    )


@router.get("/{evaluation_id}", response_model=EvaluationObject, responses={200: {"content": {"text/html": {}}}})
def retrieve_evaluation(
    evaluation_id: str, request: Request, session: SessionDep, store: StoreDep, caller: CallerDep
) -> Response:
    """One evaluation: JSON, or a page where the Accept header prefers text/html."""
    evaluated = evaluations.get(session, caller.project_id, evaluation_id)
    if prefers(request, "text/html", to="application/json"):
        page = evaluations.html(session, store, evaluated)
        response: Response = HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})
    else:
        response = revalidated(request, EvaluationObject.having_report(evaluated))
    response.headers["Vary"] = "Accept"
    return response


@router.get("/{evaluation_id}/examples")
def list_examples(
    evaluation_id: str, session: SessionDep, caller: CallerDep, flip: Flip | None = None, suite: str | None = None
) -> ListObject[ExampleObject]:
    """Questions whose answers changed, with every arm's: those that the report names, of each suite up to 100 a way."""
    evaluated = evaluations.get(session, caller.project_id, evaluation_id)
    return ListObject[ExampleObject].having(
        [
            ExampleObject.of(name, found)
            for name, found in evaluations.examples(evaluated)
            if flip in {None, found["change"]} and suite in {None, name}
        ]
    )


@router.post("/{evaluation_id}/cancel")
def cancel_evaluation(evaluation_id: str, session: SessionDep, caller: CallerDep) -> EvaluationObject:
    """Cancel an evaluation: at once while it waits, within seconds while it runs. Twice is once."""
    return EvaluationObject.having_report(evaluations.cancel(session, caller.project_id, evaluation_id))
