"""Clients that read, on every node and without asking for any consistency, what others are writing.

What an answer may show is decided afterwards (chaos/registers.py): never less than anybody had been told before.
"""

import asyncio
import json
import random
import ssl
from collections.abc import Sequence

import aiohttp

from chaos.history import Outcome, Recorder
from chaos.workload import ATTEMPT_TIMEOUT_S, CONNECT_TIMEOUT_S, MOUNT, Endpoint, Workload

READERS_PER_NODE = 2
NEWEST = 3  # registers written last: there a stale answer is soonest caught
AT_THE_NEWEST = 0.7


class Readers:
    """READERS_PER_NODE readers for each node, who stay there whatever happens to it."""

    def __init__(
        self,
        *,
        endpoints: Sequence[Endpoint],
        token: str,
        tls: ssl.SSLContext,
        recorder: Recorder,
        workload: Workload,
        rng: random.Random,
        pause_s: float,
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._headers = {"X-Vault-Token": token}
        self._tls = tls
        self._recorder = recorder
        self._workload = workload
        self._rng = rng
        self._pause_s = pause_s

    async def run(self) -> None:
        """Read until the workload stops. A reader's crash is a bug of the harness and ends the run."""
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        timeout = aiohttp.ClientTimeout(total=ATTEMPT_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        async with (
            aiohttp.ClientSession(connector=connector, headers=self._headers, timeout=timeout) as session,
            asyncio.TaskGroup() as group,
        ):
            for endpoint in self._endpoints:
                for number in range(READERS_PER_NODE):
                    group.create_task(
                        self._reader(session, endpoint), name=f"reader {number} of {endpoint.node}"
                    )

    async def _reader(self, session: aiohttp.ClientSession, endpoint: Endpoint) -> None:
        process = self._recorder.new_process()
        while not self._workload.stopping:
            registers = self._workload.registers
            if registers:
                newest = self._rng.random() < AT_THE_NEWEST
                key = self._rng.choice(list(registers)[-NEWEST:] if newest else registers)
                await self._read(session, endpoint, process, key)
            await asyncio.sleep(self._rng.uniform(0, 2 * self._pause_s))

    async def _read(self, session: aiohttp.ClientSession, endpoint: Endpoint, process: int, key: str) -> None:
        self._recorder.invoke_read(process=process, key=key, node=endpoint.node)
        found = await _ask(session, f"{endpoint.url}/v1/{MOUNT}/data/{key}")
        outcome = Outcome.FAIL if found is None else Outcome.OK  # a read that fails has changed nothing
        version, value = found or (None, None)
        self._recorder.complete_read(outcome, process=process, key=key, version=version, value=value)


async def _ask(session: aiohttp.ClientSession, url: str) -> tuple[int, str | None] | None:
    """Version and value, (0, None) where nothing is; None if there is no answer."""
    try:
        async with session.get(url, allow_redirects=False) as response:
            body = await response.read()
            if response.status == 404:
                return 0, None
            if response.status != 200:
                return None
            data = json.loads(body)["data"]
            return int(data["metadata"]["version"]), str(data["data"]["value"])
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
