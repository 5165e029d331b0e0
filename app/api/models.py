"""``/v1/models``: what can be trained, and what was."""

from fastapi import APIRouter

from app.api.dependencies import CallerDep, SessionDep
from app.api.schemas.common import DeletedObject, ListObject
from app.api.schemas.models import ModelObject
from app.domain.errors import Forbidden, NotFound
from app.services import adapters, base_models

# Ids of models have slashes and arrive as %2F, which the server has decoded by now.
router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
def list_models(session: SessionDep, caller: CallerDep) -> ListObject[ModelObject]:
    """Base models that jobs may train on, then the project's versions; one page, as OpenAI's clients expect."""
    bases = [ModelObject.of_base(base) for base in base_models.list_base_models(session)]
    versions = [
        ModelObject.of_version(published, caller.project_name)
        for published in adapters.list_models(session, caller.project_id)
    ]
    return ListObject[ModelObject].having(bases + versions)


@router.get("/{model:path}")
def retrieve_model(model: str, session: SessionDep, caller: CallerDep) -> ModelObject:
    """One model: a base, or a version by its ft: id, as name:3 or as name@alias."""
    if base := base_models.find(session, model):
        return ModelObject.of_base(base)
    if published := adapters.resolve(session, caller.project_id, model):
        return ModelObject.of_version(published, caller.project_name)
    raise NotFound("model_not_found", "There is no such model; list the models to see which there are.")


@router.delete("/{model:path}")
def delete_model(model: str, session: SessionDep, caller: CallerDep) -> DeletedObject:
    """Delete a version. Its number is not given again; the job and its evaluation stay."""
    if base_models.find(session, model):
        raise Forbidden("base_model_not_yours", "Base models belong to the operator, who removes them on the server.")
    adapters.delete_model(session, caller.project_id, model)
    return DeletedObject(id=model, object="model", deleted=True)
