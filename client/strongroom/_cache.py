"""Answers kept for a while, and for longer where no node can be asked.

Entries belong to one client and its one identity. They are dropped when the server says no (403, 404), when this client
writes the secret, and by invalidate(), which whoever hears of another's write can call.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from strongroom._effects import Exclusive, Program
from strongroom._errors import ConfigurationError, Forbidden, NotFound, Unavailable, Unreachable

ENTRIES_MAX = 10_000
PUSH_DOWN_FRESH_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """How reads of secrets are cached.

    fresh_s: an answer is given again for so many seconds without asking. stale_s: while no node can be asked, it
    is given for so many seconds after it was had. entries_max: the least recently used go first.
    push: in a `with` block, listen to the servers' events and drop at once what is changed anywhere. fresh_s can be
    long then: while nobody can be listened to, an answer is given again for PUSH_DOWN_FRESH_S at most. It bounds how
    long a value outlives the right to read it. The policy has to allow reading sys/events/subscribe/kv*; where the
    servers refuse, the cache works as without.
    """

    fresh_s: float = 30.0
    stale_s: float = 300.0
    entries_max: int = 1000
    push: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.fresh_s <= self.stale_s:
            raise ConfigurationError("a cache needs 0 <= fresh_s <= stale_s")
        if not 0 < self.entries_max <= ENTRIES_MAX:
            raise ConfigurationError(f"a cache has 1 to {ENTRIES_MAX} entries")


@dataclass(frozen=True, slots=True)
class Found:
    """A value, how old it is, and whether it is given because nobody could be asked."""

    value: Any = field(repr=False)
    age_s: float = 0.0
    stale: bool = False


@dataclass(frozen=True, slots=True)
class _Entry:
    value: Any = field(repr=False)
    had_at: float


class Store:
    """The entries. A key begins with (mount, path): all versions of a secret are invalidated together."""

    def __init__(self, settings: Cache | None, clock: Callable[[], float]) -> None:
        self._settings = settings
        self.is_up: Callable[[], bool] = lambda: False  # whether changes are heard of
        self._floor = ""
        self._changed_at: OrderedDict[tuple[str, str], str] = (
            OrderedDict()
        )  # the index of changes that were heard of
        self._clock = clock
        self._entries: OrderedDict[tuple[Hashable, ...], _Entry] = OrderedDict()
        self._changes = 0  # counts invalidations: an answer from before one is not kept

    def __len__(self) -> int:
        return len(self._entries)

    def invalidate(self, mount: str, path: str, index: str = "") -> None:
        """Forget a secret. index: an answer must be at least as new, whichever node gives it."""
        self._changes += 1
        if index:
            self._changed_at[mount, path] = index
            self._changed_at.move_to_end((mount, path))
            if len(self._changed_at) > ENTRIES_MAX:
                self._changed_at.popitem(last=False)
        for key in [key for key in self._entries if key[:2] == (mount, path)]:
            del self._entries[key]

    def clear(self, index: str = "") -> None:
        """Forget all. index: every answer must be at least as new."""
        self._floor = index
        self._changed_at.clear()
        self._changes += 1
        self._entries.clear()

    def index(self, mount: str, path: str) -> str:
        """The index that the next answer must have come to; "" for any."""
        return self._changed_at.get((mount, path), self._floor)

    def read(self, key: tuple[Hashable, ...], fetch: Callable[[], Program[Any]]) -> Program[Found]:
        """From the cache, else by `fetch`, once for all who ask at the same time."""
        if self._settings is None:
            return Found((yield from fetch()))
        if (hit := self._fresh(key)) is not None:
            return hit

        def program() -> Program[Found]:
            if (meanwhile := self._fresh(key)) is not None:
                return meanwhile
            return (yield from self._fetch(key, fetch))

        found: Found = yield Exclusive(("cache", *key), program)
        return found

    def _fetch(self, key: tuple[Hashable, ...], fetch: Callable[[], Program[Any]]) -> Program[Found]:
        changes, asked_at = self._changes, self._clock()
        try:
            value = yield from fetch()
        except (Unavailable, Unreachable):
            if (old := self._usable(key)) is not None:
                return old
            raise
        except (Forbidden, NotFound):
            self._entries.pop(key, None)
            raise
        if changes == self._changes:
            self._keep(key, _Entry(value, asked_at))
        return Found(value)

    def _keep(self, key: tuple[Hashable, ...], entry: _Entry) -> None:
        assert self._settings is not None
        self._entries[key] = entry
        self._entries.move_to_end(key)
        while len(self._entries) > self._settings.entries_max:
            self._entries.popitem(last=False)

    def _fresh(self, key: tuple[Hashable, ...]) -> Found | None:
        assert self._settings is not None
        entry = self._entries.get(key)
        if entry is None or (age := self._clock() - entry.had_at) >= self._fresh_s():
            return None
        self._entries.move_to_end(key)
        return Found(entry.value, age)

    def _fresh_s(self) -> float:
        assert self._settings is not None
        if self._settings.push and not self.is_up():
            return min(self._settings.fresh_s, PUSH_DOWN_FRESH_S)
        return self._settings.fresh_s

    def _usable(self, key: tuple[Hashable, ...]) -> Found | None:
        assert self._settings is not None
        entry = self._entries.get(key)
        if entry is None or (age := self._clock() - entry.had_at) >= self._settings.stale_s:
            return None
        return Found(entry.value, age, stale=True)
