"""What answers while the rest of a server is still being loaded: whether there is a store, and nothing else.

Loading all engines, methods and the store's own machinery takes longer than clients want to wait for a new server's
first word, and so does an HTTP server. Until all is there, `GET sys/init` is answered from a few lines of code; the
first bytes of anything else are held, and their connection is then served as if it had come later. Like Vault's, these
answers are in no audit record: there is no store yet that could be asked for.
"""

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import cast

from node.accepting import Acceptor, listening_sockets
from node.api.plain import PlainReader

CALLERS_MAX = 4096  # connections while the rest is being loaded
HEADER_BYTES_MAX = 4096  # of a question that is answered here
HSTS = "Strict-Transport-Security: max-age=31536000; includeSubDomains\r\n"
_PATH = "/v1/sys/init"
_NO_MATTER = (
    "x-vault-token",
    "x-vault-request",
)  # of Vault's headers and our own: they change no such answer

Factory = Callable[[], asyncio.Protocol]


class Entrance:
    """The sockets of a server that is still being loaded; belongs to the running loop."""

    def __init__(self, initialized: Callable[[], bool]) -> None:
        self._initialized = initialized
        self.doors: list[Door] = []

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        """Accept clients from now on. OSError if it cannot be bound."""
        door = Door(self._initialized, tls=tls is not None)
        door.acceptors = [Acceptor(listening, door, tls) for listening in await listening_sockets(host, port)]
        for acceptor in door.acceptors:
            acceptor.start()
        self.doors.append(door)

    def close(self) -> None:
        """Accept nobody more; nothing if the doors were opened."""
        for door in self.doors:
            door.close()


class Door:
    """Makes the protocol of each connection of one listener: our own until open(), then that of the whole server."""

    def __init__(self, initialized: Callable[[], bool], *, tls: bool) -> None:
        self.tls = tls
        self.acceptors: list[Acceptor] = []
        self._initialized = initialized
        self._factory: Factory | None = None
        self._callers: set[_Caller] = set()

    def __call__(self) -> asyncio.Protocol:
        return _Caller(self) if self._factory is None else self._factory()

    def open(self, factory: Factory) -> None:
        """From now on `factory` speaks, with those who are here already too."""
        self._factory = factory
        for caller in list(self._callers):
            caller.hand_over(factory())

    def close(self) -> None:
        if self._factory is None:
            for acceptor in self.acceptors:
                acceptor.close()

    def take_in(self, caller: "_Caller", transport: asyncio.Transport) -> None:
        """A connection is made: after open() too, if its TLS handshake began before."""
        if self._factory is not None:
            caller.hand_over(self._factory())
        elif len(self._callers) >= CALLERS_MAX:
            transport.abort()
        else:
            self._callers.add(caller)

    def forget(self, caller: "_Caller") -> None:
        self._callers.discard(caller)

    def answer(self, reader: PlainReader, data: bytes) -> bytes | None:
        """What to send, or None: whoever comes after is to say."""
        request = reader.read(data)
        if request is None or request.method != "GET" or request.raw_path != _PATH:
            return None
        for name in map(str.lower, request.headers):
            if name.startswith(("x-vault-", "x-strongroom-")) and name not in _NO_MATTER:
                return None
        body = b'{"initialized":true}' if self._initialized() else b'{"initialized":false}'
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
        return (
            "HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nServer: strongroom\r\n"
            f"{HSTS if self.tls else ''}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"Date: {date}\r\n\r\n"
        ).encode() + body


class _Caller(asyncio.Protocol):
    """One connection, until somebody else takes it over."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._reader = PlainReader("", header_bytes_max=HEADER_BYTES_MAX)
        self._transport: asyncio.Transport | None = None
        self._held = b""  # what the socket gave at once: nothing is read after that

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._door.take_in(self, self._transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._door.forget(self)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None, "a connection that was made"
        answer = None if self._held else self._door.answer(self._reader, data)
        if answer is not None:
            self._transport.write(answer)
        else:
            self._held += data
            self._transport.pause_reading()

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        transport = self._transport
        self._door.forget(self)
        if transport is None or transport.is_closing():
            return
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._held:
            transport.resume_reading()
            protocol.data_received(self._held)
