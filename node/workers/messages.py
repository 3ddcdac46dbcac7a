"""What the main process and a worker say to each other, over a socket that nobody else has an end of.

Frames: four bytes of length, big-endian, then msgpack. Both ends are of one release: the one started the other.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec

LENGTH_BYTES = 4
ALIVE_EVERY_S = 1.0
PASSED_BYTES_MAX = 64 * 1024  # of what is told along with a connection that is handed over


class Setup(msgspec.Struct, tag="setup", array_like=True):
    """The first frame to a worker."""

    number: int
    settings: bytes  # msgpack of Serving
    cluster_id: str
    certificate: bytes  # of listeners without files; PEM, empty where there are none
    key: bytes


class Answerer(msgspec.Struct, tag="answerer", array_like=True):
    """Who asked, for as long as the connection repeats its header block."""

    epoch: int
    acl: int  # a number for what the caller may do, of this epoch
    expires_ns: int
    auth: bytes  # pieces of audit records, hashed
    members: bytes


class Entry(msgspec.Struct, tag="entry", array_like=True):
    """An answer without its id and times, and what it depends on."""

    slot: int
    mark: int
    deletion_ns: int
    start: bytes
    before: bytes
    after: bytes
    what: bytes  # pieces of audit records, hashed
    outcome: bytes


class Told(msgspec.Struct, tag="told", array_like=True):
    """The answer to what a connection asked; with the two, the worker may give it again by itself."""

    connection: int
    answer: bytes
    close: bool
    caller: Answerer | None = None
    entry: Entry | None = None


class Certificate(msgspec.Struct, tag="certificate", array_like=True):
    """Listeners without files show this from now on."""

    certificate: bytes
    key: bytes


class HangUp(msgspec.Struct, tag="hang-up", array_like=True):
    """As SIGHUP: open audit files and certificates anew."""


class Drain(msgspec.Struct, tag="drain", array_like=True):
    """Forget every answer, accept nobody more, finish what is being answered within `seconds`, end."""

    seconds: float


class Ready(msgspec.Struct, tag="ready", array_like=True):
    """The worker accepts clients from now on."""


class Alive(msgspec.Struct, tag="alive", array_like=True):
    """The worker's loop turns; said every ALIVE_EVERY_S."""


class Met(msgspec.Struct, tag="met", array_like=True):
    """A connection asks for the first time."""

    connection: int
    listener: int
    remote: str
    chain: tuple[bytes, ...]  # the certificates that the client has shown, verified


class Ask(msgspec.Struct, tag="ask", array_like=True):
    """One plain request, as it came."""

    connection: int
    data: bytes


class Gone(msgspec.Struct, tag="gone", array_like=True):
    """A connection that was met is over."""

    connection: int


class Passed(msgspec.Struct, array_like=True):
    """Told along with the end of a socket, over which all that a client sends comes from now on."""

    listener: int
    remote: str
    chain: tuple[bytes, ...]


ToWorker = Setup | Told | Certificate | HangUp | Drain
ToMain = Ready | Alive | Met | Ask | Gone

encode = msgspec.msgpack.Encoder().encode
decode_passed = msgspec.msgpack.Decoder(Passed).decode


class Channel(asyncio.Protocol):
    """One end. `take` gets every frame, `lost` is called when the other end is gone."""

    def __init__(self, kind: Any, take: Callable[[Any], None], lost: Callable[[], None]) -> None:
        """`kind`: the union of what may come. What does not decode is a bug, and raises."""
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._take, self._lost = take, lost
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._lost()

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        at, end = 0, len(data)
        while end - at >= LENGTH_BYTES:
            length = int.from_bytes(data[at : at + LENGTH_BYTES], "big")
            if end - at - LENGTH_BYTES < length:
                break
            at += LENGTH_BYTES
            self._take(self._decode(memoryview(data)[at : at + length]))
            at += length
        self._rest = data[at:]

    def send(self, frame: ToWorker | ToMain) -> None:
        """Nothing, if the other end is gone: whoever owns it knows."""
        if self._transport is not None:
            body = encode(frame)
            self._transport.write(len(body).to_bytes(LENGTH_BYTES, "big") + body)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
