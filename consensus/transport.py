"""Frames between the nodes of a cluster: mutual TLS 1.3, one connection a pair, the higher id dials.

Who a peer is comes from its verified certificate, which carries the DNS name peer_name(node id, cluster
id), and never from what it says: its hello must agree. A frame is `length u32` (big endian) and a body;
the first one each way is the hello, msgpack of {v, cluster, id}. Bodies are opaque here (wire.py).
Whatever breaks a rule loses its connection, is counted in `refused`, and logged without its content.
"""

import asyncio
import logging
import random
import socket
import ssl
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Protocol, cast

import msgpack

from consensus.identity import certified_id, check_context, peer_contexts, peer_name
from consensus.link import FRAME_BYTES_MAX, HELLO_BYTES_MAX, BadFrame, Link
from consensus.records import invariant, unpack_strict

PROTOCOL_VERSION = 1
PEER_BUFFER_BYTES_MAX = 32 << 20
HALF_OPEN_MAX = 64
HELLO_DEADLINE_S = 5.0  # from accept or dial to hello, the TLS handshake included
BACKOFF_MIN_S = 0.05
BACKOFF_MAX_S = 1.0
UNACKNOWLEDGED_MS_MAX = 5_000  # the kernel gives up a peer that vanished without a word
LISTEN_BACKLOG = 64

__all__ = [
    "FRAME_BYTES_MAX",
    "HELLO_BYTES_MAX",
    "BadFrame",
    "PeerHandler",
    "PeerTransport",
    "peer_contexts",
    "peer_name",
]

_log = logging.getLogger(__name__)


class PeerHandler(Protocol):
    """Whom the transport tells. Called on the event loop's thread; none of these may block."""

    def admit(self, peer_id: str) -> bool:
        """May this node, certified as such, speak now: is it a member, or expected to become one?"""
        ...

    def on_peer_up(self, peer_id: str) -> None: ...

    def on_peer_down(self, peer_id: str) -> None: ...

    def on_message(self, peer_id: str, body: bytes) -> None:
        """One frame, in order. Raises BadFrame to have the connection dropped."""
        ...


