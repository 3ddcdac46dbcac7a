"""Versions that will be deleted by their age: no command says when that happens, so every node watches the clock.

The nearest ones are in memory; when there are more than EXPIRIES_MAX, those further off are left in the table, which
is looked through again when their time comes nearer.
"""

import heapq

from storage.rows import KvVersion

EXPIRIES_MAX = 100_000
FOR_EVER_NS = 2**63 - 1

Expiry = tuple[int, str, str, int]  # when (ns), mount id, path, version


class Expiries:
    """See the module."""

    def __init__(self, expiries_max: int = EXPIRIES_MAX) -> None:
        self._heap: list[Expiry] = []
        self._max = expiries_max
        self.horizon_ns = FOR_EVER_NS  # what falls due from here on is not all in memory

    def add(self, due_ns: int, mount_id: str, path: str, version: int) -> None:
        if due_ns >= self.horizon_ns:
            return
        heapq.heappush(self._heap, (due_ns, mount_id, path, version))
        if len(self._heap) > self._max:
            kept = heapq.nsmallest(self._max // 2 + 1, self._heap)
            self.horizon_ns = kept.pop()[0]
            self._heap = [each for each in kept if each[0] < self.horizon_ns]

    def due(self, now_ns: int, count: int) -> list[Expiry]:
        """Those whose time has come, in order, but no more than `count`; they are forgotten."""
        found: list[Expiry] = []
        while self._heap and self._heap[0][0] <= now_ns and len(found) < count:
            nearest = heapq.heappop(self._heap)
            if not found or found[-1] != nearest:  # learnt twice
                found.append(nearest)
        return found

    def restart(self) -> None:
        """Everything will be added anew."""
        self._heap.clear()
        self.horizon_ns = FOR_EVER_NS


def has_expired(row: KvVersion | None, due_ns: int) -> bool:
    """Whether a version that was to expire has: it may have been written over, deleted or destroyed before."""
    return row is not None and not row.destroyed and row.deletion_ns == due_ns
