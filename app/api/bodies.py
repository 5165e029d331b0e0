"""JSON bodies: read with the same strictness as a line of a training file, and answered once."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from app.api.explanations import takes
from app.domain.errors import Invalid
from app.domain.strict_json import Malformed, parse
from app.services.idempotency import Answer


class _StrictRequest(Request):
    async def json(self) -> Any:
        try:
            # In a thread, as a large body takes its time; whoever else is served does not wait for it.
            return await run_in_threadpool(parse, await self.body())
        except Malformed as bad:
            hint = bad.hint
            if bad.code == "invalid_json" and bad.path:  # a number that is too large
                hint = takes(self, bad.path) or hint
            raise Invalid(bad.code, f"{bad.message} {hint}", param=bad.path or None) from None


class StrictRoute(APIRoute):
    """A route whose body has one meaning, or is refused."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with our reader."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly


def answered(answer: Answer) -> JSONResponse:
    """The answer to a POST, marked if it was given before."""
    return JSONResponse(answer.body, headers={"Idempotent-Replayed": "true"} if answer.replayed else None)
