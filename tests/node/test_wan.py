"""The network between regions: what a connection through it notices. Real sockets; the arithmetic by itself."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from support.patience import PATIENCE_S, eventually
from support.ports import free_ports

from node.cli.local_process import ClusterError
from node.cli.local_wan import LocalWan
from node.wan.conditions import BURST_BYTES, Bucket, Conditions
from node.wan.control import carry_out
from node.wan.orders import Door, Ways
from node.wan.proxy import Wan

REGIONS = {"eu": "127.0.0.11", "us": "127.0.0.12", "ap": "127.0.0.13"}
DELAY_S = 0.15


class Echo:
    """A Wan with one door, to a server in "us" that answers with what it gets."""

    def __init__(self, wan: Wan, door: int, ended: asyncio.Event) -> None:
        self.wan, self._door, self.ended = wan, door, ended

    async def connect(self, source: str = "eu") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._door, local_addr=(REGIONS[source], 0))

    async def said(self, text: bytes, source: str = "eu") -> bytes:
        """What comes back, on a connection of its own."""
        reader, writer = await self.connect(source)
        try:
            writer.write(text)
            return await reader.readexactly(len(text))
        finally:
            writer.close()

    def change(self, here: str = "eu", there: str = "us", *, one_way: bool = False, **change: object) -> None:
        carry_out(self.wan, Ways(here, there, one_way, change))


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    ended = asyncio.Event()  # a connection, as the server sees it

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        ended.set()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    target, door = server.sockets[0].getsockname()[1], free_ports(1)[0]
    wan = Wan(REGIONS, [Door("us", f"127.0.0.1:{door}", f"127.0.0.1:{target}")])
    await wan.start()
    yield Echo(wan, door, ended)
    await wan.stop()
    server.close()


async def test_a_way_delays_and_many_bytes_are_under_way_at_once(echo: Echo) -> None:
    echo.change(delay_s=DELAY_S)
    reader, writer = await echo.connect()
    began = time.monotonic()
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    assert time.monotonic() - began >= 4 * DELAY_S, "a handshake's round trip, and that of the byte"
    began = time.monotonic()
    pieces = [bytes([number]) * 1000 for number in range(50)]
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(DELAY_S / 50)
    assert await reader.readexactly(50_000) == b"".join(pieces)
    assert 2 * DELAY_S <= time.monotonic() - began < len(pieces) * DELAY_S, "they do not wait for each other"
    writer.close()


async def test_a_connection_that_lasts_feels_a_change_and_other_regions_do_not(echo: Echo) -> None:
    reader, writer = await echo.connect()
    writer.write(b"a")
    await reader.readexactly(1)
    echo.change(delay_s=30.0)
    assert await echo.said(b"from elsewhere", source="ap") == b"from elsewhere"
    echo.change(delay_s=DELAY_S)
    began = time.monotonic()
    writer.write(b"b")
    await reader.readexactly(1)
    assert time.monotonic() - began >= 2 * DELAY_S
    writer.close()


async def test_the_end_of_what_one_side_says_travels_and_the_other_side_may_go_on(echo: Echo) -> None:
    reader, writer = await echo.connect()
    writer.write(b"last words")
    writer.write_eof()
    assert await reader.read() == b"last words"
    writer.close()


async def test_a_cut_resets_what_is_open_and_refuses_what_is_new_until_it_heals(echo: Echo) -> None:
    reader, writer = await echo.connect()
    writer.write(b"a")
    await reader.readexactly(1)
    echo.change(cut="reset")
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await echo.said(b"b")
    assert await echo.said(b"c", source="ap") == b"c"
    echo.change(cut="")
    assert await echo.said(b"d") == b"d"
    writer.close()


async def test_a_cut_that_swallows_leaves_a_connection_without_an_answer_until_it_heals(echo: Echo) -> None:
    reader, writer = await echo.connect()
    writer.write(b"a")
    await reader.readexactly(1)
    echo.change(cut="swallow")
    writer.write(b"b")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await reader.readexactly(1)
    echo.change(cut="")
    assert await reader.readexactly(1) == b"b"
    writer.close()


async def test_nobody_learns_through_a_cut_that_the_other_side_has_gone(echo: Echo) -> None:
    for gone in ("ended", "reset"):
        reader, writer = await echo.connect()
        writer.write(b"a")
        await reader.readexactly(1)
        echo.ended.clear()
        echo.change(cut="swallow")
        if gone == "reset":
            own = writer.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await echo.ended.wait()
        echo.change(cut="")
        async with asyncio.timeout(PATIENCE_S):
            await echo.ended.wait()


async def test_one_way_can_be_cut_alone(echo: Echo) -> None:
    reader, writer = await echo.connect()
    writer.write(b"a")
    await reader.readexactly(1)
    echo.change("us", "eu", one_way=True, cut="swallow")
    forth, back = (echo.wan.ways[pair] for pair in (("eu", "us"), ("us", "eu")))
    writer.write(b"b")
    await eventually(lambda: forth.bytes_carried >= 2, "the byte on its way")
    assert back.bytes_carried == 1
    echo.change("us", "eu", one_way=True, cut="")
    assert await reader.readexactly(1) == b"b"
    writer.close()


async def test_a_narrow_way_holds_back_what_is_more_than_a_burst(echo: Echo) -> None:
    bits_per_s = 8 * 200_000
    echo.change("eu", "us", one_way=True, bits_per_s=bits_per_s)
    began = time.monotonic()
    text = b"x" * (BURST_BYTES + 100_000)
    assert await echo.said(text) == text
    assert time.monotonic() - began >= 0.5


async def test_bits_are_flipped_and_never_unless_asked_for(echo: Echo) -> None:
    text = b"\0" * 100_000
    assert await echo.said(text) == text
    echo.change("eu", "us", one_way=True, flip_probability=0.01)
    flipped = sum(byte != 0 for byte in await echo.said(text))
    assert 700 < flipped < 1300


async def test_a_dead_target_and_a_stranger_are_reset(echo: Echo) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.99", 0))
        stranger.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(stranger, ("127.0.0.1", echo._door))
        with pytest.raises(ConnectionResetError):
            await loop.sock_recv(stranger, 1)
    port = free_ports(1)[0]
    wan = Wan(REGIONS, [Door("us", f"127.0.0.1:{port}", f"127.0.0.1:{free_ports(1)[0]}")])
    await wan.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(REGIONS["eu"], 0))
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    writer.close()
    await wan.stop()


def test_a_bucket_lets_a_burst_through_and_then_what_the_rate_allows() -> None:
    bucket = Bucket()
    assert bucket.departure(100.0, BURST_BYTES, 8000.0) == 100.0
    assert bucket.departure(100.0, 1000, 8000.0) == 101.0
    assert bucket.departure(100.0, 1000, 8000.0) == 102.0
    assert bucket.departure(100.0, 1000, 0) == 100.0, "no limit any more"


@pytest.mark.parametrize(
    "change", [{"delay_s": -1}, {"flip_probability": 1.5}, {"cut": "maybe"}, {"dealy_s": 1}, {"delay_s": 1e9}]
)
def test_conditions_that_are_none_change_nothing(change: dict[str, object]) -> None:
    wan = Wan(REGIONS, [])
    with pytest.raises(msgspec.ValidationError):
        carry_out(wan, Ways("", "", change=change))
    assert {way.conditions for way in wan.ways.values()} == {Conditions()}


def test_a_network_of_its_own_process_takes_orders_and_says_what_is_wrong(tmp_path: Path) -> None:
    wan = LocalWan(tmp_path)
    door = Door("us", f"127.0.0.1:{free_ports(1)[0]}", "127.0.0.1:1")
    try:
        wan.start(REGIONS, [door], [Ways("eu", "us", change={"delay_s": 0.035})])
        assert {way["delay_s"] for way in wan.change("us", "eu")} == {0.035}
        wan.cut("ap", swallow=True)
        cut = {(way["from"], way["to"]) for way in wan.change() if way["cut"] == "swallow"}
        assert cut == {("ap", "eu"), ("ap", "us"), ("eu", "ap"), ("us", "ap")}
        with pytest.raises(ClusterError, match="there is no region mars"):
            wan.cut("mars")
        with pytest.raises(ClusterError, match="cut"):
            wan.change("eu", cut="maybe")
        wan.start(REGIONS, [door], [Ways("eu", "us", change={"delay_s": 0.045})])
        assert {(way["cut"], way["delay_s"]) for way in wan.change("eu", "us")} == {("", 0.045)}
    finally:
        wan.stop()
    assert not wan.alive()
    with pytest.raises(ClusterError, match="not running"):
        wan.heal()
