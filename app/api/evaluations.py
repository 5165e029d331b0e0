"""``/v1/evaluations``: what versions scored, for programs and for people."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse

from app.api.dependencies import CallerDep, SessionDep, StoreDep, pages
from app.api.downloads import revalidated
from app.api.schemas.common import ListObject
from app.api.schemas.evaluations import EvaluationObject, EvaluationSummary
from app.services import evaluations
from app.services.pages import PageRequest

router = APIRouter(prefix="/v1/evaluations", tags=["evaluations"])

EvaluationsPage = Annotated[PageRequest, Depends(pages(default=20, maximum=200))]
# The page shows clients' own texts; whatever they say, it loads and runs nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


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
    """One evaluation: JSON, or a page if the Accept header names text/html."""
    evaluated = evaluations.get(session, caller.project_id, evaluation_id)
    if "text/html" in request.headers.get("accept", ""):
        page = evaluations.html(session, store, evaluated.evaluation)
        response: Response = HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})
    else:
        response = revalidated(request, EvaluationObject.having_report(evaluated))
    response.headers["Vary"] = "Accept"
    return response
