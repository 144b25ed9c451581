"""OpenAPI 3.1 of the API, made from the table of operations and the structs that check its messages."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final

import msgspec

from cli.http.messages import Answer, Message, Nothing, ProblemAnswer
from cli.http.operations import Operation
from cli.http.tokens import Scope

_REFERENCE: Final = "#/components/schemas/{name}"

_PATH_SCHEMAS: Final[Mapping[str, Mapping[str, Any]]] = {
    "run_id": {"type": "string", "format": "uuid", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
    "consumer": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$", "maxLength": 100},
    "shard": {"type": "integer", "minimum": 0, "maximum": 9_999},
}

_HEADERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "Idempotency-Key": {
        "description": "The same key with the same body gives the same run; with another body it is refused.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
        "example": "build-17",
    },
    "If-Match": {
        "description": "The ETag of the run as the caller saw it; refused with 412 when it has moved on.",
        "schema": {"type": "string", "pattern": '^"[0-9]{1,15}"$'},
        "example": '"7"',
    },
    "Runfold-Lease": {
        "description": "The `lease` of a claim: writes are refused once it went to another worker.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,2048}$"},
    },
    "Last-Event-ID": {
        "description": "Position of the last event seen; it wins over `after`.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,15}$"},
    },
}

_WORDS: Final = {
    200: "Done",
    201: "A new run",
    204: "The run has ended, and everything was seen: do not come back",
    304: "Not changed since",
    400: "The request cannot be understood",
    401: "No token, or none that works",
    403: "The token does not allow this",
    404: "There is no such run or consumer, or it is not for this token",
    405: "Not with this method",
    408: "The body did not come",
    409: "Refused: the rules of a run forbid it, or another writer was first",
    412: "The run is not at the version of If-Match",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "A value cannot be taken, or the idempotency key stands for another body",
    429: "Too many requests",
    500: "A defect of the server",
    503: "The ledger or the server is busy or away: try again",
}


def openapi(operations: Sequence[Operation]) -> dict[str, Any]:
    """Write the document.

    Args:
        operations: All of them.
    """
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Runfold",
            "version": "1",
            "description": "An event-sourced run ledger over HTTP. Every error is an RFC 9457 problem with a stable"
            " `code`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Made by `runfold token create`. Scopes: "
                    + ", ".join(f"`{scope}`" for scope in Scope)
                    + ".",
                }
            },
            "schemas": _schemas(operations),
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    document: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [
            *_path_parameters(operation),
            *_query_parameters(operation.query),
            *_header_parameters(operation),
        ],
        "responses": {str(status): _response(operation, status) for status in _statuses(operation)},
        "security": [] if operation.scope is None else [{"token": []}],
    }
    if operation.scope is not None:
        document["x-scope"] = operation.scope.value
        document["x-every-project"] = operation.needs_every_project
    if operation.body is not None and operation.body is not Nothing:
        document["requestBody"] = {
            "required": any(field.required for field in msgspec.structs.fields(operation.body)),
            "content": {"application/json": {"schema": _reference(operation.body)}},
        }
    return document


def _statuses(operation: Operation) -> Iterable[int]:
    """Give every status that an operation can answer with."""
    found = {*operation.statuses, 500, 503}
    if operation.scope is not None:
        found |= {400, 401, 403, 422, 429}
    if "{run_id}" in operation.path or "{consumer}" in operation.path:
        found.add(404)
    if operation.is_write:
        found |= {408, 409, 413, 415}
    if operation.takes_version:
        found.add(412)
    return sorted(found)


def _response(operation: Operation, status: int) -> dict[str, Any]:
    document: dict[str, Any] = {"description": _WORDS[status]}
    if status in (204, 304):
        return document
    if status >= 400:
        document["content"] = {"application/problem+json": {"schema": _reference(ProblemAnswer)}}
        return document
    headers: dict[str, Any] = {"X-Request-Id": {"schema": {"type": "string"}}}
    if operation.takes_version or operation.name == "get_run":
        headers["ETag"] = {"schema": {"type": "string"}}
    if operation.takes_key:
        headers["Location"] = {"schema": {"type": "string"}}
    if operation.answer is not None:
        schema: dict[str, Any] = _reference(operation.answer)
    else:
        schema = {"type": "object"} if operation.media_type == "application/json" else {"type": "string"}
    return {**document, "headers": headers, "content": {operation.media_type.partition(";")[0]: {"schema": schema}}}


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": dict(_PATH_SCHEMAS[name])}
        for name in re.findall(r"\{(\w+)\}", operation.path)
    ]


def _query_parameters(query: type[Message]) -> list[dict[str, Any]]:
    components, _ = _described([query])
    schema = components[query.__name__]
    parameters = []
    for name, shape in schema.get("properties", {}).items():
        shape = _without_null(shape)
        parameters.append(
            {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": shape}
        )
    return parameters


def _without_null(shape: dict[str, Any]) -> dict[str, Any]:
    """Give the shape of what may be left out, which in a query cannot be null."""
    given = {name: value for name, value in shape.items() if name != "default" or value not in (None, [])}
    choices = [choice for choice in given.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1:
        given.pop("anyOf")
        given |= choices[0]
    return given


def _header_parameters(operation: Operation) -> list[dict[str, Any]]:
    names = [
        *(["Idempotency-Key"] if operation.takes_key else []),
        *(["If-Match"] if operation.takes_version else []),
        *(["Runfold-Lease"] if operation.takes_lease else []),
        *(["Last-Event-ID"] if operation.is_stream else []),
    ]
    return [
        {"name": name, "in": "header", "required": operation.needs_lease and name == "Runfold-Lease", **_HEADERS[name]}
        for name in names
    ]


def _reference(kind: Answer) -> dict[str, Any]:
    return {"$ref": _REFERENCE.format(name=kind.__name__)}


def _schemas(operations: Sequence[Operation]) -> dict[str, Any]:
    bodies = {operation.body for operation in operations if operation.body not in (None, Nothing)}
    queries = {operation.query for operation in operations}
    answers = {operation.answer for operation in operations if operation.answer is not None}
    components, _ = _described([*bodies, *answers, *queries, ProblemAnswer])
    for query in queries:
        if query not in bodies:
            components.pop(query.__name__, None)
    return {name: _tidied(components[name]) for name in sorted(components)}


def _described(kinds: Iterable[type]) -> tuple[dict[str, Any], tuple[Any, ...]]:
    ordered = sorted(kinds, key=lambda kind: kind.__name__)
    refs, components = msgspec.json.schema_components(ordered, ref_template=_REFERENCE)
    return dict(components), refs


@cache
def _spaces() -> re.Pattern[str]:
    return re.compile(r"\s+")


def _tidied(schema: dict[str, Any]) -> dict[str, Any]:
    if "description" in schema:
        schema = {**schema, "description": _spaces().sub(" ", schema["description"]).strip()}
    return schema
