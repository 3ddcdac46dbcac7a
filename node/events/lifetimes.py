"""Versions that delete_version_after ends, as events: no command says when, so every node watches the clock."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

from node.events.cursor import MS_NS
from node.events.expiries import Expiries, has_expired
from node.events.happened import EXPIRED, Event
from node.store import Store
from storage.command import KvPut
from storage.rows import Mount

EXPIRED_MAX = 500  # in one tick
SCANNED_ROWS_MAX = 1000
SCAN_PAUSE_S = 0.005
LATE_NS = 5 * 10**9  # a version may be applied here so long after it expired: cursors claim no more
LOOK_BACK_NS = 60 * 10**9  # expiries of so long before the store was opened are found again
NEAR_NS = 10 * 10**9  # the expiries of the next seconds are known


class Lifetimes:
    """What will expire on this node's clock. `told_ns`: everything that expired before was told."""

    def __init__(self, store: Store, mounts: Callable[[], dict[str, Mount]]) -> None:
        self._store, self._mounts = store, mounts
        self._expiries = Expiries()
        self._begun_ns = self._passed_ns = store.now_ns()
        self._looked_back = False  # at what expired before the beginning

    @property
    def known_ns(self) -> int:
        """Of what expired after this time all will be told, on this node too."""
        return self._begun_ns - LOOK_BACK_NS

    @property
    def told_ns(self) -> int:
        return self._passed_ns - LATE_NS

    def note(self, put: KvPut, outcome: dict[str, Any]) -> None:
        """A version was written."""
        if outcome["deletion_ns"]:
            self._expiries.add(outcome["deletion_ns"], put.mount_id, put.path, put.version)

    def restart(self) -> None:
        """The state is another one."""
        self._expiries.restart()
        self._expiries.horizon_ns = 0  # it has to be looked through
        self._begun_ns = self._passed_ns = self._store.now_ns()
        self._looked_back = False

    def overlooked(self) -> None:
        """Versions may have been written that were not noted."""
        self._expiries.horizon_ns = 0

    @property
    def are_unknown(self) -> bool:
        """Whether learn() has something to do."""
        return self._expiries.horizon_ns < self._store.now_ns() + NEAR_NS

    async def learn(self) -> None:
        """Look through all versions for those that have a lifetime."""
        self._expiries.restart()
        after = 0
        since_ns = self.told_ns if self._looked_back else min(self._passed_ns, self.known_ns)
        while True:
            found, after = self._store.reads.kv_expiring(after, since_ns, SCANNED_ROWS_MAX)
            for due_ns, mount_id, path, version in found:
                if due_ns > self._passed_ns or self._was_to_expire(mount_id, path, version, due_ns):
                    self._expiries.add(due_ns, mount_id, path, version)
            if not after:
                self._looked_back = self._expiries.horizon_ns > 0  # else it began anew meanwhile
                return
            await asyncio.sleep(SCAN_PAUSE_S)

    def _was_to_expire(self, mount_id: str, path: str, version: int, due_ns: int) -> bool:
        """Whether the time at which a version was deleted is the one that its lifetime set."""
        row = self._store.reads.kv_version(mount_id, path, version)
        key = self._store.reads.kv_key(mount_id, path)
        if row is None or key is None or mount_id not in self._mounts():
            return False
        of_mount = self._store.reads.kv_config(mount_id).delete_version_after_ns
        return due_ns - row.created_ns in (key.delete_version_after_ns, of_mount)

    def expired(self) -> Iterator[Event]:
        """What has fallen due since the last time."""
        now_ns, mounts = time.time_ns(), self._mounts()
        due = self._expiries.due(now_ns, EXPIRED_MAX)
        for due_ns, mount_id, path, version in due:
            row = self._store.reads.kv_version(mount_id, path, version)
            if mount_id in mounts and has_expired(row, due_ns):
                self._passed_ns = max(self._passed_ns, due_ns - MS_NS)
                at = self._store.position
                yield Event(at, 0, at, due_ns, mounts[mount_id], EXPIRED, path, version)
        if len(due) < EXPIRED_MAX:
            self._passed_ns = max(self._passed_ns, min(now_ns, self._expiries.horizon_ns - 1))
