"""Clients of regions that are far apart: writers at a rate, and probes that look from outside. For bench.regions."""

import asyncio
import json
import random
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from bench.processes import SystemFailedError

PATH = "/v1/secret/data/bench/"
VALUE = "v" * 256
TIMEOUT_S = 30.0
POLL_S = 0.002
GIVE_UP_S = 20.0
ECHO_BYTES = 64


@dataclass(frozen=True, slots=True)
class Region:
    """Where clients of one region ask, and over what."""

    name: str
    addresses: tuple[str, ...]
    session: aiohttp.ClientSession

    async def write(self, key: str, value: str, *, node: int = 0) -> None:
        """Raises SystemFailedError if it is not acknowledged."""
        url = f"{self.addresses[node % len(self.addresses)]}{PATH}{key}"
        async with self.session.put(url, data=json.dumps({"data": {"value": value}})) as answer:
            body = await answer.read()
            if answer.status != 200:
                raise SystemFailedError(f"{self.name} answered a write with {answer.status}: {body[:300]!r}")

    async def shows(self, key: str, value: str) -> bool:
        """Whether a read at the first node answers that value."""
        async with self.session.get(f"{self.addresses[0]}{PATH}{key}") as answer:
            return value.encode() in await answer.read()


@asynccontextmanager
async def region(name: str, addresses: Sequence[str], ca: Path, token: str) -> AsyncIterator[Region]:
    """A region's clients, who trust its authority."""
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(ca)), limit=0)
    async with aiohttp.ClientSession(
        connector=connector,
        headers={"X-Vault-Token": token, "X-Vault-Request": "true"},
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
    ) as session:
        yield Region(name, tuple(addresses), session)


@dataclass(slots=True)
class Writers:
    """Writes at a rate, at times that are drawn, over all nodes of a region; latencies in seconds."""

    where: Region
    rate: float
    keys: int
    chance: random.Random
    latencies: list[float] = field(default_factory=list)
    failures: int = 0
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> None:
        """Until cancelled."""
        due = time.monotonic()
        while True:
            due += self.chance.expovariate(self.rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._one(due, self.chance.randrange(self.keys), len(self.latencies)))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _one(self, due: float, key: int, node: int) -> None:
        try:
            await self.where.write(f"{key:07d}", VALUE, node=node)
            self.latencies.append(time.monotonic() - due)
        except (SystemFailedError, aiohttp.ClientError, TimeoutError):
            self.failures += 1

    async def settle(self) -> None:
        """Wait for the answers that are still due."""
        if self._running:
            await asyncio.wait(self._running, timeout=GIVE_UP_S)


async def lag(
    primary: Region, secondary: Region, name: str, *, seconds: float, not_before_s: float
) -> list[float]:
    """Write in one region, read in the other until it is there, again and again: from answer to answer, in seconds.

    Nobody looks for it before `not_before_s` are over, in which it cannot have arrived.
    """
    found, ends = [], time.monotonic() + seconds
    number = 0
    while time.monotonic() < ends:
        number += 1
        key, value = f"probe-{secondary.name}-{name}", f"{name}-{number}-"
        await primary.write(key, value)
        acknowledged = time.monotonic()
        await asyncio.sleep(not_before_s)
        while not await secondary.shows(key, value):
            if time.monotonic() - acknowledged > GIVE_UP_S:
                raise SystemFailedError(f"{secondary.name} did not show a write within {GIVE_UP_S:g} s")
            await asyncio.sleep(POLL_S)
        found.append(time.monotonic() - acknowledged)
    return found


async def paced_writes(where: Region, name: str, count: int) -> list[float]:
    """One write after the other, each of which its region shows at once, or SystemFailedError; seconds each took."""
    taken = []
    for number in range(count):
        value = f"{name}-{number}-"
        began = time.monotonic()
        await where.write(f"paced-{name}", value)
        taken.append(time.monotonic() - began)
        if not await where.shows(f"paced-{name}", value):
            raise SystemFailedError(f"{where.name} acknowledged a write that it does not show")
    return taken


@asynccontextmanager
async def echo() -> AsyncIterator[str]:
    """host:port of a server that answers with what it gets."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(ECHO_BYTES):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def round_trips(door: str, source: str, count: int) -> list[float]:
    """How long bytes take to an echo server behind a door, and back, in seconds."""
    host, _, port = door.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), local_addr=(source, 0))
    taken = []
    for _ in range(count):
        began = time.monotonic()
        writer.write(bytes(ECHO_BYTES))
        await reader.readexactly(ECHO_BYTES)
        taken.append(time.monotonic() - began)
    writer.close()
    return taken
