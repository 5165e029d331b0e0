"""``/v1/files``: uploads, validated before they are kept, and downloads."""

import hashlib
import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from app.api.bodies import answered
from app.api.dependencies import CallerDep, ResourcesDep, SendingDep, SessionDep, SettingsDep, StoreDep, pages
from app.api.downloads import download
from app.api.multipart import Upload, received
from app.api.schemas.common import DeletedObject, ListObject
from app.api.schemas.files import FileObject, ValidationObject
from app.db.models import File
from app.db.session import transaction
from app.domain.errors import Invalid
from app.resources import Resources
from app.services import base_models, blobs, files, idempotency, lengths
from app.services.idempotency import Answer, Sending
from app.services.pages import PageRequest
from app.storage.store import StoredBlob

router = APIRouter(prefix="/v1/files", tags=["files"])

FilesPage = Annotated[PageRequest, Depends(pages(default=10_000, maximum=10_000))]
Purpose = Literal[
    "fine-tune", "evals", "fine-tune-results",
    "assistants", "assistants_output", "batch", "batch_output", "user_data", "vision",
]  # fmt: skip
"""What a list may be asked for: ours, and OpenAI's, of which there are no files here."""
_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "JSON lines."},
                        "purpose": {"enum": [files.TRAINING_PURPOSE, files.SUITE_PURPOSE], "type": "string"},
                    },
                }
            }
        },
    }
}


@router.post("", response_model=FileObject, openapi_extra=_FORM)
async def create_file(
    request: Request, resources: ResourcesDep, settings: SettingsDep, caller: CallerDep, sending: SendingDep
) -> Response:
    """Upload demonstrations to train on, or questions to measure with.

    Every line is checked; a file with an error is not kept, and its errors are told by line. Retries are
    safe, as for a job.
    """
    async with received(request, resources.store, max_file_bytes=settings.limits.upload_bytes) as upload:
        return answered(await run_in_threadpool(_keep, resources, caller.project_id, upload, sending))


@router.get("")
def list_files(
    session: SessionDep,
    caller: CallerDep,
    page: FilesPage,
    purpose: Annotated[
        Purpose | None, Query(description="fine-tune, evals or fine-tune-results: others have none.")
    ] = None,
) -> ListObject[FileObject]:
    """List files, newest first."""
    return ListObject[FileObject].of(files.list_files(session, caller.project_id, page, purpose=purpose), FileObject.of)


@router.get("/{file_id}")
def retrieve_file(file_id: str, session: SessionDep, caller: CallerDep) -> FileObject:
    """One file."""
    return FileObject.of(files.get(session, caller.project_id, file_id))


@router.delete("/{file_id}")
def delete_file(file_id: str, session: SessionDep, caller: CallerDep) -> DeletedObject:
    """Delete a file that no unfinished job and no published version needs."""
    files.delete(session, caller.project_id, file_id)
    return DeletedObject(id=file_id, object="file", deleted=True)


@router.get("/{file_id}/content", response_class=Response)
@router.head("/{file_id}/content", include_in_schema=False)
def file_content(file_id: str, request: Request, session: SessionDep, store: StoreDep, caller: CallerDep) -> Response:
    """The bytes; takes Range, If-Range, If-Match and If-None-Match."""
    file = files.get(session, caller.project_id, file_id)
    return download_file(request, store, file)


@router.get("/{file_id}/validation")
def file_validation(file_id: str, resources: ResourcesDep, caller: CallerDep) -> ValidationObject:
    """What validation found in an uploaded file, and how long its examples are in the tokens of each base model."""
    store = resources.store
    with transaction(resources.sessions) as session:
        file = files.get(session, caller.project_id, file_id)
        if file.validation is None:
            raise Invalid("not_a_training_file", "Only files that a client uploaded are validated.")
        bases = base_models.list_base_models(session)
        counters = {base.name: base_models.counter(session, store, base) for base in bases}
    tokens = {name: lengths.token_figures(counter, store, file) for name, counter in counters.items()}
    return ValidationObject(
        object="file.validation",
        file_id=file.id,
        valid=True,
        errors=[],
        **file.validation | {"stats": file.validation["stats"] | {"tokens": tokens}},
    )


def download_file(request: Request, store: StoreDep, file: File) -> Response:
    """A file's bytes under its name."""
    kinds = {"csv": "text/csv; charset=utf-8", "json": "application/json", "tar": "application/x-tar"}
    media_type = kinds.get(file.filename.rpartition(".")[2], "application/octet-stream")
    return download(request, store, blobs.blob_of(file), filename=file.filename, media_type=media_type)


def _keep(resources: Resources, project_id: str, upload: Upload, sending: Sending) -> Answer:
    """Validate and store what was received, each without a session; then make its row."""
    purpose = upload.fields["purpose"]
    files.check_purpose(purpose)
    report = files.check(upload.path, purpose)
    blob = StoredBlob(upload.sha256, upload.num_bytes)
    with transaction(resources.sessions) as session:
        blobs.record(session, blob)  # from here on nobody removes the same bytes as garbage
    resources.store.put_file(upload.path)
    # Not of the body as it came: a client's library draws a new boundary for each try.
    content = json.dumps([upload.fields, upload.filename, upload.sha256], sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()
    with transaction(resources.sessions) as session:

        def act() -> dict[str, Any]:
            file = files.create(
                session, project_id, filename=upload.filename, purpose=purpose, blob=blob, report=report
            )
            return FileObject.of(file).model_dump(mode="json")

        def stands(file_id: str) -> bool:
            return files.exists(session, project_id, file_id)

        return idempotency.answer_once(session, sending, digest, act, stands=stands)
