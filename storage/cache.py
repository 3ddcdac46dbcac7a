"""Decrypted values that are read often, bounded in bytes, and gone the moment that apply touches their key.

The machine forgets a key's values when it applies a command on the key, and all of them when mounts change or the
state is replaced. Reads fill the cache between two applies, on the same thread, so what it holds is what the
database holds. What is dropped is emptied: whoever still refers to it finds no plaintext there.
"""

from collections import OrderedDict
from typing import Any

import msgspec

from storage.marks import Marks
from storage.packed import PackedCache
from storage.rows import KvVersion

ASKED_MAX = 16_384
VALUE_OVERHEAD_BYTES = 1024  # what Python and the indexes need for one value, roughly


class CachedValue(msgspec.Struct, eq=False):
    """The plaintext of one version that can be read: neither destroyed nor deleted, though deletion_ns may come.

    `row` is what else the database says of it. `attached` is for what a reader derived from it, and lives as long.
    """

    row: KvVersion
    value: bytes
    attached: Any = None
    live: bool = False  # in the cache: what it says still holds
    used: bool = False  # since it was last looked over for eviction
    size_bytes: int = 0  # once it is in the cache
    key: tuple[str, str] = ("", "")

    def __repr__(self) -> str:
        return f"CachedValue(version={self.row.version}, live={self.live})"


class ValueCache:
    """Values by (mount id, path) and by the version that was asked for, 0 being the current one.

    When it is full, what was not used since the last look goes first (the clock algorithm: a hit costs one store).
    """

    def __init__(self, bytes_max: int, packed_bytes_max: int = 0) -> None:
        """`packed_bytes_max`: of values that are not decrypted, beside those that are."""
        self._bytes_max = bytes_max
        self.packed = PackedCache(packed_bytes_max)
        self._keys: OrderedDict[tuple[str, str], dict[int, CachedValue]] = OrderedDict()
        self.marks: Marks | None = None
        self._asked: set[int] = set()  # lately, in vain: hashes of questions
        self.size_bytes = 0

    def __repr__(self) -> str:
        return f"ValueCache({len(self._keys)} keys, {self.size_bytes} bytes)"

    def get(self, mount_id: str, path: str, version: int) -> CachedValue | None:
        """What was put for exactly this question, if nothing has touched the key since."""
        versions = self._keys.get((mount_id, path))
        found = None if versions is None else versions.get(version)
        if found is not None:
            found.used = True
        return found

    def put(self, mount_id: str, path: str, version: int, value: CachedValue) -> None:
        """Keep what the database holds now: what fits and, once the cache is filling up, is asked for again."""
        size_bytes = len(value.value) + VALUE_OVERHEAD_BYTES
        if size_bytes > self._bytes_max or not self._admits((mount_id, path, version)):
            return
        value.key, value.size_bytes = (mount_id, path), size_bytes
        versions = self._keys.setdefault(value.key, {})
        if version in versions:
            self._drop(versions[version])
        versions[version] = value
        value.live = True
        self.size_bytes += value.size_bytes
        self._shrink()

    def attach(self, value: CachedValue, attached: object, size_bytes: int) -> None:
        """Keep something derived from a cached value along with it, instead of what was; its size counts."""
        if value.live:
            whole_bytes = len(value.value) + VALUE_OVERHEAD_BYTES + size_bytes
            self.size_bytes += whole_bytes - value.size_bytes
            value.attached, value.size_bytes = attached, whole_bytes
            self._shrink()

    def forget(self, mount_id: str, path: str) -> None:
        """The key was touched."""
        if self.marks is not None:
            self.marks.touched(mount_id, path)
        self.packed.forget(mount_id, path)
        self._evict((mount_id, path))

    def _evict(self, key: tuple[str, str]) -> None:
        versions = self._keys.pop(key, None)
        if versions is not None:
            for value in versions.values():
                self._drop(value)

    def close(self) -> None:
        """Forget everything, and keep nothing from now on: the node is sealed."""
        self._bytes_max = -1
        self.packed.close()
        self._clear()

    def clear(self) -> None:
        """Forget everything: the whole state is another."""
        self.packed.clear()
        self._clear()

    def mounts_changed(self, *, gone: bool) -> None:
        """Forget what was derived from mounts; what versions hold depends on them only when one is gone."""
        if gone:
            self.packed.clear()
        self._clear()

    def _clear(self) -> None:
        if self.marks is not None:
            self.marks.cleared()
        for versions in self._keys.values():
            for value in versions.values():
                self._drop(value)
        self._keys.clear()

    def _admits(self, question: tuple[str, str, int]) -> bool:
        """What is asked for once in a long while must not push out what is asked for all the time."""
        if self.size_bytes < self._bytes_max // 2:
            return True
        asked = hash(question)
        if asked in self._asked:
            return True
        if len(self._asked) >= ASKED_MAX:
            self._asked.clear()
        self._asked.add(asked)
        return False

    def _shrink(self) -> None:
        while self.size_bytes > self._bytes_max:
            key, versions = next(iter(self._keys.items()))
            if any(value.used for value in versions.values()):
                for value in versions.values():
                    value.used = False
                self._keys.move_to_end(key)
            else:
                self._evict(key)

    def _drop(self, value: CachedValue) -> None:
        value.live = False
        value.value, value.attached = b"", None
        self.size_bytes -= value.size_bytes
