"""How a value gets into the log: one writer of a key at a time on this node, and exactly once a request.

A ciphertext is bound to its version, so the writer has to know the next version before it proposes. Within a
node a lock sees to that; between nodes the machine refuses the loser (VERSION_RACED), which encrypts again.

Every attempt has an identity of its own, derived from the request's: attempt n is SHA-256(request id, n).
The machine remembers the first outcome of each identity, whatever the payload of a repetition, and attempt
n + 1 is only made by one who has seen attempt n raced. So whoever repeats a request, here or on another node,
now or concurrently, walks the same chain to the same end, and at most one link of it wrote something.
"""

import asyncio
import hashlib
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from consensus.api import Applied
from node.core.request import Response
from node.errors import BodyTooLarge, InvalidRequest, NodeError, NotFound, TooBusy
from node.store import CommandRejected, Store
from storage.command import AnyCommand, KvPut
from storage.keyring import KIND_KV, Context
from storage.outcome import Reason

RACE_RETRIES_MAX = 16
LOCKED_KEYS_MAX = 16_384
WAITING_WRITERS_MAX = 1_024  # for one key

CAS_MISMATCH = "check-and-set parameter did not match the current version"
CAS_REQUIRED = "check-and-set parameter required for this call"


def place(mount_id: str, path: str, version: int) -> Context:
    """What the ciphertext of a version is bound to."""
    return Context(KIND_KV, mount_id, path, version)


def attempt_id(request_id: bytes, attempt: int) -> bytes:
    """The identity (16 bytes) of one attempt of a request."""
    return hashlib.sha256(b"kv-put" + request_id + attempt.to_bytes(4, "big")).digest()[:16]


async def submit(store: Store, command: AnyCommand, *, request_id: bytes) -> dict[str, Any]:
    """Replicate a command of this engine; its refusals become what the caller is told."""
    try:
        return (await store.submit(command, request_id=request_id))[1]
    except CommandRejected as error:
        raise refusal(error) from None


def refusal(error: CommandRejected) -> NodeError | CommandRejected:
    """A refused command as the caller's error; one that only a bug can cause stays what it is."""
    if error.reason == Reason.CAS_MISMATCH:
        return InvalidRequest(CAS_MISMATCH)
    if error.reason == Reason.CAS_REQUIRED:
        return InvalidRequest(CAS_REQUIRED)
    if error.reason in (Reason.NO_SUCH_MOUNT, Reason.NO_SUCH_KEY):
        return NotFound()
    return error


class Writer:
    """Writes versions. One per node."""

    def __init__(self) -> None:
        # Keys that are being written, each with those who wait for their turn.
        self._queues: dict[tuple[str, str], deque[asyncio.Future[None]]] = {}

    async def put(
        self,
        store: Store,
        *,
        mount_id: str,
        path: str,
        request_id: bytes,
        cas: int | None,
        value: Callable[[], bytes],
        value_bytes_max: int,
        first_attempt: int = 0,
        patch: bool = False,
    ) -> dict[str, Any]:
        """Write the next version; returns its metadata as the machine tells it.

        `value` is asked anew in every attempt, with nothing awaited between it and the look at the current
        version: a patch reads what it changes there. Nothing else may be checked here against the current
        state: a repeated request must reach the machine, which remembers. Raises InvalidRequest (cas),
        BodyTooLarge, NotFound, TooBusy, NoQuorum, OutcomeUnknown and what `value` raises.
        """
        request_id = request_id or os.urandom(16)
        async with self._alone(mount_id, path):
            for attempt in range(first_attempt, RACE_RETRIES_MAX):
                plaintext = value()
                if len(plaintext) > value_bytes_max:
                    raise BodyTooLarge(
                        f"the value has {len(plaintext)} bytes; at most {value_bytes_max} are kept"
                    )
                command = next_version(store, mount_id, path, cas, plaintext, patch=patch)
                try:
                    return (await store.submit(command, request_id=attempt_id(request_id, attempt)))[1]
                except CommandRejected as error:
                    if error.reason != Reason.VERSION_RACED:
                        raise refusal(error) from None
        raise TooBusy("too many others write this key at the same time")

    @asynccontextmanager
    async def _alone(self, mount_id: str, path: str) -> AsyncIterator[None]:
        if not self.claim(mount_id, path):
            await self._queue_up(mount_id, path)
        try:
            yield
        finally:
            self.release(mount_id, path)

    def claim(self, mount_id: str, path: str) -> bool:
        """Whether nobody was writing the key; now the caller is, until release(). Raises TooBusy."""
        if (mount_id, path) in self._queues:
            return False
        if len(self._queues) >= LOCKED_KEYS_MAX:
            raise TooBusy("too many keys are being written")
        self._queues[mount_id, path] = deque()
        return True

    async def _queue_up(self, mount_id: str, path: str) -> None:
        queue = self._queues[mount_id, path]
        if len(queue) >= WAITING_WRITERS_MAX:
            raise TooBusy("too many wait to write this key")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                queue.remove(turn)
            else:
                self.release(mount_id, path)  # the turn had come already
            raise

    def release(self, mount_id: str, path: str) -> None:
        """The key is the next one's who waits for it, if anybody does."""
        queue = self._queues[mount_id, path]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._queues[mount_id, path]


def next_version(
    store: Store,
    mount_id: str,
    path: str,
    cas: int | None,
    plaintext: bytes,
    decided: int = 0,
    *,
    patch: bool = False,
) -> KvPut:
    """The command that writes what follows the version that this node knows. `decided`: see KvPut."""
    key = store.kv_key(mount_id, path)
    version = key.current_version + 1 if key is not None else 1
    return KvPut(
        time_ns=store.now_ns(),
        mount_id=mount_id,
        path=path,
        version=version,
        cas=cas,
        value=store.seal(place(mount_id, path, version), plaintext),
        decided=decided,
        patch=patch,
    )


@dataclass(slots=True)
class BegunPut:
    """put() in steps (router.Begun); the key is claimed already."""

    writer: Writer
    store: Store
    mount_id: str
    path: str
    request_id: bytes
    cas: int | None
    plaintext: bytes
    value_bytes_max: int
    decided: int
    respond: Callable[[dict[str, Any]], Response]

    def start(self, timeout_s: float) -> "asyncio.Future[Applied]":
        """The first attempt. Raises TooBusy, NoQuorum."""
        command = next_version(self.store, self.mount_id, self.path, self.cas, self.plaintext, self.decided)
        return self.store.begin(command, request_id=attempt_id(self.request_id, 0), timeout=timeout_s)

    def release(self) -> None:
        self.writer.release(self.mount_id, self.path)

    def answer(self, begun: "asyncio.Future[Applied]") -> Response | None:
        """See router.Begun; raises what put() raises."""
        try:
            return self.respond(self.store.end(begun))
        except CommandRejected as error:
            if error.reason in (Reason.VERSION_RACED, Reason.PERMISSION_OUTDATED):
                return None
            raise refusal(error) from None

    async def answer_later(self) -> Response:
        """The other attempts."""
        made = await self.writer.put(
            self.store,
            mount_id=self.mount_id,
            path=self.path,
            request_id=self.request_id,
            cas=self.cas,
            value=lambda: self.plaintext,
            value_bytes_max=self.value_bytes_max,
            first_attempt=1,
        )
        return self.respond(made)
