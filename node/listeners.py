"""The sockets that clients reach: opened together, drained together."""

import asyncio
import socket
import ssl

from node.accepting import Acceptor, listening_sockets
from node.api.http import make_server
from node.api.protocol import Server
from node.core.core import Core
from node.events.subscription import End
from node.front import Door


class Listeners:
    """Every API listener of one node."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._open: list[tuple[list[Acceptor], Server]] = []

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None, *, link: bool = False) -> None:
        """Accept clients from now on; with `link` they are nodes of other regions. OSError if it cannot be bound."""
        protocol = make_server(self._core, tls=tls is not None, link=link)
        acceptors = [Acceptor(listening, protocol, tls) for listening in await listening_sockets(host, port)]
        for acceptor in acceptors:
            acceptor.start()
        self._keep(acceptors, protocol, link=link)

    def take(self, door: Door) -> None:
        """A listener that is open already, and whoever waits at it."""
        protocol = make_server(self._core, tls=door.tls)
        self._keep(door.acceptors, protocol, link=False)
        door.open(protocol)

    def _keep(self, acceptors: list[Acceptor], protocol: Server, *, link: bool) -> None:
        if not link:
            self._core.metrics.count_connections(lambda: protocol.clients)
        self._open.append((acceptors, protocol))

    def share(self) -> list[tuple[tuple[socket.socket, ...], Server]]:
        """The sockets of each listener, for other processes to accept on as well, and what answers there."""
        return [(tuple(each.share() for each in acceptors), server) for acceptors, server in self._open]

    def activity(self) -> int:
        """Grows with every connection and every answer: with what the garbage collector may have to look at."""
        accepted = sum(acceptor.accepted for acceptors, _ in self._open for acceptor in acceptors)
        return accepted + self._core.metrics.answered()

    async def drain(self, timeout: float) -> None:
        """Accept nobody more; requests in flight have `timeout` seconds to finish, then they are cut."""
        for acceptors, _ in self._open:
            for acceptor in acceptors:
                acceptor.close()
        self._core.events.end_all(End.STOPPING)
        await asyncio.gather(*(protocol.drain(timeout) for _, protocol in self._open))
        self._open.clear()
