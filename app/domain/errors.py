"""Errors a client can act on.

``code`` is stable and for programs, ``message`` is for people and says how to fix it. No HTTP status here:
``app.api.problems`` is the only place that knows those.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any


class ServiceError(Exception):
    """Base of every error that is meant for the client.

    Args:
        code: Stable machine name, ``snake_case``.
        message: One or two sentences for a person: what is wrong and how to fix it.
        param: The request field it is about, if one.
        errors: Further findings of the same kind, e.g. one per line of an uploaded file.
        counts: How many there are of each code, with those that ``errors`` has no room for.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        errors: list[dict[str, Any]] | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.errors = errors or []
        self.counts = counts or Counter(str(one["code"]) for one in self.errors)


class Invalid(ServiceError):
    """The request says something that cannot be."""


class Unprocessable(ServiceError):
    """The request is well formed, its content is not usable (an invalid file, a reused idempotency key)."""


class Unauthenticated(ServiceError):
    """No key, or not a valid one."""


class Forbidden(ServiceError):
    """A valid key without the right to do this."""


class NotFound(ServiceError):
    """No such thing, or it belongs to another project: the two look the same."""


class Conflict(ServiceError):
    """The thing exists but is in a state that does not allow this."""


class PreconditionFailed(ServiceError):
    """The thing is no longer as the client last saw it."""


class TooLarge(ServiceError):
    """More bytes than the limit allows."""


class UnsupportedMedia(ServiceError):
    """The body comes in a form that is not taken."""


class InProgress(ServiceError):
    """The first request with this idempotency key is still being served: wait and ask again."""


class Unavailable(ServiceError):
    """A dependency is down or full; the same request may work later."""
