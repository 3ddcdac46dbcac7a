"""Applications: clients of the Python library that know the nodes of all regions, and should notice nothing."""

import asyncio
import contextlib
import random
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field

from strongroom import AsyncClient, StrongroomError, Token

from chaos.workload import VERSIONS_PER_PATH

CLIENTS = 4
PAUSE_S = 0.2
ERRORS_MAX = 100
ARRIVAL_S_MAX = 60.0


@dataclass(slots=True)
class Applications:
    """Each client writes versions of a key of its own with check-and-set, and reads one that all share."""

    endpoints: Sequence[str]
    token: str
    tls: ssl.SSLContext
    rng: random.Random
    prefix: str
    written: dict[str, dict[int, str]] = field(
        default_factory=dict
    )  # key -> version -> value, as acknowledged
    calls: int = 0
    errors: list[str] = field(default_factory=list)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        self._stopping.set()

    async def run(self, clients: int = CLIENTS) -> None:
        """Until stop()."""
        shared = f"{self.prefix}/sdk/shared"
        async with self._client() as client:
            made = await client.kv.put(shared, {"value": shared})
            self.written[shared] = {made.version: shared}
        for endpoint in self.endpoints:
            await self._arrived(endpoint, shared)
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(self._application(number, shared), name=f"application {number}")

    async def _arrived(self, endpoint: str, path: str) -> None:
        """A region that follows has it a little later. Raises TimeoutError."""
        async with (
            asyncio.timeout(ARRIVAL_S_MAX),
            AsyncClient([endpoint], Token(self.token), ssl_context=self.tls) as there,
        ):
            while True:
                with contextlib.suppress(StrongroomError):
                    await there.kv.get(path)
                    return
                await asyncio.sleep(PAUSE_S)

    def _client(self) -> AsyncClient:
        known = list(self.endpoints)
        self.rng.shuffle(known)
        return AsyncClient(known, Token(self.token), ssl_context=self.tls)

    async def _application(self, number: int, shared: str) -> None:
        key = f"{self.prefix}/sdk/{number}"
        version, turn = 0, 0
        async with self._client() as client:
            while not self._stopping.is_set():
                turn += 1
                try:
                    if turn % 2:
                        value = f"sdk.{number}.{turn}"
                        made = await client.kv.put(key, {"value": value}, cas=version)
                        version = made.version
                        self.written.setdefault(key, {})[version] = value
                        if version == VERSIONS_PER_PATH:
                            key, version = f"{self.prefix}/sdk/{number}.{turn}", 0
                    else:
                        await client.kv.get(shared)
                except StrongroomError as error:
                    self._note(f"client {number} at {client.endpoint}: {type(error).__name__}: {error}")
                    key, version = f"{self.prefix}/sdk/{number}.{turn}", 0
                self.calls += 1
                await asyncio.sleep(self.rng.uniform(0, 2 * PAUSE_S))

    def _note(self, error: str) -> None:
        if len(self.errors) < ERRORS_MAX:
            self.errors.append(error)
