"""sys/capabilities and its variants: what a token may do on given paths."""

from typing import Any

from node.auth import fields
from node.auth.identity import live
from node.core.core import Core
from node.core.fields import Field, Kind, of_any_name
from node.core.request import Operation, Request, Response, Shape
from node.core.router import Handler, Route
from node.errors import InvalidRequest
from storage.rows import Token
from storage.secret import Secret


def routes() -> list[Route]:
    """The table of this module."""
    token = Field("token", Kind.STRING, "Whose.", required=True)
    own = Field("token", Kind.STRING, "Without effect: it is the caller's.")
    accessor = Field("accessor", Kind.STRING, "Of the token whose.", required=True)
    return [
        _route("sys/capabilities", capabilities, (token,)),
        _route("sys/capabilities-self", capabilities_self, (own,)),
        _route("sys/capabilities-accessor", capabilities_accessor, (accessor,)),
    ]


def _route(pattern: str, handler: Handler, whose: tuple[Field, ...]) -> Route:
    return Route(
        pattern,
        {Operation.UPDATE: handler},
        local=True,
        shape=Shape.DOUBLE,
        summary="What a token may do on some paths.",
        fields=(
            *whose,
            Field("paths", Kind.STRINGS, "Which."),
            Field("path", Kind.STRINGS, "Which; the older name."),
        ),
        answers={
            Operation.UPDATE: (
                Field("capabilities", Kind.STRINGS, "On the one path that was asked for."),
                of_any_name(Kind.STRINGS, "On a path."),
            )
        },
    )


async def capabilities(core: Core, request: Request, params: dict[str, str]) -> Response:
    token = fields.text(request.data.get("token"), "token")
    row = core.tokens.find(core.unsealed, Secret(token.encode())) if token else None
    if row is None:
        raise InvalidRequest("1 error occurred:\n\t* invalid token\n\n")
    return _answer(core, request, row)


async def capabilities_self(core: Core, request: Request, params: dict[str, str]) -> Response:
    assert request.token_row is not None, "an authenticated route"
    return _answer(core, request, request.token_row)


async def capabilities_accessor(core: Core, request: Request, params: dict[str, str]) -> Response:
    accessor = fields.text(request.data.get("accessor"), "accessor")
    if not accessor:
        raise InvalidRequest("missing accessor")
    store = core.unsealed
    row = live(store.reads.token_by_accessor(accessor), store.now_ns())
    if row is None:
        raise InvalidRequest("1 error occurred:\n\t* invalid accessor\n\n")
    return _answer(core, request, row)


def _answer(core: Core, request: Request, row: Token) -> Response:
    paths = fields.strings(request.data.get("paths"), "paths")
    paths = paths or fields.strings(request.data.get("path"), "path")
    if not paths:
        raise InvalidRequest("paths must be supplied")
    acl = core.acl(row)
    answer: dict[str, Any] = {path: acl.capabilities(path.lstrip("/")) for path in paths}
    if len(answer) == 1:
        answer["capabilities"] = answer[paths[0]]
    return Response(data=answer)
