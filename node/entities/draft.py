"""One change of entities and groups: what was read, and what is to be written in its place, all or nothing.

Every write names the revision that was read, so that two changes that overlap cannot both be made: the later one
is told Raced and begins again. retried() does that.
"""

import functools
import hashlib
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import msgspec

from node.entities import records
from node.entities.records import Entity, Group, Pointer
from node.errors import TooBusy
from node.store import CommandRejected, Store
from node.view import View, write
from storage.command import AnyCommand, Reason
from storage.entries import IDENTITY

TRIES_MAX = 32

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=msgspec.Struct)


class Raced(Exception):
    """Something that this change is based on has changed: begin again."""


class Draft:
    """Reads what is there, or what this draft would put there."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._view = View(store, IDENTITY)
        self._revisions: dict[str, int] = {}
        self._changes: dict[str, msgspec.Struct | None] = {}
        self.now_ns = store.now_ns()

    def get(self, path: str, kind: type[S]) -> S | None:
        """The record at a path."""
        if path in self._changes:
            changed = self._changes[path]
            assert changed is None or isinstance(changed, kind)
            return changed
        item = self._view.get(path)
        self._revisions.setdefault(path, item.revision if item else 0)
        return msgspec.json.decode(item.raw, type=kind) if item else None

    def put(self, path: str, record: msgspec.Struct) -> None:
        self._read(path)
        self._changes[path] = record

    def delete(self, path: str) -> None:
        self._read(path)
        self._changes[path] = None

    def _read(self, path: str) -> None:
        if path not in self._revisions:
            item = self._view.get(path)
            self._revisions[path] = item.revision if item else 0

    def children(self, folder: str) -> list[str]:
        """Names below a folder, as they are kept; nothing of this draft."""
        return self._view.children(folder)

    def pointed(self, path: str) -> str:
        """The id that an index entry holds, or ""."""
        pointer = self.get(path, Pointer)
        return pointer.id if pointer else ""

    def entity(self, entity_id: str) -> Entity | None:
        """By its id, or by that of an entity that became it."""
        found = self.get(records.entity_path(entity_id), Entity)
        if found is None and (survivor := self.pointed(records.merged_path(entity_id))):
            found = self.get(records.entity_path(survivor), Entity)
        return found

    def group(self, group_id: str) -> Group | None:
        return self.get(records.group_path(group_id), Group)

    def commands(self) -> list[AnyCommand]:
        """What makes the change; the first refusal of them undoes them all."""
        return [
            self._view.delete(path, expect=self._revisions[path])
            if record is None
            else self._view.put(path, msgspec.json.encode(record), expect=self._revisions[path])
            for path, record in self._changes.items()
        ]

    async def commit(self, request_id: bytes = b"") -> None:
        """Make the change. Raises Raced, and what Store.submit() does."""
        commands = self.commands()
        if not commands:
            return
        try:
            await write(self._store, *commands, request_id=request_id)
        except CommandRejected as error:
            if error.reason != Reason.REVISION_MISMATCH:
                raise
            raise Raced from None


def attempt_id(request_id: bytes, attempt: int) -> bytes:
    """The identity (16 bytes) of one attempt of a request: the outcome of a raced one is remembered too."""
    if not request_id or attempt == 0:
        return request_id
    return hashlib.sha256(b"attempt" + request_id + attempt.to_bytes(4, "big")).digest()[:16]


def retried(attempt: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Begin again when raced, a bounded number of times; then TooBusy."""

    @functools.wraps(attempt)
    async def run(*args: P.args, **kwargs: P.kwargs) -> R:
        for _ in range(TRIES_MAX):
            try:
                return await attempt(*args, **kwargs)
            except Raced:
                continue
        raise TooBusy("others keep changing the same entities; nothing was written")

    return run
