"""Newcomers get in at once, bad ones bother nobody, and TLS sessions are resumed."""

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvloop
from support.patience import PATIENCE_S

from node import accepting, pki
from node.accepting import Acceptor, listening_sockets

NEWCOMERS = 100


class Echo(asyncio.Protocol):
    """Answers what comes, and counts who came."""

    made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        type(self).made += 1
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def nobody_yet() -> None:
    Echo.made = 0


@contextlib.asynccontextmanager
async def accepting_on(tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Acceptor, int]]:
    (listening,) = await listening_sockets("127.0.0.1", 0)
    acceptor = Acceptor(listening, Echo, tls)
    acceptor.start()
    try:
        yield acceptor, listening.getsockname()[1]
    finally:
        acceptor.close()


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    ca = pki.new_ca("test")
    server = pki.listener_context(pki.credentials(ca, pki.listener_names(["127.0.0.1"])))
    return server, ssl.create_default_context(cadata=ca.certificate.decode())


async def says_hello(port: int, tls: ssl.SSLContext | None = None) -> None:
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()


def test_many_newcomers_get_in_in_a_few_turns_of_the_loop() -> None:
    """uvloop by itself takes one a turn."""

    async def scenario() -> None:
        async with accepting_on() as (_, port):
            clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(NEWCOMERS)]
            for _ in range(NEWCOMERS // 10):
                await asyncio.sleep(0.001)
            assert Echo.made == NEWCOMERS
            for client in clients:
                client.close()

    uvloop.run(scenario())


async def test_a_client_that_speaks_no_tls_bothers_nobody() -> None:
    server, client = contexts()
    async with accepting_on(server) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                await reader.read()
        writer.close()
        await says_hello(port, client)
        assert Echo.made == 1


async def test_handshakes_under_way_are_bounded_and_the_next_ones_follow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accepting, "OPENING_MAX", 2)
    monkeypatch.setattr(accepting, "HANDSHAKE_TIMEOUT_S", 0.2)
    server, client = contexts()
    async with accepting_on(server) as (_, port):
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        await says_hello(port, client)
        for _, writer in silent:
            writer.close()


async def test_when_descriptors_run_out_it_waits_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "EXHAUSTED_PAUSE_S", 0.01)
    (listening,) = await listening_sockets("127.0.0.1", 0)
    failures = [OSError(errno.EMFILE, "too many open files")] * 2

    class Scarce:
        """The socket, but for its first accepts."""

        def __getattr__(self, name: str) -> Any:
            return getattr(listening, name)

        def accept(self) -> Any:
            if failures:
                raise failures.pop()
            return listening.accept()

    acceptor = Acceptor(Scarce(), Echo, None)  # type: ignore[arg-type]
    acceptor.start()
    try:
        await says_hello(listening.getsockname()[1])
        assert not failures
    finally:
        acceptor.close()


async def test_nobody_gets_in_after_close() -> None:
    async with accepting_on() as (acceptor, port):
        await says_hello(port)
        acceptor.close()
        with pytest.raises(ConnectionError):
            await says_hello(port)


async def test_a_taken_address_is_an_error() -> None:
    (first,) = await listening_sockets("127.0.0.1", 0)
    with pytest.raises(OSError):
        await listening_sockets("127.0.0.1", first.getsockname()[1])
    first.close()


def test_a_tls_session_is_resumed() -> None:
    """A client that comes again shows its ticket and is spared the certificate."""
    server, client = contexts()

    async def scenario() -> None:
        async with accepting_on(server) as (_, port):
            session = await asyncio.to_thread(talk, port, client, None)
            await asyncio.to_thread(talk, port, client, session)

    uvloop.run(scenario())


def talk(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSession | None:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as wrapped,
    ):
        wrapped.sendall(b"hello")
        assert wrapped.recv(5) == b"hello"
        assert wrapped.session_reused is (session is not None)
        return wrapped.session
