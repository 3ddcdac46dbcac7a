"""Peers to test with: a handler that records, nodes with real certificates, and guests who send raw bytes."""

import asyncio
import contextlib
import functools
import inspect
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from support.certs import Authority
from support.patience import PATIENCE_S

from consensus.transport import BadFrame, PeerTransport, peer_contexts, peer_name

CLUSTER = "c1"
HELLO = {"v": 1, "cluster": CLUSTER, "id": "n2"}


def on_both_loops(test: Callable[..., Any]) -> Any:
    """Run an async test once on asyncio's own event loop and once on uvloop, which the server uses."""

    @functools.wraps(test)
    def run(*, loop_factory: Callable[[], asyncio.AbstractEventLoop], **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(test(**fixtures))

    signature = inspect.signature(test)
    extra = inspect.Parameter("loop_factory", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), extra])
    loops = [asyncio.new_event_loop, uvloop.new_event_loop]
    return pytest.mark.parametrize("loop_factory", loops, ids=["asyncio", "uvloop"])(run)


class Handler:
    """Records what it is told; admits n1 to n3."""

    def __init__(self) -> None:
        self.admitted = {"n1", "n2", "n3"}
        self.ups: list[str] = []
        self.downs: list[str] = []
        self.messages: list[tuple[str, bytes]] = []
        self.on_removal: Callable[[], None] = lambda: None

    def admit(self, peer_id: str) -> bool:
        return peer_id in self.admitted

    def on_peer_up(self, peer_id: str) -> None:
        self.ups.append(peer_id)

    def on_peer_down(self, peer_id: str) -> None:
        self.downs.append(peer_id)

    def on_message(self, peer_id: str, body: bytes) -> None:
        if body == b"nonsense":
            raise BadFrame("unknown message")
        self.messages.append((peer_id, body))
        if body == b"remove me":
            self.on_removal()


def make(me: str, authority: Authority, handler: Handler, port: int = 0) -> PeerTransport:
    server, client = peer_contexts(ca=authority.ca, certificate=authority.directory / f"{me}.pem")
    return PeerTransport(
        me=me,
        cluster_id=CLUSTER,
        listen=("127.0.0.1", port),
        server_tls=server,
        client_tls=client,
        handler=handler,
    )


@contextlib.asynccontextmanager
async def running(*transports: PeerTransport) -> AsyncIterator[None]:
    try:
        for one in transports:
            await one.start()
        yield
    finally:
        for one in transports:
            await one.stop()


def address(one: PeerTransport) -> str:
    return f"127.0.0.1:{one.port}"


def frame(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


class Guest:
    """Somebody at n1's port with a certificate (a PEM file) or none, who sends raw bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(
        cls,
        to: PeerTransport,
        ca: Path,
        certificate: Path | None,
        *,
        plain: bool = False,
        receive_bytes: int | None = None,
    ) -> "Guest":
        context = None
        if not plain:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(ca)
            if certificate is not None:
                context.load_cert_chain(certificate)
        name = None if plain else peer_name("n1", CLUSTER)
        connection = socket.socket()
        connection.setblocking(False)
        if receive_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", to.port))
            streams = await asyncio.open_connection(sock=connection, ssl=context, server_hostname=name)
        except BaseException:
            connection.close()
            raise
        return cls(*streams)

    async def say(self, *frames: bytes) -> None:
        for one in frames:
            self.writer.write(one)
        with contextlib.suppress(OSError):
            await self.writer.drain()

    async def hears(self) -> bytes:
        """Everything until the other side closes."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self.reader.read()
        except (ConnectionError, ssl.SSLError):  # and no timeout: an open connection is a failure
            return b""
        finally:
            await self.leave()

    async def leave(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()
