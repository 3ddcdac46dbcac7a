"""`?help=1`: what a path takes and answers, in words and as OpenAPI, from its route."""

from typing import Any

from node.core import openapi
from node.core.core import Core
from node.core.fields import Field, Kind, Place
from node.core.request import Operation, Request, Response, Shape
from node.core.router import Match, Route, Table

SYSTEM = "sys"
_METHODS = {
    Operation.READ: "GET",
    Operation.LIST: "LIST",
    Operation.SCAN: "SCAN",
    Operation.UPDATE: "POST",
    Operation.PATCH: "PATCH",
    Operation.DELETE: "DELETE",
}
_KINDS = {Kind.INTEGER: "int", Kind.BOOLEAN: "bool", Kind.STRINGS: "slice", Kind.STRING_MAP: "keypair"} | {
    Kind.DURATION: "duration (sec)",
    Kind.OBJECT: "map",
}


def answer(core: Core, request: Request, match: Match | None) -> Response | None:
    """Help for one path, or for all of a mount; None where nobody answers."""
    path = request.path.removesuffix("/")
    if path == SYSTEM:
        text, entries = _of_table(core.system), [("", route) for route in core.system.routes]
    elif request.mount is not None and path + "/" == request.mount.path:
        table = core.engines[request.mount.engine]
        text, entries = _of_table(table), [("", route) for route in table.routes]
    elif match is not None:
        text, entries = _of_route(request.path, match.route), [("", match.route)]
    else:
        return None
    data: dict[str, Any] = {"help": text, "openapi": openapi.document(entries), "see_also": None}
    return Response(data=data, shape=Shape.RAW)


def _of_route(path: str, route: Route) -> str:
    lines = [
        f"Request:        {path}",
        f"Matching Route: {route.pattern}",
        "",
        route.summary or "No description.",
    ]
    fields = sorted(openapi.declared(route), key=lambda each: each.name)
    if fields:
        lines += ["", "## PARAMETERS"]
        for each in fields:
            lines += [
                "",
                f"    {each.name} ({_KINDS.get(each.kind, 'string')})",
                "",
                f"        {_told(each)}",
            ]
    lines += ["", "## DESCRIPTION", "", "This path responds to the following HTTP methods.", ""]
    lines += [f"    {_METHODS[operation]}" for operation in _METHODS if operation in route.handlers]
    return "\n".join(lines)


def _told(field: Field) -> str:
    place = {Place.PATH: "Part of the path.", Place.QUERY: "In the query.", Place.BODY: ""}[field.place]
    return " ".join(part for part in (field.summary, "Required." if field.required else "", place) if part)


def _of_table(table: Table) -> str:
    lines = ["## PATHS", "", "The following paths are supported. Ask any of them for its own help."]
    for route in sorted((each for each in table.routes if each.listed), key=lambda route: route.pattern):
        lines += ["", f"    {route.pattern}", f"        {route.summary or 'No description.'}"]
    return "\n".join(lines)
