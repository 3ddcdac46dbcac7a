"""One connection to a peer: frames in, frames out, and only a small hello before the peer is known."""

import asyncio
import ssl
import struct
from typing import Protocol, cast

from consensus.errors import ConsensusError

HELLO_BYTES_MAX = 4 << 10
FRAME_BYTES_MAX = 8 << 20
WRITE_BYTES = 64 << 10

_LENGTH = struct.Struct(">I")


class BadFrame(ConsensusError):
    """A peer broke the protocol; its connection is dropped. The message holds nothing that the peer chose."""


class Exchange(Protocol):
    """What a link asks of the transport that it belongs to."""

    def hello(self) -> bytes:
        """The body of our own hello."""
        ...

    def check_hello(self, body: bytes, certified: ssl.SSLObject | None, dialled: str | None) -> str:
        """The peer's id. Raises BadFrame."""
        ...

    def opened(self, link: "Link") -> None: ...

    def greeted(self, link: "Link", peer_id: str) -> None:
        """The peer is known now."""
        ...

    def is_current(self, link: "Link") -> bool:
        """Whether this is the connection that its peer speaks through; a superseded one is not."""
        ...

    def received(self, peer_id: str, body: bytes) -> None:
        """One frame. Raises BadFrame."""
        ...

    def refuse(self, reason: str, who: object) -> None: ...

    def lost(self, link: "Link") -> None:
        """Nothing more will be heard."""
        ...

    def closed(self, link: "Link") -> None:
        """The socket is closed."""
        ...


class Link(asyncio.Protocol):
    """See the module. `dialled` is the peer that we mean to reach; None when the peer connected to us."""

    def __init__(self, exchange: Exchange, *, dialled: str | None) -> None:
        self.peer_id: str | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # the hello was right
        self.closed = asyncio.Event()
        self.connected = False
        self._exchange, self._dialled = exchange, dialled
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._queued: list[bytes] = []
        self._queued_bytes = 0
        self._flush_due: asyncio.Handle | None = None

    # ---- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.connected = True
        self._exchange.opened(self)
        if self._dialled is not None:
            self.write(self._exchange.hello())

    def data_received(self, data: bytes) -> None:
        if self.closing():
            return
        self._buffer += data
        at = 0
        try:
            while (body := self._frame(at)) is not None:
                at += _LENGTH.size + len(body)
                self._take(body)
        except BadFrame as error:
            if self.peer_id is not None:  # before that, whoever waits for `ready` says so
                self._exchange.refuse(str(error), self.peer_id)
            self.abort(error)
        del self._buffer[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)
        self.closed.set()
        self._exchange.closed(self)

    # ---- the transport's side

    def write(self, body: bytes) -> None:
        """Queue one frame. All frames of one turn of the loop leave as one: a TLS record and a system call cost
        more than most frames do.
        """
        self._queued += (_LENGTH.pack(len(body)), body)
        self._queued_bytes += _LENGTH.size + len(body)
        if self._queued_bytes > WRITE_BYTES:
            self.flush()
        elif self._flush_due is None:
            self._flush_due = asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Write what is queued, in pieces: what a single write gives to the socket, TLS hides from backlog()."""
        if self._flush_due is not None:
            self._flush_due.cancel()
            self._flush_due = None
        if not self._queued:
            return
        data = b"".join(self._queued)
        self._queued.clear()
        self._queued_bytes = 0
        if self.closing():
            return
        transport = cast("asyncio.Transport", self._transport)
        if len(data) <= WRITE_BYTES:
            transport.write(data)
            return
        view = memoryview(data)
        for at in range(0, len(data), WRITE_BYTES):
            transport.write(view[at : at + WRITE_BYTES])

    def backlog(self) -> int:
        """Bytes that wait here for the socket."""
        return self._queued_bytes + cast("asyncio.Transport", self._transport).get_write_buffer_size()

    def closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def abort(self, error: Exception | None = None) -> None:
        """Close without waiting for the peer. Nothing that it still sends is heard."""
        self._end(error)
        if self._transport is not None:
            self._transport.abort()

    def _end(self, error: Exception | None) -> None:
        self._exchange.lost(self)
        if not self.ready.done():
            self.ready.set_exception(error or ConnectionResetError("closed before hello"))
            self.ready.exception()  # seen: nobody may be waiting for it any more

    def _frame(self, at: int) -> bytes | None:
        """The body of the frame at offset `at`, once all of it is here and somebody still listens."""
        if self.peer_id is not None and not self._exchange.is_current(self):
            return None
        if len(self._buffer) - at < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer, at)
        if length > (HELLO_BYTES_MAX if self.peer_id is None else FRAME_BYTES_MAX):
            raise BadFrame("frame too large")
        begin = at + _LENGTH.size
        if len(self._buffer) < begin + length:
            return None
        return bytes(memoryview(self._buffer)[begin : begin + length])

    def _take(self, body: bytes) -> None:
        if self.peer_id is not None:
            self._exchange.received(self.peer_id, body)
            return
        if self.ready.done():
            raise BadFrame("no hello in time")
        transport = cast("asyncio.Transport", self._transport)
        peer_id = self._exchange.check_hello(body, transport.get_extra_info("ssl_object"), self._dialled)
        if self._dialled is None:
            self.write(self._exchange.hello())
        self.peer_id = peer_id
        self.ready.set_result(None)
        self._exchange.greeted(self, peer_id)