class PeerTransport:
    """See the module. All methods belong to the event loop's thread."""

    def __init__(
        self,
        *,
        me: str,
        cluster_id: str,
        listen: tuple[str, int],
        server_tls: ssl.SSLContext | None,
        client_tls: ssl.SSLContext | None,
        handler: PeerHandler,
        insecure: bool = False,
        source: str = "",
    ) -> None:
        """Without TLS (`insecure=True`, both contexts None) a peer is believed: for tests only."""
        peer_name(me, cluster_id)
        if (server_tls is None) != insecure or (client_tls is None) != insecure:
            raise ValueError("TLS contexts both ways, or insecure=True and none")
        for context in (server_tls, client_tls):
            if context is not None:
                check_context(context)
        self.me, self.cluster_id, self.handler = me, cluster_id, handler
        self.refused: Counter[str] = Counter()
        self._source = (source, 0) if source else None
        self._listen, self._server_tls, self._client_tls = listen, server_tls, client_tls
        self._peers: dict[str, str] = {}
        self._links: dict[str, Link] = {}  # greeted, at most one a peer
        self._open: set[Link] = set()
        self._socket: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._half_open = 0
        self._pause: asyncio.TimerHandle | None = None  # of accepting, after a lack of descriptors
        self._dialling: dict[str, asyncio.Task[None]] = {}

    @property
    def port(self) -> int:
        """The TCP port that start() bound."""
        invariant(self._socket is not None, "not started")
        return cast("int", cast("socket.socket", self._socket).getsockname()[1])

    async def start(self) -> None:
        """Listen, and dial the peers. Raises OSError if the address cannot be bound."""
        invariant(self._socket is None, "started twice")
        host, port = self._listen
        infos = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = infos[0]
        self._socket = socket.create_server(
            cast("tuple[str, int]", address), family=family, backlog=LISTEN_BACKLOG
        )
        self._socket.setblocking(False)
        self._listen_again()
        for peer_id in self._peers:
            self._dial(peer_id)

    async def stop(self) -> None:
        """Close everything and wait for it; every peer that was up is reported down."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if self._pause is not None:
            self._pause.cancel()
        tasks = list(self._tasks)
        self._dialling.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in list(self._open):
            link.abort()
        for link in list(self._open):
            await link.closed.wait()

    def set_peers(self, peers: Mapping[str, str]) -> None:
        """The other members and expected joiners: id -> host:port. A removed or moved one is disconnected."""
        invariant(self.me not in peers, "a node is not its own peer")
        for peer_id, address in peers.items():
            peer_name(peer_id, self.cluster_id)
            _host_and_port(address)
        for peer_id in [peer for peer in self._peers if self._peers[peer] != peers.get(peer)]:
            if (task := self._dialling.pop(peer_id, None)) is not None:
                task.cancel()
            if (link := self._links.get(peer_id)) is not None:
                link.abort()
        self._peers = dict(peers)
        if self._socket is not None:
            for peer_id in self._peers:
                self._dial(peer_id)

    def send(self, peer_id: str, body: bytes) -> bool:
        """Queue one frame; False if the peer is not connected, or so slow that it has just been given up."""
        invariant(len(body) <= FRAME_BYTES_MAX, "frame larger than FRAME_BYTES_MAX")
        link = self._links.get(peer_id)
        if link is None or link.closing():
            return False
        link.write(body)
        if link.backlog() > PEER_BUFFER_BYTES_MAX:
            self.refuse("backlog", peer_id)
            link.abort()
            return False
        return True

    def flush(self) -> None:
        """What was sent in this turn of the loop leaves now: the caller is about to keep the loop busy."""
        for link in self._links.values():
            link.flush()

    def backlog(self, peer_id: str) -> int:
        """Bytes queued for the peer and not yet handed to the kernel; 0 when it is not connected."""
        link = self._links.get(peer_id)
        return 0 if link is None else link.backlog()

    def connected(self) -> set[str]:
        """The peers that have said hello and are still there."""
        return set(self._links)

    # ---- what links call

    def hello(self) -> bytes:
        packed: bytes = msgpack.packb({"v": PROTOCOL_VERSION, "cluster": self.cluster_id, "id": self.me})
        return packed

    def check_hello(self, body: bytes, certified: ssl.SSLObject | None, dialled: str | None) -> str:
        """The peer's id, if its hello, its certificate and who we meant to reach agree. Raises BadFrame."""
        try:
            hello = unpack_strict(body)
        except ValueError:
            raise BadFrame("hello is not msgpack") from None
        match hello:
            case {"v": int(version), "cluster": str(cluster), "id": str(peer_id)}:
                pass  # what else a newer release may say is not for this one
            case _:
                raise BadFrame("hello has other fields")
        if version != PROTOCOL_VERSION:
            raise BadFrame("hello of another protocol version")
        if cluster != self.cluster_id:
            raise BadFrame("hello of another cluster")
        if self._server_tls is not None and certified_id(certified, self.cluster_id) != peer_id:
            raise BadFrame("the certificate is another node's")
        if dialled is not None:
            if peer_id != dialled:
                raise BadFrame("another node answers at the peer's address")
        elif peer_id <= self.me:
            raise BadFrame("a lower id dials")
        elif not self.handler.admit(peer_id):
            raise BadFrame("not admitted")
        return peer_id

    def greeted(self, link: Link, peer_id: str) -> None:
        """A verified link replaces the peer's former one, of which nothing is heard any more."""
        if (former := self._links.get(peer_id)) is not None:
            self._down(former, peer_id)
            former.abort()
        self._links[peer_id] = link
        self.handler.on_peer_up(peer_id)

    def is_current(self, link: Link) -> bool:
        return link.peer_id is not None and self._links.get(link.peer_id) is link

    def opened(self, link: Link) -> None:
        self._open.add(link)

    def lost(self, link: Link) -> None:
        """The link is closing: from now on the peer counts as not connected."""
        if link.peer_id is not None and self.is_current(link):
            self._down(link, link.peer_id)

    def received(self, peer_id: str, body: bytes) -> None:
        self.handler.on_message(peer_id, body)

    def closed(self, link: Link) -> None:
        self._open.discard(link)

    def refuse(self, reason: str, who: object) -> None:
        """Count a broken rule; log the 1st, 2nd, 4th, 8th... of each kind, lest somebody fills it."""
        self.refused[reason] += 1
        count = self.refused[reason]
        if count & (count - 1) == 0:
            _log.warning("peer connection refused: %s (from %s, %d times so far)", reason, who, count)

    def _down(self, link: Link, peer_id: str) -> None:
        invariant(self._links.get(peer_id) is link, "not the peer's link")
        del self._links[peer_id]
        self.handler.on_peer_down(peer_id)

    def _own(self, task: asyncio.Task[None]) -> None:
        """It ends with stop(). An exception in it is a bug: the loop's handler is told at once."""
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            context = {"message": "a task of the peer transport failed", "exception": error, "task": task}
            task.get_loop().call_exception_handler(context)

    # ---- accepting

    def _listen_again(self) -> None:
        listener = cast("socket.socket", self._socket)
        self._pause = None
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        """Our own accepting: it bounds the connections of unknown peers, and outlives a lack of descriptors.

        A callback, not a task in sock_accept(): what that has accepted is lost when the task is cancelled.
        """
        loop = asyncio.get_running_loop()
        try:
            connection, address = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            self.refuse(f"accept failed: {error.strerror}", "-")
            loop.remove_reader(listener.fileno())
            self._pause = loop.call_later(BACKOFF_MAX_S, self._listen_again)
            return
        if self._half_open >= HALF_OPEN_MAX:
            self.refuse("too many half-open connections", address)
            connection.close()
            return
        connection.setblocking(False)
        link = Link(self, dialled=None)
        task = asyncio.create_task(self._greet(link, connection, address))
        self._half_open += 1
        self._own(task)
        task.add_done_callback(partial(self._greeting_over, link, connection))

    async def _greet(self, link: Link, connection: socket.socket, address: object) -> None:
        loop = asyncio.get_running_loop()
        try:
            _tune(connection)
            async with asyncio.timeout(HELLO_DEADLINE_S):
                await loop.connect_accepted_socket(
                    lambda: link,
                    connection,
                    ssl=self._server_tls,
                    ssl_handshake_timeout=None if self._server_tls is None else HELLO_DEADLINE_S,
                )
                await link.ready
        except (OSError, TimeoutError, BadFrame) as error:  # ssl.SSLError is an OSError
            self.refuse(_reason(error), address)

    def _greeting_over(self, link: Link, connection: socket.socket, _: object) -> None:
        """Not in the task itself: one that is cancelled before it has begun runs none of its code."""
        self._half_open -= 1
        if link.peer_id is None:
            link.abort()
        if not link.connected:
            connection.close()

    # ---- dialling

    def _dial(self, peer_id: str) -> None:
        if peer_id < self.me and peer_id not in self._dialling:
            self._dialling[peer_id] = asyncio.create_task(self._keep_dialling(peer_id))
            self._own(self._dialling[peer_id])

    async def _keep_dialling(self, peer_id: str) -> None:
        host, port = _host_and_port(self._peers[peer_id])
        backoff_s = BACKOFF_MIN_S
        while True:
            if await self._dial_once(peer_id, host, port):
                backoff_s = BACKOFF_MIN_S
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311 (not a secret)
            backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)

    async def _dial_once(self, peer_id: str, host: str, port: int) -> bool:
        """Connect and stay until the connection ends; whether the peer said hello at all."""
        link = Link(self, dialled=peer_id)
        name = None if self._client_tls is None else peer_name(peer_id, self.cluster_id)
        deadline_s = None if self._client_tls is None else HELLO_DEADLINE_S
        try:
            async with asyncio.timeout(HELLO_DEADLINE_S):
                transport, _ = await asyncio.get_running_loop().create_connection(
                    lambda: link,
                    host,
                    port,
                    ssl=self._client_tls,
                    server_hostname=name,
                    ssl_handshake_timeout=deadline_s,
                    local_addr=self._source,
                )
                _tune(transport.get_extra_info("socket"))
                await link.ready
            await link.closed.wait()
            return True
        except (OSError, TimeoutError, BadFrame, UnicodeError) as error:  # the last: no such host name
            if not isinstance(error, ConnectionRefusedError):  # a peer that is not up is no news
                self.refuse(_reason(error), peer_id)
            return False
        finally:
            link.abort()


def _tune(connection: socket.socket) -> None:
    """Small frames leave at once, and a peer that vanished is noticed."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS_MAX)


def _host_and_port(address: str) -> tuple[str, int]:
    """host:port or [v6]:port. Raises ValueError."""
    host, separator, port = address.rpartition(":")
    if not host or not separator or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ValueError(f"{address!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _reason(error: Exception) -> str:
    """A few words without anything that the other side chose."""
    match error:
        case BadFrame():
            return str(error)
        case ssl.SSLError():
            return f"TLS: {error.reason}"
        case TimeoutError():
            return "no hello in time"
        case _:
            return type(error).__name__
