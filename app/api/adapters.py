"""``/v1/adapters``: named lines of LoRA weights, their versions and the bytes of those."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from app.api.dependencies import CallerDep, SessionDep, StoreDep, pages
from app.api.downloads import download, revalidated
from app.api.files import download_file
from app.api.schemas.adapters import AdapterObject, VersionWithFilesObject
from app.api.schemas.common import ListObject
from app.api.schemas.lineage import LineageObject
from app.services import adapters, lineage
from app.services.pages import PageRequest

router = APIRouter(prefix="/v1/adapters", tags=["adapters"])

AdaptersPage = Annotated[PageRequest, Depends(pages(default=20, maximum=200))]


@router.get("")
def list_adapters(session: SessionDep, caller: CallerDep, page: AdaptersPage) -> ListObject[AdapterObject]:
    """List adapters with their versions, newest adapter first."""
    found = adapters.list_adapters(session, caller.project_id, page)
    versions = adapters.versions(session, found.rows)
    return ListObject[AdapterObject].of(found, lambda adapter: AdapterObject.of(adapter, versions[adapter.id]))


@router.get("/{name}", response_model=AdapterObject)
def retrieve_adapter(name: str, request: Request, session: SessionDep, caller: CallerDep) -> Response:
    """One adapter with its versions; takes If-None-Match."""
    adapter = adapters.get(session, caller.project_id, name)
    return revalidated(request, AdapterObject.of(adapter, adapters.versions(session, [adapter])[adapter.id]))


@router.get("/{name}/lineage", response_model=LineageObject)
def retrieve_lineage(name: str, request: Request, session: SessionDep, caller: CallerDep) -> Response:
    """What each version scored on its own skill and on those of the versions before it; takes If-None-Match."""
    adapter = adapters.get(session, caller.project_id, name)
    return revalidated(request, LineageObject.of(adapter, lineage.of_adapter(session, adapter)))


@router.get("/{name}/versions/{version}", response_model=VersionWithFilesObject)
def retrieve_version(name: str, version: str, request: Request, session: SessionDep, caller: CallerDep) -> Response:
    """One version with its files; takes If-None-Match."""
    published = adapters.get_version(session, caller.project_id, name, version)
    return revalidated(request, VersionWithFilesObject.having(published, adapters.files(session, published.version)))


@router.get("/{name}/versions/{version}/files/{path:path}", response_class=Response)
@router.head("/{name}/versions/{version}/files/{path:path}", include_in_schema=False)
def version_file(
    *, name: str, version: str, path: str, request: Request, session: SessionDep, store: StoreDep, caller: CallerDep
) -> Response:
    """One file of a version's folder; takes Range, If-Range, If-Match and If-None-Match."""
    published = adapters.get_version(session, caller.project_id, name, version)
    blob = adapters.file(session, published.version, path)
    filename = path.rpartition("/")[2]
    return download(request, store, blob, filename=filename, media_type="application/octet-stream")


@router.get("/{name}/versions/{version}/archive", response_class=Response)
@router.head("/{name}/versions/{version}/archive", include_in_schema=False)
def version_archive(
    *, name: str, version: str, request: Request, session: SessionDep, store: StoreDep, caller: CallerDep
) -> Response:
    """A version's folder as a tar; takes Range, If-Range, If-Match and If-None-Match."""
    published = adapters.get_version(session, caller.project_id, name, version)
    return download_file(request, store, adapters.archive(session, published.version))
