"""What is wrong with a request, said so that its sender can put it right.

Which field, what it takes, what it may have been meant to be: names and ranges are read from the OpenAPI document, so
that an error never says another thing.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final

from fastapi.routing import iter_route_contexts
from starlette.requests import Request

from app.domain.distillation import Contradiction
from app.domain.errors import Invalid

Schema = Mapping[str, Any]
Location = Sequence[str | int]

_CODES = {
    "extra_forbidden": "unknown_parameter",
    "missing": "missing_required_parameter",
    "unsupported_method": "unsupported_method",
}
_OWN_WORDS = ("unsupported_method", "value_error")
"""Kinds of findings whose messages we wrote ourselves."""
_MAX_EXPLAINED: Final = 100
_MAX_NAME: Final = 100


def operation_of(request: Request) -> Schema:
    """What the OpenAPI document says about the route that serves a request."""
    method = "get" if request.method == "HEAD" else request.method.lower()
    operation: Schema = request.app.openapi()["paths"][request.scope["route"].path_format][method]
    return operation


def verbs_of(request: Request) -> list[str]:
    """The verbs that a request's path takes; none where the framework alone knows."""
    path = getattr(request.scope.get("route"), "path_format", None)
    routes = (route for route in iter_route_contexts(request.app.routes) if path and route.path_format == path)
    return sorted({verb for route in routes for verb in route.methods or ()})


def explain(request: Request, findings: Sequence[Mapping[str, Any]]) -> Invalid:
    """One error from what pydantic found in a request; its ``errors`` has one entry a field, the first hundred.

    A body of one megabyte can be wrong in as many places as it has keys.
    """
    openapi, operation = request.app.openapi(), operation_of(request)
    # A name that is not understood comes first: it often is why another one is missing.
    ordered = sorted(findings, key=lambda finding: not _is_unknown(finding))
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for finding in ordered[:_MAX_EXPLAINED]:
        entry = _entry(finding, openapi, operation)
        # Each member of a union has a finding; together they are one. Two long names may be cut to the same.
        entries.setdefault((entry["param"], str(finding["loc"][-1]) if _is_unknown(finding) else ""), entry)
    first, *_ = explained = list(entries.values())
    counts, more = Counter(entry["code"] for entry in explained), ordered[_MAX_EXPLAINED:]
    counts += Counter(_CODES.get(finding["type"], "invalid_value") for finding in more)
    told = f" These are the first of {len(findings)} findings." if more else ""
    return Invalid(
        first["code"], f"{first['message']}{told}", param=first["param"] or None, errors=explained, counts=counts
    )


def _is_unknown(finding: Mapping[str, Any]) -> bool:
    return bool(finding["type"] == "extra_forbidden")


def unknown(name: str, known: Sequence[str]) -> str:
    """What to say about a name that is not understood."""
    last = name.rpartition(".")[2]
    begun = [one for one in known if one.startswith(f"{last}_")]
    if near := begun if len(begun) == 1 else get_close_matches(cut(last), known, n=1):
        return f"{_shown(name)} is not a parameter here; did you mean {near[0]}?"
    return f"{_shown(name)} is not a parameter here; there are: {', '.join(known) or 'none'}."


def cut(name: str) -> str:
    """So much of a client's own name as is worth repeating."""
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 3]}..."


def takes(request: Request, param: str) -> str:
    """What a field of the body takes; empty where the document does not have it."""
    location = [int(part) if part.isdecimal() else part for part in re.split(r"[.\[\]]+", param) if part]
    schema, path = _follow(_root("body", operation_of(request)), location, request.app.openapi())
    if len(path) < len(location) or not schema:
        return ""
    return f"{_shown(param)} must be {_describe(schema, request.app.openapi())}."


def _entry(finding: Mapping[str, Any], openapi: Schema, operation: Schema) -> dict[str, Any]:
    place, *location = finding["loc"]
    kind = finding["type"]
    schema, path = _follow(_root(place, operation), location, openapi)
    if kind == "extra_forbidden":
        name = _written([*path, str(location[-1])])
        return {
            "code": _CODES[kind],
            "param": cut(name),
            "message": unknown(name, sorted(_properties(schema, openapi))),
        }
    param = _written(path)
    if names := _names_of_keys(location, _root(place, operation), openapi):
        param = _written(path[: len(location) - 2])
        message = f"Each key of {_shown(param)} must be {_describe_one({'type': 'string', **names})}."
    elif kind in _OWN_WORDS:
        message = finding["msg"].removeprefix("Value error, ")
        if isinstance(contradiction := finding.get("ctx", {}).get("error"), Contradiction):
            param = _written([*path, contradiction.param])
    elif not location:
        message = "The body must be a JSON object, sent with Content-Type: application/json."
    else:
        is_missing = " is required: it" if kind == "missing" else ""
        message = f"{_shown(param)}{is_missing} must be {_describe(schema, openapi)}."
    return {"code": _CODES.get(kind, "invalid_value"), "param": cut(param), "message": message}


