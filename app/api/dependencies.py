"""What endpoints ask for, by type: a session, the store, who calls, which page."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Annotated, Literal, TypeAlias

from fastapi import Depends, Header, Query, Request, Security
from fastapi.security import HTTPBearer
from sqlalchemy.orm import Session

from app.api.explanations import operation_of, unknown
from app.db.session import transaction
from app.dispatch import Broker
from app.domain.errors import Invalid
from app.resources import Resources
from app.services.access import Caller
from app.services.idempotency import Sending
from app.services.pages import PageRequest
from app.settings import Settings
from app.storage.store import Store

_WITH_KEYS = ("metadata",)
"""Query parameters that come as ``name[key]=value``."""
_bearer = HTTPBearer(auto_error=False, description="An API key: `sk-sdft-...`")


def get_resources(request: Request) -> Resources:
    """What the process holds open."""
    resources: Resources = request.app.state.resources
    return resources


ResourcesDep: TypeAlias = Annotated[Resources, Depends(get_resources)]


def get_settings(request: Request) -> Settings:
    """What the operator has set."""
    settings: Settings = request.app.state.settings
    return settings


def get_session(resources: ResourcesDep) -> Iterator[Session]:
    """One transaction, committed before the response is sent."""
    with transaction(resources.sessions) as session:
        yield session


def get_store(resources: ResourcesDep) -> Store:
    """The blobs."""
    return resources.store


def get_broker(resources: ResourcesDep) -> Broker:
    """The doorbell."""
    return resources.broker


def get_caller(request: Request, _: Annotated[object, Security(_bearer)]) -> Caller:
    """Who was admitted; the bearer scheme is here for the OpenAPI document only."""
    caller: Caller = request.state.caller
    return caller


# FastAPI's own scope ends a dependency after the response: a failed commit would still have answered 200.
SessionDep: TypeAlias = Annotated[Session, Depends(get_session, scope="function")]
StoreDep: TypeAlias = Annotated[Store, Depends(get_store)]
BrokerDep: TypeAlias = Annotated[Broker, Depends(get_broker)]
SettingsDep: TypeAlias = Annotated[Settings, Depends(get_settings)]
CallerDep: TypeAlias = Annotated[Caller, Depends(get_caller)]


def get_sending(
    request: Request,
    caller: CallerDep,
    idempotency_key: Annotated[
        str | None, Header(description="Sent again with the same one, the request gets its first answer, for 24 hours.")
    ] = None,
) -> Sending:
    """How this POST relates to earlier ones of the same client.

    Raises:
        Invalid: The ``Idempotency-Key`` is not usable as a name.
    """
    if idempotency_key is not None and not re.fullmatch(r"[!-~]{1,255}", idempotency_key):
        message = "An Idempotency-Key has 1 to 255 printable ASCII characters without spaces, such as a UUID."
        raise Invalid("invalid_value", message, param="Idempotency-Key")
    retries = request.headers.get("x-stainless-retry-count", "0")
    return Sending(
        project_id=caller.project_id,
        route=f"{request.method} {request.url.path}",
        api_key_id=caller.key_id,
        idempotency_key=idempotency_key,
        retries=int(retries) if re.fullmatch(r"[0-9]{1,4}", retries) else 0,
    )


SendingDep: TypeAlias = Annotated[Sending, Depends(get_sending)]


async def get_body_sha256(request: Request) -> str:
    """Digest of a JSON body, as it came."""
    return hashlib.sha256(await request.body()).hexdigest()


BodyDigestDep: TypeAlias = Annotated[str, Depends(get_body_sha256)]


def pages(*, default: int, maximum: int) -> Callable[..., PageRequest]:
    """A dependency for the page parameters of a list."""

    def read(
        after: Annotated[
            str | None, Query(max_length=100, description="Id of the last item of the page before")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=maximum)] = default,
        order: Annotated[Literal["asc", "desc"], Query(description="By time of creation")] = "desc",
    ) -> PageRequest:
        return PageRequest(after, limit, order)

    return read


def refuse_unknown_query(request: Request) -> None:
    """A query parameter that nothing reads is a mistake that its sender would not notice.

    Raises:
        Invalid: With the nearest name that there is; or one comes twice, of which one would be dropped.
    """
    parameters = operation_of(request).get("parameters", [])
    known = {parameter["name"] for parameter in parameters if parameter["in"] == "query"}
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        plain, bracket, _ = name.partition("[")
        if plain not in known or (bracket and plain not in _WITH_KEYS):
            raise Invalid("unknown_parameter", unknown(name, sorted(known)), param=name)
    if len(set(names)) < len(names):
        [(twice, _)] = Counter(names).most_common(1)
        raise Invalid("invalid_value", "This query parameter is given twice; keep one.", param=twice)
