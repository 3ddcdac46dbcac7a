"""sys/regions/link: what the nodes of other regions ask, on links alone, whose TLS says who they are."""

import asyncio
from typing import TypeVar

import msgspec

from node.auth import fields as values
from node.core.core import Core
from node.core.request import Operation, Request, Response, Shape
from node.core.router import Handler, Route
from node.errors import InvalidRequest
from node.regions import control, stream
from node.regions.stream import Question, Standing

BINARY = "application/octet-stream"

T = TypeVar("T")


def link_route(name: str, handler: Handler, *, shape: Shape = Shape.LOGICAL) -> Route:
    """A question from another region: answered by this very node."""
    return Route(
        f"sys/regions/link/{name}",
        {Operation.UPDATE: handler},
        authenticated=False,
        audited=False,
        fresh=False,
        local=True,
        link=True,
        listed=False,
        shape=shape,
    )


def routes() -> list[Route]:
    """The table of this module."""
    return [
        link_route("hello", hello, shape=Shape.RAW),
        link_route("stream", pull),
        link_route("snapshot", snapshot),
    ]


async def hello(core: Core, request: Request, params: dict[str, str]) -> Response:
    asker, worker = _converted(request, Standing), control.worker(core)
    worker.superseded(asker.rank, asker)
    worker.introduced(asker)
    told = await stream.confirmed(core.unsealed)
    told = msgspec.structs.replace(told, lag_s=control.lag(worker, told)["lag_seconds"])
    return Response(data=msgspec.to_builtins(told))


async def pull(core: Core, request: Request, params: dict[str, str]) -> Response:
    """Batch after batch, for as long as the asker listens."""
    question, store = _converted(request, Question), core.unsealed
    worker = control.worker(core)
    worker.superseded(question.standing.rank, question.standing)
    pieces = stream.answers(store, question, worker.throttle)
    return Response(stream=pieces, headers={"Content-Type": BINARY})


async def snapshot(core: Core, request: Request, params: dict[str, str]) -> Response:
    """{asker, position}: make a copy of the state; {id}: is it made? {id, offset}: a piece; {id, done}: it can go."""
    copies = core.copies
    if copies is None:
        raise InvalidRequest("a server in memory takes no part in regions")
    identity = values.text(request.data.get("id"), "id") or copies.begin(
        values.text(request.data.get("asker"), "asker"),
        values.integer(request.data.get("position"), "position"),
    )
    if values.boolean(request.data.get("done"), "done"):
        copies.forget(identity)
        return Response(body=b"{}", headers={"Content-Type": "application/json"})
    if "offset" not in request.data:
        told = await copies.described(identity)
        return Response(body=msgspec.json.encode(told), headers={"Content-Type": "application/json"})
    throttle, offset = control.worker(core).throttle, values.integer(request.data.get("offset"), "offset")
    piece = await asyncio.to_thread(copies.piece, identity, offset, throttle.slice_bytes)
    await throttle.let_pass(len(piece))
    return Response(body=piece, headers={"Content-Type": BINARY})


def _converted(request: Request, kind: type[T]) -> T:
    try:
        return msgspec.convert(request.data, kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"another region asked for something else: {error}") from None
