"""The OpenAPI document (3.0.3) of path tables: nothing is written twice, all of it is in the routes.

What a client may send is described strictly; the server itself is looser (node/auth/fields.py). An answer's fields
may be null, and more may come than are described.
"""

import re
from collections.abc import Iterable
from typing import Any

from node import VERSION
from node.core.fields import ANY_NAME, LISTED, Field, Kind, Place
from node.core.request import Operation, Shape
from node.core.router import Route

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
_PARAMETER = re.compile(r"\{([^}.]+)(?:\.\.\.)?\}")
_BODIES = {Operation.UPDATE: JSON, Operation.PATCH: MERGE_PATCH}
_METHODS = {
    Operation.READ: "get",
    Operation.LIST: "get",
    Operation.SCAN: "get",
    Operation.UPDATE: "post",
    Operation.PATCH: "patch",
    Operation.DELETE: "delete",
}
_LISTINGS = {Operation.LIST: "list", Operation.SCAN: "scan"}
_TYPES: dict[Kind, dict[str, Any]] = {
    Kind.STRING: {"type": "string"},
    Kind.INTEGER: {"type": "integer", "format": "int64"},
    Kind.NUMBER: {"type": "number"},
    Kind.BOOLEAN: {"type": "boolean"},
    Kind.DURATION: {"oneOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]},
    Kind.STRINGS: {"type": "array", "items": {"type": "string"}},
    Kind.STRING_MAP: {"type": "object", "additionalProperties": {"type": "string"}},
    Kind.OBJECT: {"type": "object"},
    Kind.OBJECTS: {"type": "array", "items": {"type": "object"}},
    Kind.ANY: {},
}
_REFERENCE = "#/components/schemas/"
_ERROR = {
    "type": "object",
    "required": ["errors"],
    "properties": {"errors": {"type": "array", "items": {"type": "string"}}},
}
_ENVELOPE: dict[str, Any] = {
    "type": "object",
    "required": [
        "request_id",
        "lease_id",
        "renewable",
        "lease_duration",
        "data",
        "wrap_info",
        "warnings",
        "auth",
    ],
    "properties": {
        "request_id": {"type": "string"},
        "lease_id": {"type": "string"},
        "renewable": {"type": "boolean"},
        "lease_duration": {"type": "integer"},
        "data": {"type": "object", "nullable": True},
        "wrap_info": {"type": "object", "nullable": True},
        "warnings": {"type": "array", "items": {"type": "string"}, "nullable": True},
        "auth": {"type": "object", "nullable": True},
    },
}


def document(entries: Iterable[tuple[str, Route]]) -> dict[str, Any]:
    """Routes, each with what stands before its pattern ("" or a mount's path), as one document."""
    paths: dict[str, dict[str, Any]] = {}
    for prefix, route in entries:
        if not route.listed:
            continue
        # A listing is also asked for without its slash: one entry describes both spellings.
        path = "/" + (prefix + _PARAMETER.sub(r"{\1}", route.pattern)).removesuffix("/")
        item = paths.setdefault(path, _item(route))
        for operation in _METHODS:
            if operation in route.handlers:
                _add(item, path, operation, route)
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Strongroom API",
            "description": "The Vault HTTP API. All paths are prefixed with /v1/.",
            "version": VERSION,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "servers": [{"url": "/v1"}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {"Error": _ERROR, "Envelope": _ENVELOPE},
            "securitySchemes": {"token": {"type": "apiKey", "in": "header", "name": "X-Vault-Token"}},
        },
    }


def declared(route: Route) -> list[Field]:
    """The route's fields, with those parameters of its pattern that it does not describe."""
    described = {each.name for each in route.fields if each.place is Place.PATH}
    bare = [name for name in _PARAMETER.findall(route.pattern) if name not in described]
    return [Field(name, required=True, place=Place.PATH) for name in bare] + list(route.fields)


def answered(route: Route, operation: Operation) -> tuple[Field, ...]:
    """What an answer of 200 holds; nothing: there is none, or it has only warnings."""
    return route.answers.get(operation, (LISTED,) if operation in _LISTINGS else ())


def _item(route: Route) -> dict[str, Any]:
    item: dict[str, Any] = {"description": route.summary} if route.summary else {}
    parameters = [_parameter(each) for each in declared(route) if each.place is Place.PATH]
    if parameters:
        item["parameters"] = parameters
    if not route.authenticated:
        item["x-vault-unauthenticated"] = True
    if route.sudo:
        item["x-vault-sudo"] = True
    if route.exists is not None:
        item["x-vault-createSupported"] = True
    return item


def _add(item: dict[str, Any], path: str, operation: Operation, route: Route) -> None:
    """A method may stand for two operations: a GET with ?list=true is a LIST."""
    method = _METHODS[operation]
    present = item.get(method)
    if operation in _LISTINGS and present is not None:
        if any(each["name"] == _LISTINGS[operation] for each in present["parameters"]):
            return  # the same list, spelled with its slash
        present["parameters"].append(_switch(operation, required=False))
        present["responses"]["200"] = _either(present["responses"]["200"], _success(operation, route))
        return
    found = _operation(path, operation, route)
    if operation in _LISTINGS:
        found["parameters"].append(_switch(operation, required=Operation.READ not in route.handlers))
    item[method] = found


