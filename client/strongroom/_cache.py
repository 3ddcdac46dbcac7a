"""Answers kept for a while, and for longer where no node can be asked.

A call that names what it may see is answered by a node: how old a kept answer was when it was had, nobody knows. Only
STALE_OK takes what there is.

Entries belong to one client and its one identity. They are dropped when the server says no (403, 404), when this client
writes the secret, and by invalidate(), which whoever hears of another's write can call.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from strongroom._consistency import STALE_OK, Consistency
from strongroom._effects import BUSY, Exclusive, Program
from strongroom._errors import ApiError, ConfigurationError, Forbidden, NotFound, Unavailable, Unreachable
from strongroom._requests import HURRIED_S, Patience

ENTRIES_MAX = 10_000
PUSH_DOWN_FRESH_S = 30.0
ASK_AGAIN_S = 1.0  # while nobody can be asked, one call in so many seconds tries


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """How reads of secrets are cached.

    fresh_s: an answer is given again for so many seconds without asking. stale_s: while no node can be asked, it
    is given for so many seconds after it was had; then one call in a second tries to ask, for three seconds at most,
    and the others do not wait. entries_max: the least recently used go first.
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


Name = tuple[str, str]  # a mount and a path in it
Fetch = Callable[[Patience], Program[Any]]


@dataclass(frozen=True, slots=True)
class Key:
    """What an answer answers. consistency: STALE_OK, or None."""

    name: Name
    version: int | None = None
    consistency: Consistency | None = None


class Store:
    """The entries. All versions of a secret are invalidated together."""

    def __init__(self, settings: Cache | None, clock: Callable[[], float]) -> None:
        self._settings = settings
        self.is_up: Callable[[], bool] = lambda: False  # whether changes are heard of
        self._floor = ""
        self._changed_at: OrderedDict[Name, str] = OrderedDict()  # the index of changes that were heard of
        self._clock = clock
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._keys: dict[Name, set[Key]] = {}  # of the entries
        self._fetching: dict[Name, set[object]] = {}  # answers on their way that may be kept
        self._ask_again_at = 0.0  # 0: nodes answer

    def invalidate(self, mount: str, path: str, index: str = "") -> None:
        """Forget a secret. index: an answer must be at least as new, whichever node gives it."""
        name = mount, path
        if index:
            self._changed_at[name] = index
            self._changed_at.move_to_end(name)
            if len(self._changed_at) > ENTRIES_MAX:
                _, self._floor = self._changed_at.popitem(last=False)
        self._forget(name)

    def clear(self, index: str = "") -> None:
        """Forget all. index: every answer must be at least as new."""
        self._floor = index
        self._changed_at.clear()
        self._fetching.clear()
        self._entries.clear()
        self._keys.clear()

    def index(self, mount: str, path: str) -> str:
        """The index that the next answer must have come to; "" for any."""
        return self._changed_at.get((mount, path), self._floor)

    def read(self, key: Key, fetch: Fetch, patience: Patience) -> Program[Found]:
        """From the cache, else by `fetch`, once for all who ask at the same time.

        fetch is told the patience of the call; to hurry, if there is an old answer. Raises what it raises, and
        Unreachable where others who ask the same leave no time for it.
        """
        if self._settings is None:
            return Found((yield from fetch(patience)))
        if key.consistency not in (None, STALE_OK):
            return Found((yield from self._ask(key.name, fetch, patience)))
        if (hit := self._fresh(key)) is not None:
            return hit

        def program() -> Program[Found]:
            if (meanwhile := self._fresh(key)) is not None:
                return meanwhile
            return (yield from self._fetch(key, fetch, patience))

        outcome = yield Exclusive(("cache", key), program, patience.left_s(self._clock()))
        if outcome is BUSY:
            if (old := self._usable(key)) is not None:
                return old
            raise Unreachable(f"{'/'.join(key.name)}: {BUSY.reason}")
        found: Found = outcome
        return found

    def _fetch(self, key: Key, fetch: Fetch, patience: Patience) -> Program[Found]:
        this, asked_at, old = object(), self._clock(), self._usable(key)
        if old is not None and self._ask_again_at:
            if asked_at < self._ask_again_at:
                return old
            self._ask_again_at = asked_at + HURRIED_S  # this one finds out for all
        self._fetching.setdefault(key.name, set()).add(this)
        try:
            spare = Patience(hurried=old is not None, until=patience.until)
            value = yield from self._ask(key.name, fetch, spare)
            self._ask_again_at = 0.0
            if this in self._fetching.get(key.name, ()):
                self._keep(key, _Entry(value, asked_at))
        except (Unavailable, Unreachable):
            self._ask_again_at = self._clock() + ASK_AGAIN_S
            if (old := self._usable(key)) is not None:
                return old
            raise
        except NotFound:
            self._drop(key)
            raise
        finally:
            if fetching := self._fetching.get(key.name):
                fetching.discard(this)
                if not fetching:
                    del self._fetching[key.name]
        return Found(value)

    def _ask(self, name: Name, fetch: Fetch, patience: Patience) -> Program[Any]:
        """Who may not read a secret any more does not read any version of it from here."""
        try:
            return (yield from fetch(patience))
        except ApiError as error:
            self._ask_again_at = 0.0
            if isinstance(error, Forbidden):
                self._forget(name)
            raise

    def _keep(self, key: Key, entry: _Entry) -> None:
        assert self._settings is not None
        self._entries[key] = entry
        self._entries.move_to_end(key)
        self._keys.setdefault(key.name, set()).add(key)
        while len(self._entries) > self._settings.entries_max:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: Key) -> None:
        if self._entries.pop(key, None) is not None:
            keys = self._keys[key.name]
            keys.discard(key)
            if not keys:
                del self._keys[key.name]

    def _forget(self, name: Name) -> None:
        self._fetching.pop(name, None)  # what was asked for before is not kept
        for key in tuple(self._keys.get(name, ())):
            self._drop(key)

    def _fresh(self, key: Key) -> Found | None:
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

    def _usable(self, key: Key) -> Found | None:
        assert self._settings is not None
        entry = self._entries.get(key)
        if entry is None or (age := self._clock() - entry.had_at) >= self._settings.stale_s:
            return None
        return Found(entry.value, age, stale=True)
