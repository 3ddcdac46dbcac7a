"""The connection of a subscriber: its answer's head, until when it lasts, and how it is told that it is over.

What goes through it in between is written by node/events/stream.py, straight into the transport.
"""

import asyncio
import base64
import contextlib
import socket
from collections.abc import Callable, Mapping

from aiohttp import WSCloseCode, WSMsgType, hdrs, web
from aiohttp.http_writer import HttpVersion11

from node.api.head import Raw
from node.api.protocol import Connection
from node.core.core import Core
from node.core.request import Response
from node.errors import AuditFailed, InvalidRequest
from node.events import encoding
from node.events.subscription import End, Form, Subscription

PATH = "sys/events/subscribe/"
LAST_EVENT_ID = "Last-Event-ID"
SSE_TYPE = "text/event-stream"
WEBSOCKET_VERSION = "13"
WEBSOCKET_KEY_BYTES = 16
CLIENT_MESSAGE_BYTES_MAX = 4096
UNACKNOWLEDGED_MS = 30_000  # what a peer has not acknowledged for so long shows that it is gone
CLOSING_S = 2.0

_CLOSE_CODES = {
    End.REVOKED: WSCloseCode.POLICY_VIOLATION,
    End.FORBIDDEN: WSCloseCode.POLICY_VIOLATION,
    End.SLOW: WSCloseCode.TRY_AGAIN_LATER,
    End.LIMIT: WSCloseCode.OK,
    End.CLIENT: WSCloseCode.OK,
}


def form_of(raw: Raw) -> str:
    """The Form that a request's headers ask for; "" for none. Raises InvalidRequest."""
    headers = raw.headers
    if isinstance(raw, web.BaseRequest) and raw.version < HttpVersion11:
        raise InvalidRequest("events need HTTP/1.1")
    if headers.get(hdrs.UPGRADE, "").strip().lower() == "websocket":
        if headers.get(hdrs.SEC_WEBSOCKET_VERSION) != WEBSOCKET_VERSION:
            raise InvalidRequest("the WebSocket must be of version 13")
        if not _is_key(headers.get(hdrs.SEC_WEBSOCKET_KEY, "")):
            raise InvalidRequest("malformed WebSocket handshake")
        return Form.WEBSOCKET
    accepted = (each.partition(";")[0].strip().lower() for each in headers.get(hdrs.ACCEPT, "").split(","))
    return Form.SSE if SSE_TYPE in accepted else ""


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == WEBSOCKET_KEY_BYTES
    except ValueError:
        return False


async def serve(
    core: Core, raw: web.BaseRequest, subscription: Subscription, headers: dict[str, str]
) -> web.StreamResponse:
    """Tell one subscriber, until it is over. `headers` are those of every answer."""
    stream, request, limit = core.events.stream, subscription.request, None
    connection = _WebSocket(raw, headers) if subscription.form is Form.WEBSOCKET else _Sse(raw, headers)
    try:
        subscription.transport = await connection.open(lambda: subscription.end(End.CLIENT))
        if subscription.limit_s:
            loop = asyncio.get_running_loop()
            limit = loop.call_later(subscription.limit_s, subscription.end, End.LIMIT)
        stream.begin(subscription)
        why = await asyncio.shield(subscription.ended)  # who is cancelled here decides nothing there
        async with asyncio.timeout(CLOSING_S):
            await connection.close(why)
    except (ConnectionError, TimeoutError):
        if raw.transport is not None:
            raw.transport.abort()
    finally:
        subscription.end(End.CLIENT)  # if nothing else has
        if limit is not None:
            limit.cancel()
        connection.release()
        stream.finish(subscription)
        with contextlib.suppress(AuditFailed):  # it is counted, and nothing more can be withheld
            told = Response(data={"events": subscription.sent})
            core.audit.response(request, told, error=f"subscription ended: {subscription.ended.result()}")
    return connection.response


class _Sse:
    """Server-sent events in an answer of chunks."""

    def __init__(self, raw: web.BaseRequest, headers: Mapping[str, str]) -> None:
        self._raw = raw
        self.response = web.StreamResponse(
            headers={**headers, hdrs.CONTENT_TYPE: SSE_TYPE, "X-Accel-Buffering": "no"}
        )
        self.response.enable_chunked_encoding()
        self.response.force_close()

    async def open(self, lost: Callable[[], None]) -> asyncio.Transport:
        """The answer's head. `lost` is called when the peer is gone. Raises ConnectionError."""
        transport = _watched(self._raw, lost)
        await self.response.prepare(self._raw)
        return transport

    async def close(self, why: End) -> None:
        await self.response.write(encoding.sse_end(why))
        await self.response.write_eof()

    def release(self) -> None:
        """Nothing is left to do."""


class _WebSocket:
    """Text messages; what the client sends is pings, pongs and its farewell."""

    def __init__(self, raw: web.BaseRequest, headers: Mapping[str, str]) -> None:
        self._raw = raw
        self._listening: asyncio.Task[None] | None = None
        self.response = web.WebSocketResponse(
            timeout=CLOSING_S, compress=False, max_msg_size=CLIENT_MESSAGE_BYTES_MAX
        )
        self.response.headers.update(headers)

    async def open(self, lost: Callable[[], None]) -> asyncio.Transport:
        """The handshake. `lost` is called when the peer is gone. Raises ConnectionError."""
        transport = _watched(self._raw, lost)
        self._raw._message = self._raw._message._replace(upgrade=True)  # protocol.py upgrades nothing else
        await self.response.prepare(self._raw)
        self._listening = asyncio.create_task(self._listen(lost), name="events-listen")
        return transport

    async def _listen(self, lost: Callable[[], None]) -> None:
        async for message in self.response:
            if message.type is WSMsgType.ERROR:
                break
        lost()

    async def close(self, why: End) -> None:
        self.release()
        await self.response.close(code=_CLOSE_CODES.get(why, WSCloseCode.GOING_AWAY), message=why.encode())

    def release(self) -> None:
        """Nobody listens any more."""
        if self._listening is not None:
            self._listening.cancel()


def _watched(raw: web.BaseRequest, lost: Callable[[], None]) -> asyncio.Transport:
    """The transport, watched for the peer's end. Raises ConnectionError if it is gone."""
    transport, connection = raw.transport, raw.protocol
    if transport is None:
        raise ConnectionResetError
    assert isinstance(connection, Connection)
    connection.on_lost = lost
    peer = transport.get_extra_info("socket")
    if peer is not None:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
    return transport
