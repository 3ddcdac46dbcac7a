"""A user whose password was guessed at too often is locked for a while. Counts are replicated, by canonical name.

Unknown names are counted like known ones: otherwise the lock would tell who exists. What an anonymous guesser can make
the store keep is bounded by the rate at which passwords are hashed and by the time after which a count is forgotten.
Guesses at one name go one after the other on a node, so that many at once are not all judged by the same count.

While the region that orders writes cannot be asked (`alone`), a node counts by itself, in memory, from the count that
it knows.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from node.auth.fields import SECOND_NS, boolean, duration_ns, ends_ns, integer
from node.errors import InvalidRequest, PermissionDenied, TooBusy
from node.store import CommandRejected, Store
from node.view import View, in_turns
from storage.command import EntryDelete
from storage.outcome import Reason
from storage.rows import Mount

FAILURES_MAX = 5
LOCKED_NS = 15 * 60 * SECOND_NS
COUNTED_NS = 15 * 60 * SECOND_NS  # a count is forgotten this long after its last failure
NAMES_GUESSED_MAX = 4096  # at once, on one node
COUNT_TRIES_MAX = 64
NAMES_COUNTED_ALONE_MAX = 65_536  # more than a node can hash passwords for within COUNTED_NS
CONFIG = "user_lockout_config"
_FOLDER = "lockout/"


@dataclass(frozen=True, slots=True)
class Rules:
    """Of a mount."""

    failures_max: int = FAILURES_MAX
    locked_ns: int = LOCKED_NS
    counted_ns: int = COUNTED_NS
    disabled: bool = False


class Count(msgspec.Struct, frozen=True):
    name: str
    failures: int
    locked: bool = False


def configured(value: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """user_lockout_config as a mount keeps and shows it; seconds, 0 for the default. Raises InvalidRequest."""
    kept: dict[str, Any] = {
        "user_lockout_threshold": 0,
        "user_lockout_duration": 0,
        "user_lockout_counter_reset_duration": 0,
        "user_lockout_disable": False,
        **old,
    }
    if value.get("lockout_threshold") is not None:
        kept["user_lockout_threshold"] = integer(value["lockout_threshold"], "lockout_threshold")
        if not 0 <= kept["user_lockout_threshold"] <= 2**31:
            raise InvalidRequest("invalid lockout_threshold")
    for name, shown in (
        ("lockout_duration", "user_lockout_duration"),
        ("lockout_counter_reset", "user_lockout_counter_reset_duration"),  # as it is documented
        ("lockout_counter_reset_duration", "user_lockout_counter_reset_duration"),  # as it is sent
    ):
        if value.get(name) is not None:
            kept[shown] = duration_ns(value[name], name) // SECOND_NS
    if value.get("lockout_disable") is not None:
        kept["user_lockout_disable"] = boolean(value["lockout_disable"], "lockout_disable")
    return kept


def rules(mount: Mount) -> Rules:
    """What holds for a mount's users: what was tuned, else the defaults."""
    said = mount.details.get("config", {}).get(CONFIG, {})
    return Rules(
        failures_max=said.get("user_lockout_threshold") or FAILURES_MAX,
        locked_ns=said.get("user_lockout_duration", 0) * SECOND_NS or LOCKED_NS,
        counted_ns=said.get("user_lockout_counter_reset_duration", 0) * SECOND_NS or COUNTED_NS,
        disabled=bool(said.get("user_lockout_disable", False)),
    )


class _Queue:
    """Guesses at one name."""

    __slots__ = ("holders", "lock")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.holders = 0


