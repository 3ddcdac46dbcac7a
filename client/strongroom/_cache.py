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


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """How reads of secrets are cached.

    fresh_s: an answer is given again for so many seconds without asking. stale_s: while no node can be asked, it
    is given for so many seconds after it was had. entries_max: the least recently used go first.
    """

    fresh_s: float = 30.0
    stale_s: float = 300.0
    entries_max: int = 1000

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
        self._clock = clock
        self._entries: OrderedDict[tuple[Hashable, ...], _Entry] = OrderedDict()
        self._changes = 0  # counts invalidations: an answer from before one is not kept

    def __len__(self) -> int:
        return len(self._entries)

    def invalidate(self, mount: str, path: str) -> None:
        """Forget a secret."""
        self._changes += 1
        for key in [key for key in self._entries if key[:2] == (mount, path)]:
            del self._entries[key]

    def clear(self) -> None:
        """Forget all."""
        self._changes += 1
        self._entries.clear()

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
        if entry is None or (age := self._clock() - entry.had_at) >= self._settings.fresh_s:
            return None
        self._entries.move_to_end(key)
        return Found(entry.value, age)

    def _usable(self, key: tuple[Hashable, ...]) -> Found | None:
        assert self._settings is not None
        entry = self._entries.get(key)
        if entry is None or (age := self._clock() - entry.had_at) >= self._settings.stale_s:
            return None
        return Found(entry.value, age, stale=True)
