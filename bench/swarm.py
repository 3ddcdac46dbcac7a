"""Many keep-alive clients at a fixed rate: `python -m bench.swarm`, started by bench.clients on a processor of its own.

Requests leave at times that were drawn beforehand (a Poisson process), each on a connection that is idle then, and a
request's latency counts from its time, so that a server that stalls pays for everybody who would have asked.
"""

import argparse
import asyncio
import gc
import json
import random
import ssl
import sys
import time
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop

CONNECTING_MAX = 100
SETTLE_S = 3.0
GRACE_S = 10.0
HEAD_END = b"\r\n\r\n"
LENGTH = b"Content-Length: "


class Client(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, swarm: "Swarm") -> None:
        self._swarm = swarm
        self._asked = 0.0
        self._answer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._swarm.idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._swarm.lost(self)

    def ask(self, request: bytes, due: float) -> None:
        self._asked = due
        self._transport.write(request)

    def close(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, body = self._answer.partition(HEAD_END)
        at = head.find(LENGTH)
        if not end or at < 0 or len(body) < int(head[at + len(LENGTH) :].split(b"\r\n", 1)[0]):
            return
        self._answer = b""
        self._swarm.answered(self, time.perf_counter() - self._asked, good=head.startswith(b"HTTP/1.1 200"))


class Swarm:
    """All clients."""

    def __init__(self, url: str, token: str, keys: int) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname or "", address.port or 0
        self._path, self._keys = address.path, keys
        self._tail = f" HTTP/1.1\r\nHost: {address.netloc}\r\nX-Vault-Token: {token}\r\n\r\n".encode()
        self.idle: list[Client] = []
        self._latencies: list[float] = []
        self._asked = self._bad = self._dropped = self._late = 0
        self._measuring = False

    async def connect(self, count: int, tls: ssl.SSLContext) -> float:
        """Returns how long it took, in seconds."""
        loop, gate, began = asyncio.get_running_loop(), asyncio.Semaphore(CONNECTING_MAX), time.perf_counter()

        async def one() -> None:
            async with gate:
                await loop.create_connection(lambda: Client(self), self._host, self._port, ssl=tls)

        await asyncio.gather(*(one() for _ in range(count)))
        return time.perf_counter() - began

    async def run(self, rate: float, seconds: float) -> None:
        """Ask `rate` times a second."""
        began = due = time.perf_counter()
        self._measuring = True
        while due < began + seconds:
            due += random.expovariate(rate)
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            self._ask(due)
        deadline = time.perf_counter() + GRACE_S
        while len(self._latencies) < self._asked and time.perf_counter() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    def _ask(self, due: float) -> None:
        if not self.idle:
            self._late += 1  # every client waits for an answer
            return
        at = random.randrange(len(self.idle))
        client, self.idle[at] = self.idle[at], self.idle[-1]
        self.idle.pop()
        self._asked += 1
        client.ask(b"GET %s%07d%b" % (self._path.encode(), random.randrange(self._keys), self._tail), due)

    def answered(self, client: Client, latency: float, *, good: bool) -> None:
        self._latencies.append(latency)
        self._bad += not good
        self.idle.append(client)

    def lost(self, client: Client) -> None:
        self._dropped += self._measuring
        if client in self.idle:
            self.idle.remove(client)

    def report(self) -> dict[str, float]:
        """What was seen, in milliseconds; p50 and p99 of all requests that were answered."""
        self._measuring = False
        ordered = sorted(self._latencies) or [0.0]

        def quantile(part: float) -> float:
            return ordered[min(len(ordered) - 1, int(part * len(ordered)))] * 1e3

        return {
            "answered": len(self._latencies),
            "bad": self._bad + self._asked - len(self._latencies) + self._late,
            "dropped": self._dropped,
            "p50_ms": quantile(0.5),
            "p99_ms": quantile(0.99),
            "max_ms": ordered[-1] * 1e3,
        }

    def close(self) -> None:
        for client in list(self.idle):
            client.close()


async def drive(options: argparse.Namespace) -> dict[str, float]:
    """One run."""
    swarm = Swarm(options.url, options.token, options.keys)
    tls = ssl.create_default_context(cafile=str(options.ca))
    connect_s = await swarm.connect(options.clients, tls)
    gc.collect()
    gc.freeze()
    gc.disable()  # its own pauses are not the server's
    await asyncio.sleep(SETTLE_S)
    await swarm.run(options.rate, options.seconds)
    report = swarm.report()
    swarm.close()
    return report | {"connect_s": connect_s}


def main(arguments: list[str] | None = None) -> int:
    """The command; prints one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m bench.swarm", description=__doc__.split("\n")[0])
    parser.add_argument("url", help="up to the key")
    parser.add_argument("ca", type=Path)
    parser.add_argument("token")
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument(
        "--rate", type=float, required=True, help="requests a second, of all clients together"
    )
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, help="of the times, the keys and the connections")
    options = parser.parse_args(arguments)
    random.seed(options.seed)
    print(json.dumps(uvloop.run(drive(options))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
