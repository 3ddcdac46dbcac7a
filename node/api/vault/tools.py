"""sys/tools/: random bytes and digests."""

from node import tools
from node.auth.fields import integer, text
from node.core.core import Core
from node.core.fields import Field, Kind, in_path
from node.core.request import Operation, Request, Response
from node.core.router import Route
from node.errors import InvalidRequest

SOURCES = ("platform", "seal", "all")  # all of them are the operating system's generator

_RANDOM = (
    Field("bytes", Kind.INTEGER, f"How many; {tools.RANDOM_BYTES_DEFAULT} if nothing is said."),
    Field("format", Kind.STRING, "base64 (default) or hex."),
)
_HASH = (
    Field("input", Kind.STRING, "What to digest, in base64.", required=True),
    Field("algorithm", Kind.STRING, "sha2-256 (default), another of SHA-2, or one of SHA-3."),
    Field("format", Kind.STRING, "hex (default) or base64."),
)


def routes() -> list[Route]:
    """The table of this module."""
    update = Operation.UPDATE
    table = []
    for tail in ("", "/{count}", "/{source}/{count}"):
        paths = tuple(
            in_path(name, summary)
            for name, summary in (
                ("source", "platform, seal or all."),
                ("count", "How many bytes, or a source."),
            )
            if f"{{{name}}}" in tail
        )
        table.append(
            Route(
                f"sys/tools/random{tail}",
                {update: _random},
                local=True,
                summary="Random bytes.",
                fields=(*paths, *_RANDOM),
                answers={update: (Field("random_bytes", Kind.STRING, "Encoded as asked."),)},
            )
        )
    for tail in ("", "/{algorithm}"):
        paths = (in_path("algorithm", "Instead of the field."),) if tail else ()
        table.append(
            Route(
                f"sys/tools/hash{tail}",
                {update: _hash},
                local=True,
                summary="The digest of some data.",
                fields=(*paths, *(each for each in _HASH if not tail or each.name != "algorithm")),
                answers={update: (Field("sum", Kind.STRING, "Encoded as asked."),)},
            )
        )
    return table


async def _random(core: Core, request: Request, params: dict[str, str]) -> Response:
    count, source = params.get("count", ""), params.get("source", "platform")
    if count in SOURCES:
        source, count = count, ""
    if source not in SOURCES:
        raise InvalidRequest(f'unsupported entropy source "{source}"; must be "platform", "seal" or "all"')
    wanted = integer(count or request.data.get("bytes") or tools.RANDOM_BYTES_DEFAULT, "bytes")
    form = text(request.data.get("format") or "base64", "format")
    return Response(data={"random_bytes": tools.random_bytes(wanted, form)})


async def _hash(core: Core, request: Request, params: dict[str, str]) -> Response:
    algorithm = params.get("algorithm") or text(request.data.get("algorithm") or "sha2-256", "algorithm")
    form = text(request.data.get("format") or "hex", "format")
    data = text(request.data.get("input"), "input")
    return Response(data={"sum": tools.digest(data, algorithm, form)})
