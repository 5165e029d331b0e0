"""What published versions scored, as their jobs wrote it down."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import Adapter, AdapterVersion, Blob, Evaluation
from app.domain.errors import NotFound
from app.domain.ids import is_id
from app.services.pages import Page, PageRequest, page
from app.storage.store import Store, StoredBlob


@dataclass(frozen=True)
class Evaluated:
    """An evaluation and the version that it is of."""

    evaluation: Evaluation
    adapter_name: str
    version: int


def list_evaluations(session: Session, project_id: str, request: PageRequest) -> Page[Evaluated]:
    """The project's evaluations."""
    scope = select(Evaluation).where(Evaluation.project_id == project_id)
    found = page(session, scope, request, key=(Evaluation.created_at, Evaluation.id))
    return Page([_evaluated(session, row) for row in found.rows], found.has_more)


def get(session: Session, project_id: str, evaluation_id: str) -> Evaluated:
    """One evaluation of the project.

    Raises:
        NotFound: There is none.
    """
    row = session.get(Evaluation, evaluation_id) if is_id("eval", evaluation_id) else None
    if row is None or row.project_id != project_id:
        raise NotFound("evaluation_not_found", "There is no evaluation with this id in your project.")
    return _evaluated(session, row)


def html(session: Session, store: Store, evaluation: Evaluation) -> bytes:
    """The same report as a page for people."""
    blob = session.get_one(Blob, evaluation.html_sha256)
    return store.read_bytes(StoredBlob(blob.sha256, blob.num_bytes))


def _evaluated(session: Session, row: Evaluation) -> Evaluated:
    version = session.get_one(AdapterVersion, row.version_id)
    return Evaluated(row, session.get_one(Adapter, version.adapter_id).name, version.version)
