"""Many subscribers to events in one process: `python -m bench.listeners`, started by bench.events.

Reads one JSON line: what to subscribe to. Prints "ready" when all are told something, and ends with standard input:
then it has written when each heard what, as pairs of numbers, and prints how many each heard.
"""

import array
import asyncio
import json
import re
import resource
import ssl
import sys
import time
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlsplit

import uvloop

CONNECTING_MAX = 50
TRIES_MAX = 10  # for each connection
AGAIN_S = 0.5
HEARD = re.compile(rb'"data_path":"[^"]*/(all|own)-(\d+)"[^}]*"current_version":"(\d+)"')
OWN = 1_000_000  # added to the number of events that only some hear


class Listener(asyncio.Protocol):
    """One subscriber."""

    def __init__(self, swarm: "Swarm", request: bytes) -> None:
        self._swarm, self._request = swarm, request
        self._rest = b""
        self.ready = asyncio.get_running_loop().create_future()
        self.heard = [0, 0]  # of what all hear, of its own

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ready.done():
            told = self._rest.partition(b"\r\n")[0].decode(errors="replace")
            self.ready.set_exception(ConnectionResetError(f"answered {told!r} ({error})"))

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        data = self._rest + data
        end = data.rfind(b"\n\n") + 1
        self._rest = data[end:]
        if not self.ready.done() and end:
            self.ready.set_result(None)
        for kind, number, version in HEARD.findall(data, 0, end):
            own = kind == b"own"
            self.heard[own] += 1
            self._swarm.note(OWN * int(version) + int(number) if own else int(number), now)


class Swarm:
    """All of them."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._times = array.array("d")
        self.listeners: list[Listener] = []

    def note(self, number: int, now: float) -> None:
        self._times.extend((float(number), now))

    async def connect(self) -> None:
        order, place = self._order, urlsplit(self._order["address"])
        context = ssl.create_default_context(cafile=order["ca"])
        room, loop = asyncio.Semaphore(CONNECTING_MAX), asyncio.get_running_loop()

        async def opened(request: bytes, tries: int = TRIES_MAX) -> Listener:
            try:
                _, made = await loop.create_connection(
                    lambda: Listener(self, request), place.hostname, place.port, ssl=context
                )
                await made.ready
            except OSError:  # a node that has much to do may say so
                if tries == 1:
                    raise
                await asyncio.sleep(AGAIN_S)
                return await opened(request, tries - 1)
            return made

        async def one(number: int) -> None:
            own = (order["first"] + number) % order["groups"]
            where = f"{order['mount']}/data"
            chosen = f'data_path == "{where}/own-{own}" or data_path contains "{where}/all-"'
            request = (
                f"GET /v1/sys/events/subscribe/kv-v2/data-write?filter={quote(chosen)} HTTP/1.1\r\n"
                f"Host: bench\r\nAccept: text/event-stream\r\nX-Vault-Token: {order['token']}\r\n\r\n"
            )
            async with room:
                self.listeners.append(await opened(request.encode()))

        await asyncio.gather(*(one(number) for number in range(order["count"])))

    def write(self) -> None:
        with Path(self._order["times"]).open("wb") as file:
            self._times.tofile(file)


async def _main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    swarm = Swarm(json.loads(sys.stdin.readline()))
    await swarm.connect()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    swarm.write()
    print(json.dumps([each.heard for each in swarm.listeners]), flush=True)


if __name__ == "__main__":
    uvloop.run(_main())
