"""What a region holds, in short: digests that are equal where two regions agree.

That of the commands between two positions is cheap, and can be compared while writes go on: any two nodes that hold
both positions hold the same commands there. That of the whole shared state reads everything, from a copy.
"""

import asyncio
import hashlib
from pathlib import Path

import msgspec

from node.copies import breathe
from node.core.core import Core
from node.errors import InvalidRequest
from node.store import Store
from storage.keyring import DATABASE
from storage.machine import Machine

STEP_BYTES_MAX = 512 << 10


async def of_history(store: Store, first: int, last: int) -> str:
    """SHA-256 (hex) over the commands at positions `first` to `last`. Raises InvalidRequest unless all are here."""
    digest, position = hashlib.sha256(), first
    if not first <= last:
        raise InvalidRequest(f"the first position ({first}) comes after the last one ({last})")
    while position <= last:
        commands = store.history(position, STEP_BYTES_MAX)
        if not commands:
            kept = f"positions {store.history_first()} to {store.position} are"
            raise InvalidRequest(f"position {position} is not kept here (any more, or yet): {kept}")
        for item in commands[: last - position + 1]:
            digest.update(msgspec.msgpack.encode(item))
        position += len(commands)
        await asyncio.sleep(0)
    return digest.hexdigest()


async def of_state(core: Core) -> tuple[int, str]:
    """(position, SHA-256 (hex) over all that regions share there). Raises InvalidRequest, TooBusy."""
    store, copies = core.unsealed, core.copies
    if copies is None:
        raise InvalidRequest("a server in memory takes no part in regions")
    async with copies.scratch() as path:
        await store.copies.take(path)
        return await asyncio.to_thread(_of_copy, path, store.root.derive(DATABASE))


def _of_copy(path: Path, key: bytes) -> tuple[int, str]:
    machine = Machine.open(path, key=key)
    try:
        return machine.position, machine.history_digest(breathe)
    finally:
        machine.close()
