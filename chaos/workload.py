"""Writers that never forget what they were promised.

Each writer alternates between keys that are written once and a path of its own, on which it writes version
after version with check-and-set. A writer stays on a node until that node disappoints it. A write whose
outcome is not known is sent again, to the next node and under the same request id, until somebody knows: so
each is one operation with one outcome, and the checker can demand that it happened exactly once.
"""

import asyncio
import base64
import binascii
import itertools
import json
import random
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp

from chaos.history import Outcome, Recorder

WRITERS = 24
ATTEMPT_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 1.0
FINISH_S = 30.0  # after the end of a run, to learn what became of the last writes
BACKOFF_S_MAX = 0.08
VERSIONS_PER_PATH = 8  # KV v2 keeps ten by default; a checker wants to see them all
VALUE_BYTES = 200
MOUNT = "secret"
REQUEST_ID_HEADER = "X-Strongroom-Request-Id"
INDEX_HEADER = "X-Vault-Index"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A node's name and its API's address, https://host:port."""

    node: str
    url: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. status None: nothing did; if the request was sent at all, its outcome is not known."""

    status: int | None
    version: int | None = None
    index: int | None = None
    sent: bool = True

    @property
    def refused(self) -> bool:
        """A client's error, which repeating does not mend."""
        return self.status is not None and 400 <= self.status < 500 and self.status != 429

    @property
    def certain(self) -> bool:
        """Nothing happened: the request never left, or was turned away at the door."""
        return not self.sent or self.status == 429


def decode_index(header: str | None) -> int | None:
    """The log index of an X-Vault-Index header, base64 of {"cluster": uuid, "value": "9"}; None if absent."""
    if not header:
        return None
    try:
        return int(json.loads(base64.b64decode(header, validate=True))["value"])
    except (binascii.Error, ValueError, KeyError, TypeError):
        return None


