"""sys/wrapping: wrap anything, and look at, unwrap or rewrap what was wrapped."""

from node.auth.fields import SECOND_NS, rfc3339, text
from node.core.core import Core
from node.core.fields import AUTH, Field, Kind, Place, named, of_any_name
from node.core.request import Operation, Request, Response
from node.core.router import Route
from node.core.wrapping import find, rewrap, unwrap
from node.errors import InvalidRequest, PermissionDenied
from storage.secret import Secret

_TOKEN = (Field("token", summary="The wrapping token; without it, the one in the header."),)

_ANYTHING = of_any_name(Kind.ANY, "What is wrapped.")
_WRAP_INFO = Field("wrap_info", Kind.OBJECT, "The token that fetches it, once.", place=Place.ENVELOPE)
_MADE_FOR = (
    *named(Kind.STRING, "creation_path creation_time"),
    Field("creation_ttl", Kind.INTEGER, "Seconds."),
)


def routes() -> list[Route]:
    """The table of this module."""
    return [
        Route(
            "sys/wrapping/wrap",
            {Operation.UPDATE: _wrap},
            summary="Wraps the body, under the lifetime that X-Vault-Wrap-TTL asks for.",
            fields=(_ANYTHING,),
            answers={Operation.UPDATE: (_WRAP_INFO, _ANYTHING)},
        ),
        Route(
            "sys/wrapping/lookup",
            {Operation.READ: _lookup, Operation.UPDATE: _lookup},
            local=True,
            authenticated=False,
            summary="Tells what a wrapping token was made for, and when.",
            fields=_TOKEN,
            answers=dict.fromkeys((Operation.READ, Operation.UPDATE), _MADE_FOR),
        ),
        Route(
            "sys/wrapping/unwrap",
            {Operation.UPDATE: _unwrap},
            anonymous=_by_header,
            summary="Hands out what was wrapped, once.",
            fields=_TOKEN,
            answers={Operation.UPDATE: (AUTH, _ANYTHING)},
        ),
        Route(
            "sys/wrapping/rewrap",
            {Operation.UPDATE: _rewrap},
            anonymous=_by_header,
            summary="Puts what was wrapped under a new token.",
            fields=_TOKEN,
            answers={Operation.UPDATE: (_WRAP_INFO,)},
        ),
    ]


async def _wrap(core: Core, request: Request, params: dict[str, str]) -> Response:
    if not request.wrap_ttl_ns:
        raise InvalidRequest("endpoint requires response wrapping to be used")
    return Response(data=request.data)


async def _lookup(core: Core, request: Request, params: dict[str, str]) -> Response:
    wrapped = find(core, _token(request))
    return Response(
        data={
            "creation_path": wrapped.path,
            "creation_time": rfc3339(wrapped.created_ns),
            "creation_ttl": wrapped.ttl_ns // SECOND_NS,
        }
    )


async def _unwrap(core: Core, request: Request, params: dict[str, str]) -> Response:
    return await unwrap(core, find(core, _token(request)))


async def _rewrap(core: Core, request: Request, params: dict[str, str]) -> Response:
    return await rewrap(core, find(core, _token(request)))


def _by_header(request: Request) -> bool:
    """Whether the wrapping token is the only one that the request shows: it is authority enough."""
    return _in_body(request) is None


def _in_body(request: Request) -> Secret | None:
    """The token in the body, unless it only repeats the one in the header."""
    token = text(request.data.get("token"), "token").encode()
    return Secret(token) if token and (request.token is None or token != request.token.reveal()) else None


def _token(request: Request) -> Secret:
    token = _in_body(request) or request.token
    if token is None:
        raise PermissionDenied("error validating wrapping token: token is empty")
    return token
