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
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from node.errors import BodyTooLarge, InvalidRequest, NodeError, NotFound, OutcomeUnknown, TooBusy
from node.store import CommandRejected, Store
from storage.command import AnyCommand, KvPut, Reason
from storage.keyring import KIND_KV, Context

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
    if error.reason == Reason.STALE:
        return OutcomeUnknown("this node's clock is too far behind; an earlier attempt may have succeeded")
    return error


@dataclass(slots=True)
class _Queue:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Writer:
    """Writes versions. One per node."""

    def __init__(self) -> None:
        self._queues: dict[tuple[str, str], _Queue] = {}

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
    ) -> dict[str, Any]:
        """Write the next version; returns its metadata as the machine tells it.

        `value` is asked anew in every attempt, with nothing awaited between it and the look at the current
        version: a patch reads what it changes there. Nothing else may be checked here against the current
        state: a repeated request must reach the machine, which remembers. Raises InvalidRequest (cas),
        BodyTooLarge, NotFound, TooBusy, NoQuorum, OutcomeUnknown and what `value` raises.
        """
        request_id = request_id or os.urandom(16)
        async with self._alone(mount_id, path):
            for attempt in range(RACE_RETRIES_MAX):
                plaintext = value()
                if len(plaintext) > value_bytes_max:
                    raise BodyTooLarge(
                        f"the value has {len(plaintext)} bytes; at most {value_bytes_max} are kept"
                    )
                key = store.kv_key(mount_id, path)
                version = key.current_version + 1 if key is not None else 1
                sealed = store.seal(place(mount_id, path, version), plaintext)
                command = KvPut(
                    time_ns=store.now_ns(),
                    mount_id=mount_id,
                    path=path,
                    version=version,
                    cas=cas,
                    value=sealed,
                )
                try:
                    return (await store.submit(command, request_id=attempt_id(request_id, attempt)))[1]
                except CommandRejected as error:
                    if error.reason != Reason.VERSION_RACED:
                        raise refusal(error) from None
        raise TooBusy("too many others write this key at the same time")

    @asynccontextmanager
    async def _alone(self, mount_id: str, path: str) -> AsyncIterator[None]:
        queue = self._queues.get((mount_id, path))
        if queue is None:
            if len(self._queues) >= LOCKED_KEYS_MAX:
                raise TooBusy("too many keys are being written")
            queue = self._queues[mount_id, path] = _Queue()
        if queue.users > WAITING_WRITERS_MAX:
            raise TooBusy("too many wait to write this key")
        queue.users += 1
        try:
            async with queue.lock:
                yield
        finally:
            queue.users -= 1
            if not queue.users:
                del self._queues[mount_id, path]
