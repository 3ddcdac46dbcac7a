"""HTTP in front of the core: parse, call the pipeline, render. Nothing is decided here that a policy decides.

bytes -> protocol.py -> paths.py, body.py -> Request -> node.core.pipeline -> vault/render.py -> bytes
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus

import msgspec
import structlog
from aiohttp import hdrs, web

from node import errors
from node.api import events, paths
from node.api.body import BodyReader
from node.api.callers import Caller
from node.api.head import (
    INCONSISTENT,
    INDEX,
    AnswerHead,
    Raw,
    operation_of,
    parse_index,
    read_head,
    request_of,
    staleness,
)
from node.api.lane import Exchange, ReadLane
from node.api.plain import PlainRequest
from node.api.protocol import Refused, Server
from node.api.vault import render
from node.api.vault.render import Rendered
from node.api.write_lane import Done, WriteLane
from node.core import pipeline
from node.core.core import Core
from node.core.request import Operation, Request, Response, Shape
from node.core.router import Match
from node.regions import forwarding
from node.regions.authority import admit_link, peer_region
from node.regions.placing import belongs_to_the_primary
from node.telemetry.logs import name_of, where
from node.telemetry.metrics import now
from storage.cache import CachedValue

STREAM_STALL_S = 60.0  # a client that takes nothing for so long is cut off
_READS = frozenset({Operation.READ, Operation.LIST, Operation.SCAN})
_WITH_BODY = frozenset({Operation.UPDATE, Operation.PATCH})
MERGE_PATCH = "application/merge-patch+json"

_log = structlog.get_logger(__name__)


def make_server(core: Core, *, tls: bool, link: bool = False) -> Server:
    """The protocol factory of a listener: `await loop.create_server(make_server(core, tls=...), ...)`.

    Call inside the running loop. `tls` only adds Strict-Transport-Security to the answers; `link` says that who
    connects has proved to be a node of another region. Stop it with drain().
    """
    return Server(
        Gateway(core, tls=tls, link=link),
        header_bytes_max=core.settings.header_bytes_max,
        connections_max=core.settings.connections_max,
    )


class Gateway:
    """Answers every request of a listener."""

    def __init__(self, core: Core, *, tls: bool, link: bool = False) -> None:
        self._core, self._link = core, link
        self._head = AnswerHead(self._place, tls=tls)
        self._bodies = BodyReader(
            body_bytes_max=core.settings.body_bytes_max, json_depth_max=core.settings.json_depth_max
        )
        lanes = core.settings.read_lane and not link
        self._reads = ReadLane(core, self._head) if lanes else None
        self._writes = WriteLane(core, self._head, self._bodies) if lanes else None

    def _place(self) -> tuple[str, int] | None:
        store = self._core.store
        return None if store is None else (self._core.lifecycle.cluster_id, store.position)

    async def __call__(self, raw: web.BaseRequest) -> web.StreamResponse:
        """Answer one of aiohttp's requests."""
        call = _Call(raw, render.new_request_id())
        try:
            rendered = await self._exchange(call)
            return await self._send(raw, rendered, close=call.close)
        finally:
            self._release(call)

    async def _send(self, raw: web.BaseRequest, rendered: Rendered, *, close: bool) -> web.StreamResponse:
        if rendered.stream is not None:
            return await self._send_stream(raw, rendered, rendered.stream)
        if rendered.subscription is not None:
            headers = self._head.fields(rendered.headers)
            return await events.serve(self._core, raw, rendered.subscription, headers)
        response = web.Response(
            status=rendered.status, body=rendered.body or None, headers=self._head.fields(rendered.headers)
        )
        if close:
            response.force_close()
        return response

    async def _send_stream(
        self, raw: web.BaseRequest, rendered: Rendered, stream: AsyncIterator[bytes]
    ) -> web.StreamResponse:
        """As fast as the client takes it. What breaks off in the middle ends the connection: no end, no answer."""
        response = web.StreamResponse(status=rendered.status, headers=self._head.fields(rendered.headers))
        try:
            await response.prepare(raw)
            async for piece in stream:
                async with asyncio.timeout(STREAM_STALL_S):
                    await response.write(piece)
            await response.write_eof()
        except Exception as error:  # noqa: BLE001 - the answer has begun: it can only be cut off
            _log.warning("an answer was cut off", error=name_of(error), where=where(error))
            if raw.transport is not None:
                raw.transport.abort()
        finally:
            await close_stream(stream)
        return response

    def begin(self, raw: PlainRequest, done: Done) -> bool:
        """Whether a plain request will be answered by calling `done`; False: ask plain()."""
        lane = self._reads if raw.method == "GET" else self._writes
        if lane is None:
            return False
        try:
            return lane.begin(raw, done)
        except Exception as error:  # noqa: BLE001 - the boundary: nothing has happened yet
            _log.error("lane failed", lane=type(lane).__name__, error=name_of(error), where=where(error))
            return False

    def answered_from(self, raw: PlainRequest) -> tuple[Caller, CachedValue, Exchange] | None:
        """ReadLane.answered_from(), of a GET that begin() has just taken."""
        return None if self._reads is None else self._reads.answered_from(raw)

    async def plain(self, raw: PlainRequest) -> tuple[bytes, bool]:
        """Answer a plain request: the bytes to send, and whether to close the connection then."""
        call = _Call(raw, render.new_request_id())
        try:
            rendered = await self._exchange(call)
        finally:
            self._release(call)
        if rendered.stream is not None or rendered.subscription is not None:
            # The path was spelled so that plain.py did not know it.
            if rendered.stream is not None:
                await close_stream(rendered.stream)
            rendered = render.message(HTTPStatus.BAD_REQUEST, "ask for this path without percent-encoding")
        length = None if rendered.status == HTTPStatus.NO_CONTENT else len(rendered.body)
        index = rendered.headers.pop(INDEX, "")
        start = self._head.start(rendered.status, rendered.headers, length, close=call.close)
        return start + self._head.end(index) + rendered.body, call.close

    def _release(self, call: "_Call") -> None:
        """The answer is over, however it ended, or there was none."""
        if call.request is not None and call.request.has_place:
            self._core.events.give_back_place()

    async def _exchange(self, call: "_Call") -> Rendered:
        """Never raises for what a client sent, nor for a bug: that is a 500 with its request id in the log."""
        core, began = self._core, now()
        core.metrics.request_started()
        try:
            rendered = await self._answer(call)
        except Refused as refusal:
            call.close = refusal.close
            rendered = render.message(refusal.status, refusal.message)
        except errors.NodeError as error:
            call.close = isinstance(error, errors.BodyTooLarge)
            rendered = render.failure(error)
            if self._link and isinstance(error, errors.NotPrimary):
                rendered.headers[forwarding.NOT_PRIMARY] = "true"
        except ConnectionError:
            call.close = True  # the client is gone; this goes nowhere
            rendered = render.message(HTTPStatus.BAD_REQUEST, "")
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - the boundary: a bug, or a panic in Rust, is no more than a 500
            _log.error("request failed", request_id=call.id, error=name_of(error), where=where(error))
            rendered = render.message(HTTPStatus.INTERNAL_SERVER_ERROR, f"internal error (request {call.id})")
        finally:
            core.metrics.request_finished()
        if call.request is not None:
            rendered.headers.update(staleness(call.request))
        core.metrics.observe(call.operation, rendered.status, now() - began)
        return rendered

    async def _answer(self, call: "_Call") -> Rendered:
        target = _target(call.raw)
        if isinstance(target, paths.Redirect):
            return Rendered(HTTPStatus.TEMPORARY_REDIRECT, b"", {"Location": target.location})
        if target.path is None:
            return render.message(HTTPStatus.NOT_FOUND, "")
        request = _request(call, target)
        if request.operation is Operation.PATCH and not self._is_raw(request):
            _check_patch_type(call.raw)
        if request.operation in _WITH_BODY:
            await self._take_body(call, request)
        if self._link:
            request.link, request.remote = True, call.raw.headers.get(forwarding.CLIENT, request.remote)
            await admit_link(self._core.unsealed, peer_region(call.raw.transport))
            shown = call.raw.headers.get(forwarding.CERTIFICATES)
            request.client_chain = lambda: forwarding.certificates(shown)
            forwarding.fence(self._core, call.raw.headers.get(forwarding.EPOCH))
        await _wait_for_index(self._core, call.raw)
        try:
            response, match = await self._handle(request)
        except errors.NotPrimary:
            if request.link or request.form:
                raise  # what has no end cannot be carried over: a token of few uses listens where it is counted
            return await self._elsewhere(call, request)
        return _rendered(request, response, match)

    async def _elsewhere(self, call: "_Call", request: Request) -> Rendered:
        """What the region that orders writes answers; where it cannot be asked, what can be answered without it."""
        try:
            return await forwarding.forward(self._core, call.raw, request)
        except errors.NotPrimary as cut_off:
            match = pipeline.route(self._core, request)
            if match is None or belongs_to_the_primary(request, match.route):
                raise
            call.request = alone = msgspec.structs.replace(request, alone=True, token_row=None, audited=None)
            try:
                return _rendered(alone, *await self._handle(alone))
            except errors.NotPrimary as refusal:
                raise errors.NotPrimary("; ".join(filter(None, (refusal.message, cut_off.message)))) from None

    async def _handle(self, request: Request) -> tuple[Response, Match | None]:
        """pipeline.handle() within the time that a request has."""
        limit_s = None if request.patient else self._core.settings.request_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await pipeline.handle(self._core, request)
        except TimeoutError:
            if request.operation in _READS:
                raise errors.TooBusy("the request took too long") from None
            raise errors.OutcomeUnknown from None

    def _is_raw(self, request: Request) -> bool:
        """Whether the path has no envelope: no such path takes PATCH, and it says that before anything else."""
        match = self._core.system.match(request.path)
        return match is not None and match.route.shape is Shape.RAW

    async def _take_body(self, call: "_Call", request: Request) -> None:
        if request.path.endswith("/"):
            raise errors.InvalidRequest("cannot write to a path ending in '/'")
        match = self._core.system.match(request.path)
        takes_file = match is not None and match.route.upload
        # A file takes as long as it takes; each of its pieces has a deadline.
        request.patient = takes_file or (match is not None and match.route.patient)
        if takes_file:
            if isinstance(call.raw, PlainRequest):
                raise errors.InvalidRequest("send to this path without percent-encoding")
            request.upload, call.close = self._bodies.stream(call.raw), True
        elif isinstance(call.raw, PlainRequest):
            request.data, request.has_body = self._bodies.parse(call.raw.body)
        else:
            request.data, request.has_body = await self._bodies.read(call.raw)


