"""What takes no key: hashes and random bytes."""

from node import tools
from node.auth.fields import integer, text
from node.core.core import Core
from node.core.fields import Field, Kind
from node.core.request import Operation, Request, Response
from node.core.router import Route
from node.engines.transit.operations import route
from node.engines.transit.signing import INPUT, algorithm_of, with_algorithm
from node.errors import InvalidRequest, NotFound

_FORM = Field("format", summary="hex or base64.")


def routes() -> list[Route]:
    """The paths of a mount that use no key, relative to it."""
    drawn = (Field("random_bytes"),)
    amount = (Field("bytes", Kind.INTEGER, "How many."), _FORM)
    return [
        *with_algorithm("hash", _hash, "Hashes.", (INPUT, _FORM), (Field("sum"),)),
        *(
            route(pattern, _random, "Random bytes.", amount, drawn)
            for pattern in ("random", "random/{bytes}", "random/{source}/{bytes}")
        ),
        Route(
            "cache-config",
            {Operation.READ: _cache},
            summary="The size of the cache: there is none.",
            answers={Operation.READ: (Field("size", Kind.INTEGER),)},
        ),
    ]


async def _hash(core: Core, request: Request, params: dict[str, str]) -> Response:
    if request.data.get("input") is None:
        raise InvalidRequest("input missing")
    form = text(request.data.get("format"), "format") or "hex"
    digest = tools.digest(text(request.data["input"], "input"), algorithm_of(request, params), form)
    return Response(data={"sum": digest})


async def _random(core: Core, request: Request, params: dict[str, str]) -> Response:
    if params.get("source", "platform") not in ("platform", "seal", "all"):
        raise NotFound
    count = integer(params.get("bytes") or request.data.get("bytes", tools.RANDOM_BYTES_DEFAULT), "bytes")
    form = text(request.data.get("format"), "format") or "base64"
    return Response(data={"random_bytes": tools.random_bytes(count, form)})


async def _cache(core: Core, request: Request, params: dict[str, str]) -> Response:
    return Response(data={"size": 0})
