"""HTTP/1.1 as spoken to clients: aiohttp's connection, with a parser that takes any method and fewer readings.

aiohttp's default parser (llhttp) knows a fixed list of methods and answers 400 to LIST and SCAN, which Vault's
clients send. Connections therefore use the pure Python parser that aiohttp carries, made stricter where RFC 9112
leaves room. This leans on private parts of aiohttp, whose version is pinned; tests/node/test_list_method.py
checks the seam.
"""

import asyncio
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Protocol, cast

import msgspec
import structlog
from aiohttp import http_parser, web
from aiohttp.http_exceptions import BadHttpMessage, BadHttpMethod, BadStatusLine, LineTooLong
from aiohttp.http_writer import HttpVersion10, HttpVersion11
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from node.api.plain import HOST, PlainReader, PlainRequest

KEEPALIVE_S = 75.0
HEADER_TIMEOUT_S = 10.0  # from the first byte of a request to the end of its header
LINGER_S = 2.0  # how long an unread body is discarded before its connection closes
HEADER_FIELDS_MAX = 64
RECEIVING_S = 0.5  # that a body has to arrive once the server stops: nothing was done yet that could be lost
DRAIN_S_MIN = 0.01  # aiohttp takes 0 for "without limit"
PIPELINED_MAX = 32  # requests of one connection waiting for their turn
_ABSOLUTE = re.compile(r"https?://[^/?#]*(.*)", re.IGNORECASE | re.DOTALL)

_log = structlog.get_logger(__name__)


