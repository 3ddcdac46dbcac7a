"""Connections to others that are reset at once: nobody else's connection suffers."""

import asyncio
import socket
import ssl
import struct
import threading

import aiohttp
import uvloop
from support.patience import PATIENCE_S

from node.outgoing import Connector

ATTEMPTS, TASKS = 150, 10
RESET = struct.pack("ii", 1, 0)


def resetting() -> socket.socket:
    """A listener whose connections are reset as soon as they are accepted."""
    listening = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.close()

    threading.Thread(target=accept, daemon=True).start()
    return listening


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


async def bystander(port: int) -> None:
    """Somebody with a connection of his own in the same process."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"x")
    assert await asyncio.wait_for(reader.read(1), PATIENCE_S) == b"x"
    writer.close()
    await writer.wait_closed()


async def beside_resets(port: int) -> int:
    """How many attempts were refused in the proper way."""
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    beside = server.sockets[0].getsockname()[1]
    refused = 0
    async with aiohttp.ClientSession(connector=Connector(ssl.create_default_context())) as session:

        async def attempts() -> None:
            nonlocal refused
            for _ in range(ATTEMPTS):
                try:
                    async with session.get(f"https://127.0.0.1:{port}/"):
                        pass
                except aiohttp.ClientConnectorError:
                    refused += 1
                await bystander(beside)

        await asyncio.gather(*(attempts() for _ in range(TASKS)))
    server.close()
    return refused


def test_a_connection_that_is_reset_at_once_closes_no_other_one() -> None:
    with resetting() as listening:
        assert uvloop.run(beside_resets(listening.getsockname()[1])) == ATTEMPTS * TASKS