def _rendered(request: Request, response: Response, match: Match | None) -> Rendered:
    shape = Shape.LOGICAL if match is None else match.route.shape
    return render.answer(response, request_id=request.id, shape=shape)


async def close_stream(stream: AsyncIterator[bytes]) -> None:
    """Release what a stream holds, read to its end or not."""
    if isinstance(stream, AsyncGenerator):
        await stream.aclose()


@dataclass(slots=True)
class _Call:
    """One exchange, as far as the answer needs it."""

    raw: Raw
    id: str
    operation: str = "none"
    close: bool = False
    request: Request | None = None


def _target(raw: Raw) -> paths.Target | paths.Redirect:
    try:
        return paths.parse(raw.raw_path)
    except paths.BadPath as error:
        raise errors.InvalidRequest(str(error)) from None


def _request(call: _Call, target: paths.Target) -> Request:
    read_head(call.raw)  # a bad header is told before a method that is not offered
    operation = operation_of(call.raw.method, target)
    call.operation = operation.value
    request = call.request = request_of(call.raw, target, operation, call.id)
    if operation is Operation.READ and request.path.startswith(events.PATH):
        headers = call.raw.headers
        request.form = events.form_of(call.raw)
        if events.LAST_EVENT_ID in headers:
            request.query = {**request.query, "after": headers[events.LAST_EVENT_ID]}
    return request


def _check_patch_type(raw: Raw) -> None:
    given = raw.headers.get(hdrs.CONTENT_TYPE)
    if not given:
        raise errors.InvalidRequest("mime: no media type")
    media_type = given.partition(";")[0].strip().lower()
    if media_type != MERGE_PATCH:
        raise Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"PATCH requires Content-Type of {MERGE_PATCH}, provided {media_type}",
        )


async def _wait_for_index(core: Core, raw: Raw) -> None:
    """Hold the request until this node has applied what the caller has seen elsewhere. Raises NotYet."""
    header, store = raw.headers.get(INDEX), core.store
    if header is None or store is None:
        return
    cluster, index = parse_index(header)
    if cluster != core.lifecycle.cluster_id:
        raise errors.InvalidRequest(f"{INDEX} is of another cluster")
    if store.position >= index:
        return
    if raw.headers.get(INCONSISTENT, "") == "forward-active-node":
        await store.fresh()
    else:
        await store.wait_for(index, core.settings.index_wait_s)
    if store.position < index:
        raise errors.NotYet
