"""A listening socket whose newcomers get in at once.

uvloop accepts one connection a turn of its loop and listener, so that thousands of newcomers behind busy connections
would wait for seconds. Here a turn takes what the backlog holds, within bounds.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable

import structlog

BACKLOG = 4096
ACCEPTED_A_TURN_MAX = 256
SHARED_ACCEPTED_A_TURN_MAX = 4  # where other processes accept on the socket as well: who has time takes more
OPENING_MAX = 2048  # connections whose TLS handshake is under way; more wait in the backlog
HANDSHAKE_TIMEOUT_S = 10.0
EXHAUSTED_PAUSE_S = 0.5
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = structlog.get_logger(__name__)


class Acceptor:
    """Accepts on one socket, from start() to close(), for `factory` to speak with; belongs to the running loop."""

    def __init__(
        self,
        listening: socket.socket,
        factory: Callable[[], asyncio.BaseProtocol],
        tls: ssl.SSLContext | None,
        *,
        shared: bool = False,
    ) -> None:
        """`shared`: other processes accept on this socket as well."""
        self._socket, self._factory, self._tls = listening, factory, tls
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._listens = False
        self._closed = False
        self._turn_max = SHARED_ACCEPTED_A_TURN_MAX if shared else ACCEPTED_A_TURN_MAX
        self.accepted = 0  # connections so far

    def start(self) -> None:
        """Accept, unless that was started or closed before."""
        if not self._listens and not self._closed:
            self._loop.add_reader(self._socket, self._accept)
            self._listens = True

    def share(self) -> socket.socket:
        """The socket, for another process to accept on as well, from now on."""
        self._turn_max = SHARED_ACCEPTED_A_TURN_MAX
        return self._socket

    def close(self) -> None:
        """Accept nobody more; who has not finished a handshake has asked for nothing yet, and is cut."""
        self._pause()
        self._closed = True
        self._socket.close()
        for task in self._opening:
            task.cancel()

    def _pause(self) -> None:
        if self._listens:
            self._loop.remove_reader(self._socket)
            self._listens = False

    def _accept(self) -> None:
        for _ in range(self._turn_max):
            if len(self._opening) >= OPENING_MAX:
                self._pause()  # _opened() goes on
                return
            try:
                connection, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                _log.warning("cannot accept connections for now", error=errno.errorcode.get(error.errno))
                self._pause()
                self._loop.call_later(EXHAUSTED_PAUSE_S, self.start)
                return
            self.accepted += 1
            connection.setblocking(False)
            task = self._loop.create_task(self._open(connection))
            self._opening.add(task)
            task.add_done_callback(self._opened)

    async def _open(self, connection: socket.socket) -> None:
        limit = HANDSHAKE_TIMEOUT_S if self._tls is not None else None
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(
                self._factory, connection, ssl=self._tls, ssl_handshake_timeout=limit
            )
        except (
            OSError,
            TimeoutError,
        ) as error:  # ssl.SSLError among them: a client that is none, or went away
            _log.info("connection lost", error=type(error).__name__)
            connection.close()

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if not self._listens:
            self.start()
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error  # a bug: the loop's handler stops the node


async def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """A socket for every address of `host`, listening. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            opened = socket.socket(family, kind, protocol)
            sockets.append(opened)
            opened.setblocking(False)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.bind(address)
            opened.listen(BACKLOG)
    except BaseException as error:
        for opened in sockets:
            opened.close()
        if isinstance(error, OSError):  # says itself what went wrong, but not where
            raise OSError(error.errno, f"{error.strerror}: {host}:{port}") from error
        raise
    return sockets