def _operation(path: str, operation: Operation, route: Route) -> dict[str, Any]:
    method = _METHODS[operation]
    name = re.sub(r"[^a-z0-9]+", "-", path.lower()).strip("-")
    found: dict[str, Any] = {
        "operationId": f"{method}-{name}",
        "tags": [path.split("/")[1]],
        "parameters": [_parameter(each) for each in route.fields if _applies(each, operation, Place.QUERY)],
        "responses": _responses(operation, route),
        "security": [{"token": []}] if route.authenticated else [],
    }
    if route.summary:
        found["summary"] = route.summary
    body = [each for each in route.fields if _applies(each, operation, Place.BODY)]
    if operation in _BODIES and (body or not route.fields):
        found["requestBody"] = _body(_BODIES[operation], body)
    return found


def _applies(field: Field, operation: Operation, place: Place) -> bool:
    if field.place is not place or (field.operations is not None and operation not in field.operations):
        return False
    return place is Place.QUERY or operation in _BODIES


def _parameter(field: Field) -> dict[str, Any]:
    schema = dict(_TYPES[field.kind])
    if field.place is Place.PATH:
        schema |= {"minLength": 1}
    return {
        "name": field.name,
        "in": field.place.value,
        "description": field.summary,
        "required": field.place is Place.PATH or field.required,
        "schema": schema,
    }


def _switch(operation: Operation, *, required: bool) -> dict[str, Any]:
    return {
        "name": _LISTINGS[operation],
        "in": "query",
        "description": "Must be true: list what is below." if required else "If true, list what is below.",
        "required": required,
        "schema": {"type": "string", "enum": ["true"]},
    }


def _body(content_type: str, fields: list[Field]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": _properties(fields, nullable=False)}
    required = [each.name for each in fields if each.required]
    if required:
        schema["required"] = required
    return {"required": bool(required), "content": {content_type: {"schema": schema}}}


def _properties(fields: Iterable[Field], *, nullable: bool) -> dict[str, Any]:
    return {each.name: _property(each, nullable) for each in fields if each.name != ANY_NAME}


def _object(fields: Iterable[Field], *, nullable: bool) -> dict[str, Any]:
    fields = list(fields)
    schema: dict[str, Any] = {"type": "object", "properties": _properties(fields, nullable=nullable)}
    for each in fields:
        if each.name == ANY_NAME:
            schema["additionalProperties"] = _property(each, nullable)
    return schema


def _property(field: Field, nullable: bool) -> dict[str, Any]:
    schema = dict(_TYPES[field.kind])
    if field.members:
        members = _object(field.members, nullable=nullable)
        schema = members if field.kind is Kind.OBJECT else {"type": "array", "items": members}
    if nullable:  # in an answer; without a type there is nothing to be null besides
        schema = schema | {"nullable": True} if "type" in schema else {}
    return schema | ({"description": field.summary} if field.summary else {})


def _responses(operation: Operation, route: Route) -> dict[str, Any]:
    error = {"$ref": _REFERENCE + "Error"}
    success = _success(operation, route)
    # Statuses that a caller chooses (sys/health) carry the same body; a deleted version is a 404 in the envelope.
    other = [error, success] if route.shape is Shape.RAW else [error, {"$ref": _REFERENCE + "Envelope"}]
    found: dict[str, Any] = {
        "200": _content("OK", success) if route.media_type == JSON else _bytes(route.media_type),
        "204": {"description": "Done, or nothing there to read"},
        "default": _content("What went wrong", {"anyOf": other}),
    }
    if operation not in _LISTINGS and operation is not Operation.READ:
        found["202"] = {"description": "Begun, or done: with or without a body"}
    if operation is Operation.PATCH:
        found["404"] = {"description": "Nothing there to change: with or without a body"}
    return found


def _success(operation: Operation, route: Route) -> dict[str, Any]:
    fields = answered(route, operation)
    data = _object((each for each in fields if each.place is not Place.ENVELOPE), nullable=True)
    if not data["properties"] and "additionalProperties" not in data:  # warnings, a lease, or a token
        data = {"type": "object", "maxProperties": 0}
    if route.shape is Shape.RAW:
        return data
    members = _properties((each for each in fields if each.place is Place.ENVELOPE), nullable=True)
    if route.shape is Shape.DOUBLE:  # once more, beside `data`
        members = data.get("properties", {}) | members
    narrowed = {"type": "object", "properties": members | {"data": data | {"nullable": True}}}
    return {"allOf": [{"$ref": _REFERENCE + "Envelope"}, narrowed]}


def _content(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {JSON: {"schema": schema}}}


def _bytes(media_type: str) -> dict[str, Any]:
    return {"description": "OK", "content": {media_type: {"schema": {"type": "string", "format": "binary"}}}}


def _either(response: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    before = response["content"][JSON]["schema"]
    return response if before == schema else _content(response["description"], {"anyOf": [before, schema]})
