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
# That an end has sent and the other has not read: from there on it sends little more.
UNTAKEN_BYTES_MAX = 4 << 20


class _Frame(msgspec.Struct, array_like=True):
    def __repr__(self) -> str:
        """There are keys, tokens and values in them."""
        return f"<{type(self).__name__}>"


class Setup(_Frame, tag="setup"):
    """The first frame to a worker."""

    number: int
    settings: bytes  # msgpack of Serving
    cluster_id: str
    certificate: bytes  # of listeners without files; PEM, empty where there are none
    key: bytes


class Answerer(_Frame, tag="answerer"):
    """Who asked, for as long as the connection repeats its header block."""

    epoch: int
    acl: int  # a number for what the caller may do, of this epoch
    expires_ns: int
    auth: bytes  # pieces of audit records, hashed
    members: bytes


class Entry(_Frame, tag="entry"):
    """An answer without its id and times, and what it depends on."""

    slot: int
    mark: int
    deletion_ns: int
    start: bytes
    before: bytes
    after: bytes
    what: bytes  # pieces of audit records, hashed
    outcome: bytes


class Told(_Frame, tag="told"):
    """The answer to what a connection asked; with the two, the worker may give it again by itself."""

    connection: int
    answer: bytes
    close: bool
    caller: Answerer | None = None
    entry: Entry | None = None


class Certificate(_Frame, tag="certificate"):
    """Listeners without files show this from now on."""

    certificate: bytes
    key: bytes


class HangUp(_Frame, tag="hang-up"):
    """As SIGHUP: open audit files and certificates anew."""


class Drain(_Frame, tag="drain"):
    """Forget every answer, accept nobody more, finish what is being answered within `seconds`, end."""

    seconds: float


class Ready(_Frame, tag="ready"):
    """The worker accepts clients from now on."""


class Alive(_Frame, tag="alive"):
    """The worker's loop turns; said every ALIVE_EVERY_S."""


class Met(_Frame, tag="met"):
    """A connection asks for the first time."""

    connection: int
    listener: int
    remote: str
    chain: tuple[bytes, ...]  # the certificates that the client has shown, verified


class Ask(_Frame, tag="ask"):
    """One plain request, as it came."""

    connection: int
    data: bytes


class Gone(_Frame, tag="gone"):
    """A connection that was met is over."""

    connection: int


class Passed(_Frame):
    """Told along with the end of a socket, over which all that a client sends comes from now on."""

    listener: int
    remote: str
    chain: tuple[bytes, ...]


ToWorker = Setup | Told | Certificate | HangUp | Drain
ToMain = Ready | Alive | Met | Ask | Gone

encode = msgspec.msgpack.Encoder().encode
decode_passed = msgspec.msgpack.Decoder(Passed).decode


class Channel(asyncio.Protocol):
    """One end. `take` gets every frame, `lost` is called when the other end is gone.

    While the other end does not read what this one sends, `hold` is called with True, and with False when it does
    again; who gives none takes no frames meanwhile, so nothing is answered that nobody takes. Of the two ends one
    must go on reading, or both would wait for ever.
    """

    def __init__(
        self,
        kind: Any,
        take: Callable[[Any], None],
        lost: Callable[[], None],
        hold: Callable[[bool], None] | None = None,
    ) -> None:
        """`kind`: the union of what may come. What does not decode is a bug, and raises."""
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._take, self._lost, self._hold = take, lost, hold
        self._came = bytearray()
        self._waits = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(UNTAKEN_BYTES_MAX)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._lost()

    def data_received(self, data: bytes) -> None:
        self._came += data
        self._take_whole()

    def _take_whole(self) -> None:
        """The frames that are here as a whole."""
        at, end = 0, len(self._came)
        with memoryview(self._came) as came:
            while not self._waits and end - at >= LENGTH_BYTES:
                begin = at + LENGTH_BYTES
                length = int.from_bytes(came[at:begin], "big")
                if end - begin < length:
                    break
                at = begin + length
                self._take(self._decode(came[begin:at]))
        del self._came[:at]

    def pause_writing(self) -> None:
        if self._hold is not None:
            self._hold(True)
            return
        self._waits = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._hold is not None:
            self._hold(False)
            return
        self._waits = False
        asyncio.get_running_loop().call_soon(self._take_whole)  # not while a frame is being taken
        if self._transport is not None:
            self._transport.resume_reading()

    def send(self, frame: ToWorker | ToMain) -> None:
        """Nothing, if the other end is gone: whoever owns it knows."""
        if self._transport is not None:
            body = encode(frame)
            self._transport.write(len(body).to_bytes(LENGTH_BYTES, "big") + body)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
