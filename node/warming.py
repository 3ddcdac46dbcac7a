"""After a start, and after the state was replaced: current values come into memory before anybody asks for them.

They stay encrypted (storage/packed.py). Without this the first read of each secret would cost what the database takes.
"""

import asyncio
import contextlib
import time

import structlog

from node.core.core import Core
from node.engines.kv_writes import place
from node.store import Store
from storage.errors import StorageError

STEP_KEYS = 32  # in between others have their turn
REST_FACTOR = 2.0  # for each second of this work, so many are left to others
LOOK_EVERY_S = 1.0  # whether everything was forgotten

_log = structlog.get_logger(__name__)


async def run(core: Core) -> None:
    """Until cancelled."""
    filled: tuple[Store, int] | None = None
    while True:
        store = core.store
        if store is not None and filled != (store, store.values.packed.cleared):
            filled, began = (store, store.values.packed.cleared), time.monotonic()
            await _fill(store)
            took_s = round(time.monotonic() - began, 1)
            _log.info("values in memory", values=len(store.values.packed), seconds=took_s)
        await asyncio.sleep(LOOK_EVERY_S)


async def _fill(store: Store) -> None:
    packed = store.values.packed
    cleared, after = packed.cleared, 0
    while packed.is_filling and packed.cleared == cleared:
        began = time.perf_counter()
        after = _step(store, after)
        if not after:
            return
        await asyncio.sleep((time.perf_counter() - began) * REST_FACTOR)


def _step(store: Store, after: int) -> int:
    """Returns the number of the last key that was looked at; 0: there are no more."""
    last, found = store.reads.kv_current(after, STEP_KEYS)
    for (mount_id, path), row in found:
        if row.value is not None and not row.is_deleted(store.now_ns()):
            with contextlib.suppress(StorageError):  # who reads it is told
                value = store.open(place(mount_id, path, row.version), row.value)
                store.values.packed.put(mount_id, path, row.without_value(), value)
    return last