class Lockout:
    """Counts failures of names, each canonical already."""

    def __init__(self) -> None:
        self._queues: dict[tuple[str, str], _Queue] = {}
        self._own: OrderedDict[tuple[str, str], tuple[Count, int]] = OrderedDict()  # with its end, in ns

    @asynccontextmanager
    async def turn(
        self, store: Store, mount: Mount, name: str, *, alone: bool = False
    ) -> AsyncIterator[None]:
        """One guess at this name, after those before it. Raises PermissionDenied if it is locked, TooBusy."""
        if rules(mount).disabled:
            yield
            return
        async with self._in_turn(store, mount, name):
            known = self._count(store, mount, name)
            count = known[0] if known is not None else None
            if alone:
                count = self._own_count(store, mount, name) or count
            if count is not None and count.locked:
                raise PermissionDenied("permission denied")
            yield

    @asynccontextmanager
    async def _in_turn(self, store: Store, mount: Mount, name: str) -> AsyncIterator[None]:
        key = (mount.mount_id, name)
        queue = self._queues.get(key)
        if queue is None:
            if len(self._queues) >= NAMES_GUESSED_MAX:
                raise TooBusy("too many logins at the same time")
            queue = self._queues[key] = _Queue()
        waited = queue.holders > 0
        queue.holders += 1
        try:
            async with queue.lock:
                if waited:
                    await store.fresh()  # the view that the request came with is as old as its wait
                yield
        finally:
            queue.holders -= 1
            if not queue.holders:
                del self._queues[key]

    async def failed(self, store: Store, mount: Mount, name: str, *, alone: bool = False) -> None:
        """Count a failure, and lock when it is one too many."""
        held = rules(mount)
        if held.disabled:
            return
        if alone:
            self._count_here(store, mount, name, held)
            return
        view = View(store, mount.mount_id)
        for _ in range(COUNT_TRIES_MAX):
            known = self._count(store, mount, name)
            count, kept_ns = _one_more(name, known[0] if known else None, held)
            command = view.put(
                _path(name),
                msgspec.json.encode(count),
                expires_ns=ends_ns(store.now_ns(), kept_ns),
                expect=known[1] if known else view.revision(_path(name)),
            )
            try:
                await store.submit(command)
            except CommandRejected as error:
                if error.reason == Reason.NO_SUCH_MOUNT:
                    return
                if error.reason != Reason.REVISION_MISMATCH:
                    raise
            else:
                return
        raise TooBusy("too many logins under the same name at the same time")

    def _count_here(self, store: Store, mount: Mount, name: str, held: Rules) -> None:
        known = self._count(store, mount, name)
        count, kept_ns = _one_more(
            name, self._own_count(store, mount, name) or (known[0] if known else None), held
        )
        self._own[mount.mount_id, name] = (count, store.now_ns() + kept_ns)
        self._own.move_to_end((mount.mount_id, name))
        if len(self._own) > NAMES_COUNTED_ALONE_MAX:
            self._own.popitem(last=False)

    def _own_count(self, store: Store, mount: Mount, name: str) -> Count | None:
        count, ends_ns = self._own.get((mount.mount_id, name), (None, 0))
        return count if store.now_ns() < ends_ns else None

    def forgiven(self, store: Store, mount: Mount, name: str) -> tuple[EntryDelete, ...]:
        """What a success does to the count: the commands, which refuse if there is another failure by then."""
        known = self._count(store, mount, name)
        return () if known is None else (View(store, mount.mount_id).delete(_path(name), expect=known[1]),)

    async def unlock(self, store: Store, mount: Mount, name: str) -> None:
        """Forget what was counted."""
        await store.submit(View(store, mount.mount_id).delete(_path(name)))

    async def locked(self, store: Store, mount: Mount) -> list[str]:
        """The names that are locked now, sorted."""
        view, names = View(store, mount.mount_id), []
        async for child in in_turns(view.children(_FOLDER)):
            item = view.get(_FOLDER + child)
            count = None if item is None else msgspec.json.decode(item.raw, type=Count)
            if count is not None and count.locked:
                names.append(count.name)
        return sorted(names)

    def _count(self, store: Store, mount: Mount, name: str) -> tuple[Count, int] | None:
        item = View(store, mount.mount_id).get(_path(name))
        return None if item is None else (msgspec.json.decode(item.raw, type=Count), item.revision)


def _one_more(name: str, known: Count | None, held: Rules) -> tuple[Count, int]:
    """The count after another failure, and for how long it is kept."""
    failures = (known.failures if known else 0) + 1
    count = Count(name, failures, locked=failures >= held.failures_max)
    return count, held.locked_ns if count.locked else held.counted_ns


def _path(name: str) -> str:
    """Of one length, whatever somebody calls himself."""
    return _FOLDER + hashlib.sha256(name.encode()).hexdigest()