def _names_of_keys(location: Location, root: Schema, openapi: Schema) -> Schema | None:
    """What keys may be, where a finding is about one: pydantic ends its place with the key and ``[key]``.

    That can be a client's own key too, whose value is at fault.
    """
    if list(location[-1:]) != ["[key]"]:
        return None
    schema, _ = _follow(root, location[:-2], openapi)
    return next((option["propertyNames"] for option in _options(schema, openapi) if "propertyNames" in option), None)


def _root(place: str, operation: Schema) -> Schema:
    """The schema of the body, or one that has every query parameter as a property."""
    if place == "body":
        body: Schema = operation["requestBody"]["content"]["application/json"]["schema"]
        return body
    parameters = [parameter for parameter in operation.get("parameters", []) if parameter["in"] == place]
    return {"type": "object", "properties": {parameter["name"]: parameter["schema"] for parameter in parameters}}


def _written(path: Location) -> str:
    """A path as people write it, such as ``compare[0].method``; the same as in findings about a file's lines."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _follow(schema: Schema, location: Location, openapi: Schema) -> tuple[Schema, list[str | int]]:
    """Go along pydantic's location, past the names of union members, which are no part of the request."""
    path: list[str | int] = []
    for part in location:
        inner = _inner(schema, part, openapi)
        if inner is not None:
            schema = inner
            path.append(part)
    return schema, path


def _inner(schema: Schema, part: str | int, openapi: Schema) -> Schema | None:
    for option in _options(schema, openapi):
        if part in option.get("properties", {}):
            found: Schema = option["properties"][part]
            return found
        if isinstance(option.get("additionalProperties"), dict) and isinstance(part, str):
            return {
                "type": "string",
                "maxLength": option["propertyNames"]["maxLength"],
                **option["additionalProperties"],
            }
        if isinstance(part, int) and "items" in option:
            items: Schema = option["items"]
            return items
    return None


def _options(schema: Schema, openapi: Schema) -> list[Schema]:
    """The members of a union, references followed."""
    if "$ref" in schema:
        schema = openapi["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return [option for member in schema["anyOf"] for option in _options(member, openapi)]
    return [schema]


def _properties(schema: Schema, openapi: Schema) -> set[str]:
    """Names that take a value; one that takes nothing but null is not worth telling."""
    found = {
        name: inner for option in _options(schema, openapi) for name, inner in option.get("properties", {}).items()
    }
    return {name for name, inner in found.items() if inner.get("type") != "null"}


def _describe(schema: Schema, openapi: Schema) -> str:
    return ", or ".join(_describe_one(option) for option in _options(schema, openapi))


def _describe_one(schema: Schema) -> str:
    if "const" in schema:
        return f'"{schema["const"]}"'
    if "enum" in schema:
        return "one of " + ", ".join(f'"{value}"' for value in schema["enum"])
    words = {
        "integer": "a whole number",
        "number": "a number",
        "string": "a string",
        "boolean": "true or false",
        "array": "a list",
        "object": "an object",
        "null": "null",
    }
    limits = (
        ("minimum", "from {}"),
        ("exclusiveMinimum", "above {}"),
        ("maximum", "to {}"),
        ("exclusiveMaximum", "below {}"),
    )
    said = [text.format(_plain(schema[name])) for name, text in limits if name in schema]
    sizes = (("of", "Length", "character"), ("with", "Properties", "key"), ("with", "Items", "item"))
    said += [_size(schema, *size) for size in sizes if {f"min{size[1]}", f"max{size[1]}"} & schema.keys()]
    said += [f"that matches {schema['pattern']}"] if "pattern" in schema else []
    return " ".join([words[schema["type"]], *said])


def _size(schema: Schema, word: str, of: str, unit: str) -> str:
    least, most = schema.get(f"min{of}"), schema.get(f"max{of}")
    if least is not None and most is not None:
        return f"{word} {least} to {most} {unit}s"
    bound, num = ("most", most) if least is None else ("least", least)
    return f"{word} at {bound} {num} {unit}{'' if num == 1 else 's'}"


def _plain(limit: Any) -> Any:
    """OpenAPI knows no whole numbers: 50.0 is shown as 50."""
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _shown(name: str) -> str:
    return ascii(cut(name)).strip("'")
