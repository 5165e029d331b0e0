"""What a client would rather read, by its Accept header (RFC 9110, 12.5.1)."""

import re
from typing import Final

from starlette.requests import Request

_Q: Final = re.compile(r"\s*q\s*=\s*(.*?)\s*", re.IGNORECASE)


def prefers(request: Request, kind: str, *, to: str) -> bool:
    """Whether a client wants one media type more than another; of two wanted alike, the other is served.

    Of equal weights, a range that names more of its type tells: ``text/html, */*`` is for HTML.
    """
    ranges = _ranges(",".join(request.headers.getlist("accept")))
    wanted = _wanted(ranges, kind)
    return wanted[0] > 0 and wanted > _wanted(ranges, to)


def _ranges(accept: str) -> dict[str, float]:
    """Media ranges with their weights, of one that comes twice the higher; parameters other than q do not matter."""
    found: dict[str, float] = {}
    for item in accept.split(","):
        name, *parameters = item.split(";")
        weights = [_weight(match[1]) for one in parameters if (match := _Q.fullmatch(one))]
        name = name.strip().lower()
        found[name] = max(found.get(name, 0.0), weights[0] if weights else 1.0)
    return found


def _weight(text: str) -> float:
    """From 0 to 1, with more digits than there should be too; what is no number wants nothing."""
    return min(float(text), 1.0) if re.fullmatch(r"[0-9]*\.?[0-9]+|[0-9]+\.", text) else 0.0


def _wanted(ranges: dict[str, float], kind: str) -> tuple[float, int]:
    """The weight of the most specific range that has a type, and how specific it is."""
    having = ("*/*", f"{kind.partition('/')[0]}/*", kind)
    return next(
        ((ranges[name], place) for place, name in reversed(list(enumerate(having))) if name in ranges), (0.0, 0)
    )