class Workload:
    """All writers of a run. `acknowledged` and `unknown` grow while it runs; `stop()` lets it finish."""

    def __init__(
        self,
        *,
        endpoints: Sequence[Endpoint],
        token: str,
        tls: ssl.SSLContext,
        recorder: Recorder,
        rng: random.Random,
        prefix: str,
        writers: int = WRITERS,
        pause_s: float = 0.03,
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._headers = {"X-Vault-Token": token, "X-Vault-Request": "true"}
        self._tls = tls
        self._recorder = recorder
        self._rng = rng
        self._prefix = prefix
        self._writers = writers
        self._pause_s = pause_s
        self._stopping = asyncio.Event()
        self._progress = asyncio.Condition()
        self._deadline = float("inf")
        self.acknowledged = 0
        self.unknown = 0  # operations with at least one attempt whose outcome was not known
        self.keys: set[str] = set()
        self.registers: deque[str] = deque(
            maxlen=2 * writers
        )  # with versions, that which was written last at the end

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        """No new writes; those in flight have FINISH_S to learn their outcome."""
        self._deadline = asyncio.get_running_loop().time() + FINISH_S
        self._stopping.set()

    async def run(self) -> None:
        """Write until stop(). A writer's crash is a bug of the harness and ends the run."""
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        async with (
            aiohttp.ClientSession(connector=connector, headers=self._headers) as session,
            asyncio.TaskGroup() as group,
        ):
            for number in range(self._writers):
                group.create_task(self._writer(session, number), name=f"writer {number}")

    async def wait_acknowledged(self, count: int, timeout: float) -> bool:
        """Whether `count` more writes are acknowledged within `timeout` seconds."""
        goal = self.acknowledged + count
        try:
            async with asyncio.timeout(timeout), self._progress:
                await self._progress.wait_for(lambda: self.acknowledged >= goal)
        except TimeoutError:
            return False
        return True

    async def _writer(self, session: aiohttp.ClientSession, number: int) -> None:
        place = number % len(self._endpoints)
        process = self._recorder.new_process()
        path, version = 0, 0
        turn = 0
        while not self._stopping.is_set():
            turn += 1
            once = turn % 2 == 1
            key = f"{self._prefix}/u/{number}/{turn}" if once else f"{self._prefix}/s/{number}/{path}"
            operation = _Operation(
                process=process,
                key=key,
                value=f"{number}.{turn}.{self._rng.randbytes(VALUE_BYTES // 2).hex()}",
                expect=None if once else version,
                request_id=self._rng.randbytes(16).hex(),
            )
            self.keys.add(key)
            outcome, place = await self._perform(session, operation, place)
            if outcome is Outcome.INFO:
                process = self._recorder.new_process()
            if not once:
                self.registers.append(key)
                version += 1
                if outcome is not Outcome.OK or version == VERSIONS_PER_PATH:
                    path, version = path + 1, 0
            await self._pause()

    async def _perform(
        self, session: aiohttp.ClientSession, operation: "_Operation", place: int
    ) -> tuple[Outcome, int]:
        """One operation, attempt by attempt; returns how it ended and the writer's node from now on."""
        self._recorder.invoke(
            process=operation.process,
            key=operation.key,
            value=operation.value,
            expect=operation.expect,
            node=self._endpoints[place].node,
            request_id=operation.request_id,
        )
        ending = await self._settle(session, operation, place)
        self._recorder.complete(
            ending.outcome,
            process=operation.process,
            key=operation.key,
            value=operation.value,
            version=ending.answer.version,
            index=ending.answer.index,
            status=ending.answer.status,
            attempts=ending.attempts,
        )
        if ending.outcome is Outcome.OK:
            await self._count()
        return ending.outcome, ending.place

    async def _settle(self, session: aiohttp.ClientSession, operation: "_Operation", place: int) -> "_Ending":
        """Ask node after node until one knows; gives up only after the run's end."""
        certain = True  # that nothing happened so far
        for attempts in itertools.count(1):
            answer = await self._attempt(session, operation, self._endpoints[place])
            if answer.status == 200:
                return _Ending(Outcome.OK, answer, attempts, place)
            if certain and not answer.certain and not answer.refused:
                certain = False
                self.unknown += 1
            place = (place + 1) % len(self._endpoints)
            if answer.refused or asyncio.get_running_loop().time() > self._deadline:
                return _Ending(Outcome.FAIL if certain else Outcome.INFO, answer, attempts, place)
            await asyncio.sleep(self._rng.uniform(BACKOFF_S_MAX / 4, BACKOFF_S_MAX))
        raise AssertionError("unreachable")

    async def _attempt(
        self, session: aiohttp.ClientSession, operation: "_Operation", endpoint: Endpoint
    ) -> Answer:
        url = f"{endpoint.url}/v1/{MOUNT}/data/{operation.key}"
        timeout = aiohttp.ClientTimeout(total=ATTEMPT_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        headers = {REQUEST_ID_HEADER: operation.request_id}
        try:
            # POST: aiohttp repeats an idempotent method by itself, and repeating is what is measured here
            async with session.post(
                url, json=operation.body(), headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                body = await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return Answer(None, sent=False)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return Answer(None)
        if response.status != 200:
            return Answer(response.status)
        try:
            version = int(json.loads(body)["data"]["version"])
        except (ValueError, KeyError, TypeError):
            return Answer(None)
        return Answer(200, version, decode_index(response.headers.get(INDEX_HEADER)))

    async def _count(self) -> None:
        self.acknowledged += 1
        async with self._progress:
            self._progress.notify_all()

    async def _pause(self) -> None:
        if self._pause_s:
            await asyncio.sleep(self._rng.uniform(0, 2 * self._pause_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operation:
    process: int
    key: str
    value: str
    expect: int | None
    request_id: str

    def body(self) -> dict[str, object]:
        options = {} if self.expect is None else {"options": {"cas": self.expect}}
        return {"data": {"value": self.value}, **options}


@dataclass(frozen=True, slots=True)
class _Ending:
    outcome: Outcome
    answer: Answer
    attempts: int
    place: int  # the node that the writer turns to next
