"""``/v1/adapters/{name}/aliases`` and ``/v1/audit_logs``: names that point at versions, and who moved them."""

from collections.abc import Collection
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Response

from app.api.bodies import StrictRoute
from app.api.dependencies import CallerDep, SessionDep, pages
from app.api.schemas.aliases import AliasObject, AuditEntryObject, MoveAlias, Reason
from app.api.schemas.common import DeletedObject, ListObject
from app.domain.errors import Invalid
from app.domain.ids import ALIAS_PATTERN
from app.services import aliases, audit
from app.services.aliases import Expected
from app.services.pages import PageRequest

router = APIRouter(prefix="/v1", tags=["adapters"], route_class=StrictRoute)

AuditPage = Annotated[PageRequest, Depends(pages(default=20, maximum=200))]
AliasName = Annotated[str, Path(pattern=f"^{ALIAS_PATTERN}$")]


def read_expected(
    if_match: Annotated[str | None, Header(description="ETags of the alias as you last saw it.")] = None,
    if_none_match: Annotated[str | None, Header(description="`*`: only if there is no such alias yet.")] = None,
) -> Expected:
    """What the client believes of the alias.

    Raises:
        Invalid: The headers say something that a change cannot depend on.
    """
    if if_none_match not in {None, "*"}:
        message = "Only If-None-Match: * means something for a change; use If-Match with the ETag that you last saw."
        raise Invalid("invalid_value", message, param="If-None-Match")
    return Expected(tags=None if if_match is None else _tags(if_match), absent=if_none_match is not None)


ExpectedDep = Annotated[Expected, Depends(read_expected)]


@router.get("/adapters/{name}/aliases/{alias}")
def retrieve_alias(
    name: str, alias: AliasName, response: Response, session: SessionDep, caller: CallerDep
) -> AliasObject:
    """What an alias points at; its ETag goes into If-Match of a change."""
    return _shown(name, aliases.get(session, caller.project_id, name, alias), response)


@router.put("/adapters/{name}/aliases/{alias}")
def move_alias(
    *,
    name: str,
    alias: AliasName,
    body: MoveAlias,
    response: Response,
    session: SessionDep,
    caller: CallerDep,
    expected: ExpectedDep,
) -> AliasObject:
    """Point an alias at a version that passed its gate, or at any with an override and a reason."""
    moved = aliases.move(
        session, caller.project_id, name, alias, body.understood(), expected=expected, actor=caller.key_id
    )
    return _shown(name, moved, response)


@router.delete("/adapters/{name}/aliases/{alias}")
def remove_alias(
    *,
    name: str,
    alias: AliasName,
    reason: Annotated[Reason | None, Query(description="For the audit log.")] = None,
    session: SessionDep,
    caller: CallerDep,
    expected: ExpectedDep,
) -> DeletedObject:
    """Take an alias away; its version stays."""
    aliases.remove(session, caller.project_id, name, alias, reason=reason, expected=expected, actor=caller.key_id)
    return DeletedObject(id=f"{name}@{alias}", object="adapter.alias", deleted=True)


@router.get("/audit_logs", tags=["audit"])
def list_audit_logs(session: SessionDep, caller: CallerDep, page: AuditPage) -> ListObject[AuditEntryObject]:
    """Who moved which alias, and why; newest first."""
    return ListObject[AuditEntryObject].of(audit.list_entries(session, caller.project_id, page), AuditEntryObject.of)


def _tags(if_match: str) -> Collection[str]:
    """Tags without their quotes; a weak one keeps its mark, and so matches nothing (RFC 9110, 13.1.1).

    Only a bare ``*`` stands for any: in quotes it is a tag, which no move has.
    """
    if if_match.strip() == "*":
        return {"*"}
    return {tag.strip().strip('"') for tag in if_match.split(",")} - {"*"}


def _shown(adapter: str, pointer: aliases.Pointer, response: Response) -> AliasObject:
    response.headers["ETag"] = f'"{pointer.moved.id}"'
    return AliasObject.of(adapter, pointer)
