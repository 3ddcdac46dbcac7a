"""Links to regions that are further away than what happens at both ends takes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from support.patience import PATIENCE_S

from node import pki
from node.regions import authority
from node.regions.links import Interrupted, Links, Unreachable
from node.regions.nearness import ROUND_TRIP_S_MAX

WAY_S = 0.3  # each way, of every piece
ENDS_S = 0.2  # less than the way
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(65536):
            await asyncio.sleep(WAY_S)
            writer.write(piece)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await writer.drain()


async def ended(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


class Serving:
    """What runs for each connection to a server, until close()."""

    def __init__(self, handle: Callable[..., Awaitable[None]]) -> None:
        self._handle = handle
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._handle(reader, writer)
        finally:
            await ended(writer)

    async def close(self) -> None:
        for each in self._tasks:
            each.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def far_region() -> AsyncIterator[tuple[Links, str]]:
    """Links, and the address of region "us", whose TLS 1.3 handshake alone takes a round trip of 2 * WAY_S."""
    ca = pki.new_ca("regions")
    serving, asking = authority.contexts(ca, authority.certify(ca, "us", "cluster"))
    region = Serving(answer)
    near = await asyncio.start_server(region, "127.0.0.1", 0, ssl=serving)

    async def lead_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        on, back = await asyncio.open_connection(*near.sockets[0].getsockname()[:2])
        try:
            await asyncio.gather(carry(reader, back), carry(on, writer))
        finally:
            await ended(back)

    way = Serving(lead_on)
    far = await asyncio.start_server(way, "127.0.0.1", 0)
    links = Links(asking, "cluster")
    try:
        yield links, "{}:{}".format(*far.sockets[0].getsockname()[:2])
    finally:
        await links.close()
        for server in (far, near):
            server.close()
        for each in (way, region):
            await each.close()


@pytest.mark.parametrize("how", ["patient", "measured", "neither"])
async def test_what_the_way_takes_comes_on_top_of_a_time_out(how: str) -> None:
    async with far_region() as (links, address), asyncio.timeout(PATIENCE_S):
        if how == "measured":
            links.nearness["us"].measured(address, ROUND_TRIP_S_MAX)
        asking = links.ask("us", (address,), "/v1/x", timeout_s=ENDS_S, patient=how == "patient")
        if how == "neither":
            with pytest.raises((Interrupted, Unreachable)):
                await asking
        else:
            assert (await asking).body == b"{}"


async def test_a_stream_from_far_away_begins() -> None:
    async with far_region() as (links, address), asyncio.timeout(PATIENCE_S):
        links.nearness["us"].measured(address, ROUND_TRIP_S_MAX)
        pieces = links.stream("us", (address,), "/v1/x", body=b"{}", silence_s=ENDS_S)
        assert b"".join([piece async for _, piece in pieces]) == b"{}"
