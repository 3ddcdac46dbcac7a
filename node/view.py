"""An engine's own corner of the store: values by name, encrypted for their place, and nobody else's.

A view makes commands and reads entries; several commands go into one atomic write. An entry past its expiry is
absent, whether or not a sweep came by.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from node.store import Store
from storage.command import (
    OWN_VIEWS,
    AnyCommand,
    EntriesDelete,
    EntriesExpire,
    EntryDelete,
    EntryPut,
    batch,
)
from storage.keyring import KIND_ENTRY, Context
from storage.reads import LIST_ENTRIES_MAX

EXPIRE_STEPS_MAX = 16
EXPIRE_STEP_ENTRIES_MAX = 500
TURN_ENTRIES = 256

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Item:
    """An entry's plaintext with its revision; times are nanoseconds, expires_ns 0 means never."""

    raw: bytes
    revision: int
    created_ns: int
    updated_ns: int
    expires_ns: int

    @property
    def value(self) -> Any:
        """The JSON value that put() wrote."""
        return _decode(self.raw)

    def __repr__(self) -> str:
        return f"Item(revision={self.revision}, {len(self.raw)} bytes)"


class View:
    """The entries of one view: a mount's id, or a name of the store's own ("sys:...")."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name

    def get(self, path: str) -> Item | None:
        """What is there now."""
        entry = self._store.reads.entry(self._name, path)
        if entry is None or 0 < entry.expires_ns <= self._store.now_ns():
            return None
        raw = self._store.open(self._context(path), entry.value)
        return Item(raw, entry.revision, entry.created_ns, entry.updated_ns, entry.expires_ns)

    def has(self, path: str) -> bool:
        """Whether there is something now; cheaper than to read it."""
        entry = self._store.reads.entry(self._name, path)
        return entry is not None and not 0 < entry.expires_ns <= self._store.now_ns()

    def revision(self, path: str) -> int:
        """What a put() that must find this place empty expects: 0, or what an expired entry still has."""
        entry = self._store.reads.entry(self._name, path)
        return entry.revision if entry else 0

    def children(self, prefix: str = "", after: str = "", limit: int = LIST_ENTRIES_MAX) -> list[str]:
        """Children of a folder, sorted, folders with a "/"; may name entries that have just expired."""
        return self._store.reads.entry_list(self._name, prefix, after, limit)

    def scan(self, prefix: str = "", after: str = "", limit: int = LIST_ENTRIES_MAX) -> list[str]:
        """Every path below a folder, relative to it."""
        return self._store.reads.entry_scan(self._name, prefix, after, limit)

    def put(
        self,
        path: str,
        value: Any,
        *,
        expires_ns: int = 0,
        expect: int | None = None,
        owner: bytes | None = None,
    ) -> EntryPut:
        """The command that writes a JSON value (or bytes that are JSON already). See EntryPut."""
        raw = value if isinstance(value, bytes) else _encode(value)
        return EntryPut(
            time_ns=self._store.now_ns(),
            view=self._name,
            path=path,
            # a region that went astray takes the keyring of another one, and keeps what is its own
            value=self._store.seal(self._context(path), raw, lasting=self._name.startswith(OWN_VIEWS)),
            expires_ns=expires_ns,
            expect=expect,
            owner=owner,
        )

    def delete(self, path: str, *, expect: int | None = None) -> EntryDelete:
        """The command that removes one entry."""
        return EntryDelete(time_ns=self._store.now_ns(), view=self._name, path=path, expect=expect)

    def delete_below(self, prefix: str) -> EntriesDelete:
        """The command that removes all whose path begins with `prefix` ("" for all)."""
        return EntriesDelete(time_ns=self._store.now_ns(), view=self._name, prefix=prefix)

    def _context(self, path: str) -> Context:
        return Context(KIND_ENTRY, self._name, path, 0)


async def write(store: Store, *commands: AnyCommand, request_id: bytes = b"") -> list[dict[str, Any]]:
    """Submit commands, all or none; their values in order. Raises as Store.submit() does."""
    if len(commands) == 1:
        _, value = await store.submit(commands[0], request_id=request_id)
        return [value]
    _, value = await store.submit(batch(store.now_ns(), *commands), request_id=request_id)
    results: list[dict[str, Any]] = value["results"]
    return results


async def in_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """The same items; between some of them others have their turn. For lists that read every entry of a folder."""
    for count, item in enumerate(items, start=1):
        yield item
        if count % TURN_ENTRIES == 0:
            await asyncio.sleep(0)


async def expire_entries(store: Store) -> None:
    """Remove what has expired, in steps. For the leader: every node would do, twice."""
    for _ in range(EXPIRE_STEPS_MAX):
        now_ns = store.now_ns()
        if not store.reads.entries_due(now_ns):
            break
        await store.submit(EntriesExpire(time_ns=now_ns, limit=EXPIRE_STEP_ENTRIES_MAX))
