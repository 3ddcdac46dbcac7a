"""The main process's side of one worker: it answers what the worker asks, and serves what is handed over to it.

What a worker says of its clients, their addresses and certificates, is believed: it holds the other end of sockets
that were made for it, and nobody else can speak there.
"""

import asyncio
import functools
import itertools
import socket
from collections.abc import Callable, Sequence
from typing import Any, cast

import structlog

from node.api import client_chain
from node.api.http import Gateway
from node.api.plain import PlainReader, PlainRequest
from node.api.protocol import Server
from node.pki import Credentials
from node.policy.acl import ACL
from node.workers import messages
from node.workers.board import Board

ACLS_NUMBERED_MAX = 65_536

_log = structlog.get_logger("workers")


class AclNumbers:
    """A number for each set of permissions of an epoch; none is given twice."""

    def __init__(self) -> None:
        self._next = itertools.count(1)
        self._epoch = -1
        self._known: dict[int, tuple[ACL, int]] = {}

    def of(self, acl: ACL, epoch: int) -> int:
        if epoch != self._epoch or len(self._known) >= ACLS_NUMBERED_MAX:
            self._known.clear()
            self._epoch = epoch
        known = self._known.get(id(acl))
        if known is None:
            known = self._known[id(acl)] = (acl, next(self._next))
        return known[1]


class Desk:
    """Speaks with one worker, until close()."""

    def __init__(
        self,
        board: Board,
        acls: AclNumbers,
        servers: Sequence[Server],
        passing: socket.socket,
        lost: Callable[[], None],
    ) -> None:
        """`passing`: where connections are handed over, which the desk owns; `lost`: the worker does not speak."""
        self._board, self._acls, self._servers = board, acls, servers
        self._passing = passing
        self.channel = messages.Channel(messages.ToMain, self._take, lost)
        self.serving = False
        self.shown: Credentials | None = None  # what the worker's listeners without files show
        self.heard = 0  # frames
        self._met: dict[int, tuple[Gateway, PlainReader]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(passing, self._taken_over)

    def close(self) -> None:
        self._loop.remove_reader(self._passing)
        self._passing.close()
        self.channel.close()
        self._met.clear()

    # ---- plain requests ----

    def _take(self, frame: Any) -> None:
        self.heard += 1
        if isinstance(frame, messages.Ask):
            self._answer(frame)
        elif isinstance(frame, messages.Met):
            server = self._servers[frame.listener]
            reader = PlainReader(
                frame.remote,
                header_bytes_max=server.header_bytes_max,
                transport=FarClient(frame.remote, frame.chain),
            )
            self._met[frame.connection] = (cast("Gateway", server.gateway), reader)
        elif isinstance(frame, messages.Gone):
            self._met.pop(frame.connection, None)
        elif isinstance(frame, messages.Ready):
            self.serving = True

    def _answer(self, ask: messages.Ask) -> None:
        gateway, reader = self._met[ask.connection]
        raw = reader.read(ask.data)
        assert raw is not None, "the worker has read it as we do"
        told = messages.Told(ask.connection, b"", False)
        if not gateway.begin(raw, functools.partial(self._tell, told)):
            task = self._loop.create_task(self._answer_later(gateway, raw, told), name="asked")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif raw.method == "GET":
            told.caller, told.entry = self._repeatable(gateway, raw)

    async def _answer_later(self, gateway: Gateway, raw: PlainRequest, told: messages.Told) -> None:
        answer, close = await gateway.plain(raw)
        self._tell(told, answer, close)

    def _tell(self, told: messages.Told, answer: bytes, close: bool) -> None:
        told.answer, told.close = answer, close
        self.channel.send(told)

    def _repeatable(
        self, gateway: Gateway, raw: PlainRequest
    ) -> tuple[messages.Answerer, messages.Entry] | tuple[None, None]:
        """What a read that was taken at this moment depends on; the marks are those of this moment, too."""
        taken = gateway.answered_from(raw)
        if taken is None:
            return None, None
        caller, found, exchange = taken
        if caller.row is None or caller.who is None:
            return None, None
        epoch, slot = self._board.epoch, self._board.slot(*found.key)
        answerer = messages.Answerer(
            epoch,
            self._acls.of(caller.acl, epoch),
            caller.row.expires_ns,
            caller.who.auth,
            caller.who.members,
        )
        return answerer, messages.Entry(
            slot,
            self._board.words[slot],
            found.row.deletion_ns,
            exchange.start,
            exchange.before,
            exchange.after,
            exchange.audit.what,
            exchange.audit.outcome,
        )

    # ---- connections that are handed over ----

    def _taken_over(self) -> None:
        while True:
            try:
                told, descriptors, _, _ = socket.recv_fds(
                    self._passing, messages.PASSED_BYTES_MAX, 1, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                told, descriptors = b"", []
            if not told:
                self._loop.remove_reader(self._passing)  # the worker is gone
                return
            if not descriptors:  # none was free here: the kernel has closed this one, so the worker knows
                _log.warning("cannot take over connections for now")
                continue
            way = socket.socket(fileno=descriptors[0])
            way.setblocking(False)
            task = self._loop.create_task(self._serve(messages.decode_passed(told), way), name="way")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, passed: messages.Passed, way: socket.socket) -> None:
        server = self._servers[passed.listener]
        client = FarClient(passed.remote, passed.chain)
        await self._loop.create_unix_connection(lambda: _Arriving(server, client), sock=way)


class _Arriving(asyncio.Protocol):
    """Until a connection is made, and its transport can be told to speak of the client."""

    def __init__(self, server: Server, client: "FarClient") -> None:
        self._server, self._client = server, client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._client.through(cast("asyncio.Transport", transport))
        protocol = self._server()
        cast("asyncio.Transport", transport).set_protocol(protocol)
        protocol.connection_made(self._client)


class FarClient(asyncio.Transport):
    """The transport of a client whose connection a worker holds: what it says of itself, bytes by the way to it."""

    def __init__(self, remote: str, chain: tuple[bytes, ...]) -> None:
        super().__init__({"peername": (remote, 0), client_chain.VERIFIED: chain})
        self._way: asyncio.Transport | None = None

    def through(self, way: asyncio.Transport) -> None:
        self._way = way

    @property
    def _open(self) -> asyncio.Transport:
        assert self._way is not None, "only who was handed over is spoken with directly"
        return self._way

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._open.write(data)

    def close(self) -> None:
        self._open.close()

    def abort(self) -> None:
        self._open.abort()

    def is_closing(self) -> bool:
        return self._open.is_closing()

    def pause_reading(self) -> None:
        self._open.pause_reading()

    def resume_reading(self) -> None:
        self._open.resume_reading()

    def is_reading(self) -> bool:
        return self._open.is_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._open.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._open.get_write_buffer_size()