class Refused(Exception):
    """A request that is refused as HTTP, before there is anything to authorise."""

    def __init__(self, status: int, message: str, *, close: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.close = close


class RequestParser(http_parser.HttpRequestParserPy):
    """aiohttp's Python parser with no upgrades, no CONNECT, no compression and a bound on the whole header."""

    header_bytes_max: int

    def feed_data(self, data: bytes, *args: Any, **kwargs: Any) -> Any:
        try:
            result = super().feed_data(data, *args, **kwargs)
        except ValueError:  # a length of more digits than Python converts
            raise BadHttpMessage("") from None
        except BadHttpMessage:
            if len(self._lines) > self.max_headers:  # well formed, but more than are taken
                raise LineTooLong(b"", self.max_headers) from None
            raise
        if self.header_is_partial and self._header_bytes() > self.header_bytes_max:
            raise LineTooLong(b"", self.header_bytes_max)
        return result

    def parse_message(self, lines: list[bytes]) -> http_parser.RawRequestMessage:
        if sum(map(len, lines)) + 2 * len(lines) > self.header_bytes_max:
            raise LineTooLong(b"", self.header_bytes_max)
        message = super().parse_message(lines)
        if message.method == "CONNECT":
            raise BadHttpMethod("")
        if message.version not in (HttpVersion10, HttpVersion11):
            raise BadStatusLine("")
        if message.chunked and message.version == HttpVersion10:
            raise BadHttpMessage("")
        if not HOST.fullmatch(message.headers.get("Host", "")):
            raise BadHttpMessage("")
        # aiohttp takes "get" for "GET"; a proxy that filters by method might not (RFC 9110, 9.1: case matters).
        method = lines[0].partition(b" ")[0].decode()
        return message._replace(method=method, path=_origin_form(message.path), upgrade=False)

    def _is_chunked_te(self, te: str) -> bool:
        """Nothing but chunks: aiohttp passes over codings before the last one, and would take gzip for JSON."""
        return super()._is_chunked_te(te if "," not in te else "")

    @property
    def header_is_partial(self) -> bool:
        """Whether a request line or header has begun and not ended."""
        return self._payload_parser is None and bool(self._lines or self._tail) and not self.is_full

    @property
    def is_partial(self) -> bool:
        """Whether a request has begun and not ended, in its header or in its body."""
        return self._payload_parser is not None or self.header_is_partial

    @property
    def is_full(self) -> bool:
        """Whether pipelined requests wait unparsed for their turn."""
        return self._msg_in_flight >= self._max_msg_queue_size

    def _header_bytes(self) -> int:
        return len(self._tail) + sum(map(len, self._lines)) + 2 * len(self._lines)


def _origin_form(target: str) -> str:
    """What an absolute form (http://host/path?query), which every server has to take, asks for (RFC 9112, 3.2.2)."""
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        return target
    return found[1] if found[1].startswith("/") else "/" + found[1]


class Connection(RequestHandler):
    """One client connection."""

    __slots__ = (
        "_closing",
        "_gateway",
        "_header_timer",
        "_held",
        "_plain",
        "_served",
        "_serving",
        "_task",
        "on_lost",
    )

    def __init__(self, server: "Server", *, loop: asyncio.AbstractEventLoop) -> None:
        limit = server.header_bytes_max
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=KEEPALIVE_S,
            access_log=cast("Any", None),
            max_line_size=limit,
            max_field_size=limit,
            max_headers=HEADER_FIELDS_MAX,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )
        parser = RequestParser(
            self,
            loop,
            self._read_bufsize,
            max_line_size=limit,
            max_field_size=limit,
            max_headers=HEADER_FIELDS_MAX,
            payload_exception=RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=PIPELINED_MAX,
        )
        parser.header_bytes_max = limit
        self._max_msg_queue_size = PIPELINED_MAX
        self._parser: RequestParser | None = parser
        self._header_timer: asyncio.TimerHandle | None = None
        self._plain: PlainReader | None = None  # None: aiohttp reads this connection, from now on
        self._serving = False  # a plain request is being answered
        self._task: asyncio.Task[None] | None = None  # ... by this one, if it takes a task
        self._served: asyncio.Future[None] | None = None  # somebody waits until it is
        self._held = b""  # what came meanwhile: a client that pipelines
        self._closing = False
        self._gateway = server.gateway
        self.on_lost: Callable[[], None] | None = (
            None  # whoever holds the connection for long is told its end
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        server = cast("Server", self._manager)
        if server.is_full:
            _log.warning("connection refused", reason="connections_max", limit=server.connections_max)
            cast("asyncio.Transport", transport).abort()
            return
        super().connection_made(transport)
        peer = self.peername
        remote = str(peer[0]) if isinstance(peer, tuple) else ""
        self._plain = PlainReader(remote, header_bytes_max=server.header_bytes_max, transport=transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_header_timer()
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio asks for it; aiohttp says nothing
        """Whether the connection stays open for writing: what a client asked before it ended its side is answered.

        Who holds a connection for long is told that its client is gone instead; TLS has no such half of a connection.
        """
        if self.transport is None or self.on_lost is not None or self.transport.get_extra_info("sslcontext"):
            return False
        if self._serving:
            self._closing = True
            return True
        if self._parser is None or self._parser.is_partial:
            return False
        if self._messages:
            message, payload = self._messages[-1]
            if isinstance(message, http_parser.RawRequestMessage):
                self._messages[-1] = message._replace(should_close=True), payload
            return True
        if not self._request_count or (self._waiter is not None and not self._waiter.done()):
            return False  # aiohttp waits for a request: nothing is owed
        self.close()
        return True

    def data_received(self, data: bytes) -> None:
        if self._serving:
            self._hold(data)
            return
        if self._plain is not None:
            request = None if self._paused or self._close or self._force_close else self._plain.read(data)
            if request is not None:
                self._serving = True
                if not self._gateway.begin(request, self._answered):
                    self._task = self._loop.create_task(self._serve(request))
                return
            self._plain = None
        self._received(data)

    def _hold(self, data: bytes) -> None:
        self._held += data
        if self.transport is not None:
            self.transport.pause_reading()  # so at most what the socket gives at once is held

    async def _serve(self, request: PlainRequest) -> None:
        """Answer one plain request."""
        try:
            answer, close = await self._gateway.plain(request)
        except BaseException:
            self._finish()
            raise
        self._answered(answer, close)

    def _answered(self, answer: bytes, close: bool) -> None:
        """What came meanwhile goes to aiohttp, and so does the connection then."""
        if self.transport is not None:
            self.transport.write(answer)
        self._finish()
        self._after(close)

    def _finish(self) -> None:
        self._serving, self._task = False, None
        if self._served is not None and not self._served.done():
            self._served.set_result(None)

    def _after(self, close: bool) -> None:
        self._next_keepalive_close_time = self._loop.time() + KEEPALIVE_S
        if close or self._closing or self._force_close:
            self.force_close()
        elif self._held:
            held, self._held, self._plain = self._held, b"", None
            if self.transport is not None:
                self.transport.resume_reading()
            self._received(held)

    def close(self) -> None:
        """Once the plain request that is being answered has its answer."""
        if self._serving:
            self._closing = True
        else:
            super().close()

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        if self._serving:
            self._served = self._loop.create_future()
            await asyncio.wait({self._served}, timeout=timeout)
        elif self._is_receiving and timeout is not None:
            timeout = min(timeout, RECEIVING_S)
        await super().shutdown(timeout)

    @property
    def _is_receiving(self) -> bool:
        """Whether the body of the request in hand is still on its way."""
        return self._current_request is not None and not self._current_request.content.is_eof()

    def _process_keepalive(self) -> None:
        if self._serving:
            self._next_keepalive_close_time = self._loop.time() + KEEPALIVE_S
        super()._process_keepalive()

    def _received(self, data: bytes) -> None:
        super().data_received(data)
        if self._parser is not None and self._parser.header_is_partial:
            if self._header_timer is None:
                self._header_timer = self._loop.call_later(HEADER_TIMEOUT_S, self._header_is_late)
        elif self._header_timer is not None:
            self._stop_header_timer()

    def _header_is_late(self) -> None:
        self._header_timer = None
        if self._current_request is None:
            self.force_close()
        else:
            self.close()  # the answer in the making still goes out

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is not HTTP, or not for us. Nothing of it is echoed or logged: it may hold a token."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        if isinstance(exc, LineTooLong):
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        text = "malformed HTTP request" if status == HTTPStatus.BAD_REQUEST else HTTPStatus(status).phrase
        _log.info("request refused", status=int(status), error=type(exc).__name__)
        response = web.Response(
            status=status,
            body=msgspec.json.encode(
                {"errors": [text.lower() if status != HTTPStatus.BAD_REQUEST else text]}
            ),
            headers={"Content-Type": "application/json", "Cache-Control": "no-store", "Server": "strongroom"},
        )
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """aiohttp's own bugs: the type of the error, not its text."""
        exc = kw.get("exc_info")
        _log.error("connection failed", error=type(exc).__name__)


class Gateway(Protocol):
    """What answers: requests that aiohttp read, and plain ones."""

    async def __call__(self, raw: web.BaseRequest) -> web.StreamResponse: ...
    def begin(self, raw: PlainRequest, done: Callable[[bytes, bool], None]) -> bool: ...
    async def plain(self, raw: PlainRequest) -> tuple[bytes, bool]: ...


class Server(web.Server):
    """Makes a Connection for every client that connects, up to connections_max."""

    def __init__(self, gateway: Gateway, *, header_bytes_max: int, connections_max: int) -> None:
        super().__init__(gateway)
        self.gateway = gateway
        self.header_bytes_max = header_bytes_max
        self.connections_max = connections_max

    @property
    def clients(self) -> int:
        """How many are connected."""
        return len(self._connections)

    @property
    def is_full(self) -> bool:
        return self.clients >= self.connections_max

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop)

    async def drain(self, timeout: float) -> None:
        """Close idle connections, let requests in flight finish for up to `timeout` seconds, then cut them."""
        self.pre_shutdown()
        await self.shutdown(max(timeout, DRAIN_S_MIN))
