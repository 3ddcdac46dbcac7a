"""One client of a worker: plain reads that are known are answered here, all else is said by the main process.

A plain request is asked for as a whole. At the first byte of anything else the connection belongs to the main process
for good, as it belongs to aiohttp there: from then on its bytes are passed on both ways, and read by nobody here.
"""

import asyncio
import socket
from typing import Protocol, cast

from node.api import client_chain
from node.api.plain import PlainReader, PlainRequest

# As long as the main process waits for who takes nothing of a stream (node/api/http.py).
UNACKNOWLEDGED_MS = 60_000


class Worker(Protocol):
    """Who serves the connections of a process."""

    @property
    def is_full(self) -> bool: ...
    def begin(self, client: "Client", raw: PlainRequest) -> bool:
        """Whether client.answered() will be called before this turn is over; if not, nothing has happened."""
        ...

    def came(self, client: "Client") -> None: ...
    def went(self, client: "Client") -> None: ...
    def ask(self, client: "Client", raw: PlainRequest, data: bytes) -> None:
        """client.answered() is called with what the main process says."""
        ...

    def hand_over(self, client: "Client") -> None:
        """client.handed_over() is called with the way to the main process."""
        ...


class Client(asyncio.Protocol):
    """A connection. Of its requests one is under way at a time; what comes meanwhile is held."""

    def __init__(self, worker: Worker, listener: int, header_bytes_max: int) -> None:
        self._worker, self.listener = worker, listener
        self._header_bytes_max = header_bytes_max
        self.transport: asyncio.Transport | None = None
        self.number = 0  # that the main process knows it by; 0: it has not asked for anything yet
        self.raw: PlainRequest | None = None  # what it asked the main process
        self.remote = ""
        self.used_at = asyncio.get_running_loop().time()
        self.busy = False
        self._closing = False
        self._held = b""
        self._reader: PlainReader | None = None  # None: its bytes are passed on
        self._way: Way | None = None
        self._blocked = False

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The certificates that the client has shown."""
        return client_chain.verified(self.transport)

    @property
    def is_passed_on(self) -> bool:
        return self._reader is None

    @property
    def is_unfinished(self) -> bool:
        """Something is on its way. To wait until the client has said goodbye could take for ever."""
        if self.transport is None:
            return False
        passed_on = self.is_passed_on and (self._way is None or self._way.is_open)
        return self.busy or passed_on or self.transport.get_write_buffer_size() > 0

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self._worker.is_full:
            self.transport.abort()
            return
        peer, sock = transport.get_extra_info("peername"), transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.remote = str(peer[0]) if isinstance(peer, tuple) else ""
        self._reader = PlainReader(self.remote, header_bytes_max=self._header_bytes_max, transport=transport)
        self._worker.came(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._worker.went(self)
        if self._way is not None:
            self._way.close()

    def data_received(self, data: bytes) -> None:
        if self._way is not None:
            self._way.write(data)
        elif self.busy or self._reader is None:
            self._hold(data)
        else:
            self._read(self._reader, data)

    def pause_writing(self) -> None:
        self._blocked = True
        if self._way is not None:
            self._way.pause()

    def resume_writing(self) -> None:
        self._blocked = False
        if self._way is not None:
            self._way.resume()

    # ---- plain requests ----

    def _hold(self, data: bytes) -> None:
        self._held += data
        if self.transport is not None:
            self.transport.pause_reading()  # so at most what the socket gives at once is held

    def _read(self, reader: PlainReader, data: bytes) -> None:
        raw = None if self._blocked else reader.read(data)
        if raw is None:
            self._pass_on(data)
            return
        self.busy = True
        if raw.method != "GET" or not self._worker.begin(self, raw):
            self.raw = raw
            self._worker.ask(self, raw, data)

    def answered(self, answer: bytes, close: bool) -> None:
        """The request under way has its answer."""
        self.busy, self.raw = False, None
        self.used_at = asyncio.get_running_loop().time()
        if self.transport is None:
            return
        self.transport.write(answer)
        if close or self._closing:
            self.transport.close()
        elif self._held:
            held, self._held = self._held, b""
            self._pass_on(held)  # a client that pipelines

    def wait(self, held: bool) -> None:
        """Whether what comes is to wait in the kernel: the main process has enough to read."""
        if self.transport is None or self.is_passed_on:
            return
        if held:
            self.transport.pause_reading()
        elif not self._held:
            self.transport.resume_reading()

    def close(self) -> None:
        """Once the request that is being answered has its answer."""
        self._closing = True
        if not self.busy and not self.is_passed_on and self.transport is not None:
            self.transport.close()

    # ---- all else ----

    def _pass_on(self, data: bytes) -> None:
        self._reader = None
        sock = None if self.transport is None else self.transport.get_extra_info("socket")
        if (
            sock is not None
        ):  # it may listen to events: the main process cannot tell that nobody is there any more
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
        self._hold(data)
        self._worker.hand_over(self)

    def handed_over(self, way: "Way") -> None:
        """From now on `way` leads to the main process."""
        if self.transport is None:
            way.close()
            return
        self._way = way
        if self._blocked:
            way.pause()
        self.transport.resume_reading()
        held, self._held = self._held, b""
        way.write(held)  # after that: it may pause the reading


class Way(asyncio.Protocol):
    """The worker's end of the way of one connection to the main process."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._client.transport is not None:
            self._client.transport.close()  # what was written before still leaves

    def data_received(self, data: bytes) -> None:
        if self._client.transport is not None:
            self._client.transport.write(data)

    def pause_writing(self) -> None:
        if self._client.transport is not None:
            self._client.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._client.transport is not None:
            self._client.transport.resume_reading()

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
