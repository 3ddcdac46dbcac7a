"""The sockets that clients reach: opened together, drained together."""

import asyncio
import ssl

from node.api.http import make_server
from node.api.protocol import HANDSHAKE_TIMEOUT_S, Server
from node.core.core import Core

ACCEPT_BACKLOG = 4096


class Listeners:
    """Every API listener of one node."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._open: list[tuple[asyncio.Server, Server]] = []

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        """Accept clients from now on. Raises OSError if the address cannot be bound."""
        protocol = make_server(self._core, tls=tls is not None)
        sockets = await asyncio.get_running_loop().create_server(
            protocol,
            host,
            port,
            ssl=tls,
            backlog=ACCEPT_BACKLOG,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if tls is not None else None,
        )
        self._open.append((sockets, protocol))

    async def drain(self, timeout: float) -> None:
        """Accept nobody more; requests in flight have `timeout` seconds to finish, then they are cut."""
        for sockets, _ in self._open:
            sockets.close()
        await asyncio.gather(*(protocol.drain(timeout) for _, protocol in self._open))
        self._open.clear()
