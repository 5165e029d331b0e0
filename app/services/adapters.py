"""Published adapters: named lines of immutable versions, found by name and number or by model id."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, false, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session, contains_eager

from app.db.models import Adapter, AdapterFile, AdapterVersion, Alias, Evaluation, File, Job
from app.domain.errors import Conflict, NotFound
from app.domain.ids import ALIAS_PATTERN
from app.domain.lifecycle import TERMINAL
from app.services.pages import Page, PageRequest, page
from app.storage.store import StoredBlob

NAME_PATTERN = r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}"
_VERSION_PATTERN = r"[1-9][0-9]{0,8}"


@dataclass(frozen=True)
class Published:
    """A version with what hangs on it."""

    version: AdapterVersion
    parent_model_id: str | None
    evaluation_id: str | None
    gate_verdict: str | None
    aliases: list[str]


def list_adapters(session: Session, project_id: str, request: PageRequest) -> Page[Adapter]:
    """The project's lines; one whose versions are all deleted is still a name that is taken."""
    scope = select(Adapter).where(Adapter.project_id == project_id)
    return page(session, scope, request, key=(Adapter.created_at, Adapter.id))


def get(session: Session, project_id: str, name: str) -> Adapter:
    """A line of the project.

    Raises:
        NotFound: There is none.
    """
    query = select(Adapter).where(Adapter.project_id == project_id, Adapter.name == name)
    adapter = session.scalar(query) if re.fullmatch(NAME_PATTERN, name) else None
    if adapter is None:
        raise NotFound("adapter_not_found", "There is no adapter of this name in your project; list them to see which.")
    return adapter


def versions(session: Session, adapters: Sequence[Adapter]) -> dict[str, list[Published]]:
    """The versions of each line, oldest first, by the line's id."""
    found: dict[str, list[Published]] = {adapter.id: [] for adapter in adapters}
    for item in _published(session, AdapterVersion.adapter_id.in_(found)):
        found[item.version.adapter_id].append(item)
    return found


def get_version(session: Session, project_id: str, name: str, chosen: str) -> Published:
    """One version of a line, by its number or by an alias.

    Raises:
        NotFound: There is none, or it was deleted.
    """
    adapter = get(session, project_id, name)
    for item in _published(session, AdapterVersion.adapter_id == adapter.id, _is_called(chosen)):
        return item
    message = "This adapter has no such version or alias; retrieve the adapter to see which it has."
    raise NotFound("version_not_found", message)


def list_models(session: Session, project_id: str) -> list[Published]:
    """Every version of the project, oldest first."""
    return _published(session, Adapter.project_id == project_id)


def find_model(session: Session, project_id: str, model_id: str) -> Published | None:
    """The version that a model id stands for."""
    found = _published(session, (Adapter.project_id == project_id) & (AdapterVersion.model_id == model_id))
    return found[0] if found else None


def resolve(session: Session, project_id: str, reference: str) -> Published | None:
    """The version that ``name:3``, ``name@alias`` or an ``ft:`` model id stands for."""
    if reference.startswith("ft:"):
        return find_model(session, project_id, reference)
    name, separator, chosen = reference.rpartition("@" if "@" in reference else ":")
    if separator and chosen.isdigit() != (separator == ":"):
        return None
    try:
        return get_version(session, project_id, name, chosen)
    except NotFound:
        return None


def files(session: Session, version: AdapterVersion) -> Sequence[AdapterFile]:
    """The files of a version's folder, by path."""
    query = select(AdapterFile).where(AdapterFile.version_id == version.id).order_by(AdapterFile.path)
    return session.scalars(query).all()


def file(session: Session, version: AdapterVersion, path: str) -> StoredBlob:
    """The bytes of one file of the folder.

    Raises:
        NotFound: The folder has no such file.
    """
    row = session.get(AdapterFile, (version.id, path))
    if row is None:
        raise NotFound("adapter_file_not_found", "This version has no such file; retrieve it to see which it has.")
    return StoredBlob(row.sha256, row.num_bytes)


def archive(session: Session, version: AdapterVersion) -> File:
    """The folder as one tar file."""
    return session.get_one(File, version.archive_file_id)


def keep(session: Session, version: AdapterVersion) -> None:
    """See to it that nobody deletes a version until something refers to it.

    Raises:
        NotFound: Someone just did.
    """
    session.refresh(version, ["deleted_at"], with_for_update={"read": True})
    if version.deleted_at:
        raise NotFound("version_not_found", "This version has just been deleted; retrieve the adapter to see others.")


def delete_model(session: Session, project_id: str, reference: str) -> None:
    """Take a version, however it is called, out of sight; its number is never given again.

    Raises:
        NotFound: There is none.
        Conflict: A job is training from it, or an alias points at it.
    """
    found = resolve(session, project_id, reference)
    if found:
        session.refresh(found.version, ["deleted_at"], with_for_update=True)
    if found is None or found.version.deleted_at:  # of several who delete it at once, one does
        raise NotFound("model_not_found", "There is no such model in your project; list the models to see which.")
    training = select(Job.id).where(Job.parent_version_id == found.version.id, Job.status.not_in(TERMINAL))
    if job_id := session.scalar(training.limit(1)):
        raise Conflict("model_in_use", f"The job {job_id} trains from this version; cancel it or wait for its end.")
    if alias := session.scalar(select(Alias.name).where(Alias.version_id == found.version.id).limit(1)):
        called = f"{found.version.adapter.name}@{alias}"
        raise Conflict("model_in_use", f"{called} points at this version; move or remove that alias first.")
    found.version.deleted_at = datetime.now(UTC)
    session.flush()


def _is_called(chosen: str) -> ColumnElement[bool]:
    if re.fullmatch(_VERSION_PATTERN, chosen):
        return AdapterVersion.version == int(chosen)
    if not re.fullmatch(ALIAS_PATTERN, chosen):
        return false()
    named = select(Alias.version_id).where(Alias.adapter_id == AdapterVersion.adapter_id, Alias.name == chosen)
    return AdapterVersion.id == named.scalar_subquery()


def _published(session: Session, *chosen: ColumnElement[bool]) -> list[Published]:
    parent = select(AdapterVersion.id, AdapterVersion.model_id).subquery()
    names = select(func.array_agg(aggregate_order_by(Alias.name, Alias.name)))
    aliases = names.where(Alias.version_id == AdapterVersion.id).scalar_subquery()
    query = (
        select(AdapterVersion, parent.c.model_id, Evaluation.id, Evaluation.gate["verdict"].astext, aliases)
        .join(AdapterVersion.adapter)
        .outerjoin(parent, parent.c.id == AdapterVersion.parent_version_id)
        .outerjoin(Evaluation, Evaluation.job_id == AdapterVersion.job_id)
        .where(*chosen, AdapterVersion.deleted_at.is_(None))
        .options(contains_eager(AdapterVersion.adapter))
        .order_by(AdapterVersion.created_at, AdapterVersion.version)
    )
    return [
        Published(version, model_id, evaluation_id, verdict, names or [])
        for version, model_id, evaluation_id, verdict, names in session.execute(query)
    ]
