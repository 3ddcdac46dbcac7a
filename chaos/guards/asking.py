"""A client of all nodes that can wait for an answer, or take what a certain node says."""

import asyncio
import json
import random
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

from chaos.guards.ledger import Access, Ledger
from chaos.workload import CONNECT_TIMEOUT_S, REQUEST_ID_HEADER, Endpoint

ATTEMPT_TIMEOUT_S = 8.0
PATIENCE_S = 90.0  # for what has to work in the end, whatever becomes of the nodes meanwhile
BACKOFF_S = 0.1
TOKEN_HEADER = "X-Vault-Token"


class GaveUpError(Exception):
    """Nothing worked for PATIENCE_S, or it was refused: the cluster, or the rehearsal, is broken."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` None: there was none."""

    status: int | None
    body: Any = None

    def __getitem__(self, name: str) -> Any:
        return self.body[name]


class World:
    """Nodes, one who may do everything there, and the ledger of what happens. An async context manager."""

    def __init__(
        self, endpoints: Sequence[Endpoint], token: str, tls: ssl.SSLContext, rng: random.Random
    ) -> None:
        self.endpoints = tuple(endpoints)
        self.rng, self.ledger = rng, Ledger()
        self._token, self._tls = token, tls
        self._session: aiohttp.ClientSession | None = None
        self._avoided: list[Endpoint] = []

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        timeout = aiohttp.ClientTimeout(total=ATTEMPT_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    @contextmanager
    def without(self, node: Endpoint) -> Iterator[None]:
        """Meanwhile must() does not ask this one."""
        self._avoided.append(node)
        try:
            yield
        finally:
            self._avoided.remove(node)

    def name(self, prefix: str) -> str:
        """One that nothing else has."""
        return f"{prefix}-{self.rng.getrandbits(48):012x}"

    async def ask(
        self,
        node: Endpoint,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """What a node says. `token` None: of him who may do everything, "": none."""
        assert self._session is not None, "inside the context"
        shown = self._token if token is None else token
        told = ({TOKEN_HEADER: shown} if shown else {}) | dict(headers or {})
        data = None if body is None else json.dumps(body).encode()
        try:
            async with self._session.request(
                method, f"{node.url}/v1/{path}", data=data, headers=told, allow_redirects=False
            ) as response:
                read = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return Answer(None)
        return Answer(response.status, json.loads(read) if read else None)

    async def must(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The answer of whichever node succeeds, asked under one identity until one does. Raises GaveUpError."""
        identity = {REQUEST_ID_HEADER: self.rng.randbytes(16).hex()}
        ends = time.monotonic() + PATIENCE_S
        nodes = self.rng.sample(self.endpoints, len(self.endpoints))
        attempt = 0
        while True:
            awake = [node for node in nodes if node not in self._avoided] or nodes
            node = awake[attempt % len(awake)]
            attempt += 1
            answer = await self.ask(
                node, method, path, body, token=token, headers=identity | dict(headers or {})
            )
            if answer.status in (200, 204):
                return answer
            if time.monotonic() > ends or (answer.status is not None and 400 <= answer.status < 500):
                raise GaveUpError(f"{method} {path}: {answer}")
            await asyncio.sleep(self.rng.uniform(0, 2 * BACKOFF_S))

    async def change(
        self, subject: str, given: bool, method: str, path: str, body: Any = None, *, token: str | None = None
    ) -> Answer:
        """must(), by which a subject's right is given or taken."""
        began_ns = time.monotonic_ns()
        answer = await self.must(method, path, body, token=token)
        self.ledger.change(subject, began_ns, time.monotonic_ns(), given=given)
        return answer

    async def access(
        self, subject: str, node: Endpoint, method: str, path: str, body: Any = None, *, token: str | None
    ) -> Answer:
        """ask(), by which a subject uses its right."""
        began_ns = time.monotonic_ns()
        answer = await self.ask(node, method, path, body, token=token)
        self.ledger.access(
            subject,
            Access(f"{method} {path}", node.node, began_ns, time.monotonic_ns(), answer.status),
        )
        return answer
