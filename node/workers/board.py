"""What the main process and its read workers see of each other: words of 64 bits in shared memory, no secrets.

The main process alone writes the marks; each worker alone writes its own cell of counts. A word is read and written
in one piece. A reader looks at `fresh_until_ns` first and at the marks after it: what it has remembered of before is
then what the state said at a moment at which the state was fresh.
"""

import math
import mmap
import os
import time
from collections.abc import Iterator
from typing import Self

from node.config import READ_WORKERS_MAX
from node.telemetry.metrics import LATENCY_BUCKETS_S, Counts

# Marks of values: paths share one by their hash, and then a change of one voids the others, too.
SLOTS = 1 << 16
FOREVER_NS = (1 << 63) - 1
NS = 1_000_000_000

_FRESH_UNTIL, _EPOCH, _CLOCK, _POSITION = range(4)
_CELLS_AT = 8
# A count for each bucket and one beyond, and the sum in nanoseconds.
_HISTOGRAM_WORDS = len(LATENCY_BUCKETS_S) + 2
_STATUSES = (200, 500)  # of the answers that workers give by themselves
_CONNECTIONS = _HISTOGRAM_WORDS * len(_STATUSES)
_CELL_WORDS = 64
_SLOTS_AT = _CELLS_AT + READ_WORKERS_MAX * _CELL_WORDS
_WORDS = _SLOTS_AT + SLOTS


class Board:
    """The shared words. The main process makes one for each time that its store is open."""

    def __init__(self, descriptor: int) -> None:
        """Of the memory behind this descriptor, which the board owns."""
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, _WORDS * 8)
        self.words = memoryview(self._map).cast("Q")
        self._epoch = -1  # of the machine

    @classmethod
    def create(cls) -> Self:
        descriptor = os.memfd_create("strongroom-workers", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _WORDS * 8)
        return cls(descriptor)

    def close(self) -> None:
        self.words.release()
        self._map.close()
        os.close(self.descriptor)

    # ---- the main process: storage.marks.Marks, and what Group.watch() tells ----

    def show(self, fresh_until: float) -> None:
        """The state is fresh until then (boot time, seconds); 0.0: it is not."""
        self.words[_FRESH_UNTIL] = FOREVER_NS if math.isinf(fresh_until) else int(fresh_until * NS)

    def touched(self, mount_id: str, path: str) -> None:
        self.words[self.slot(mount_id, path)] += 1

    def cleared(self) -> None:
        self.words[_EPOCH] += 1

    def moved(self, position: int, clock_ns: int, epoch: int) -> None:
        words = self.words
        if epoch != self._epoch:
            words[_EPOCH] += 1
            self._epoch = epoch
        words[_CLOCK], words[_POSITION] = clock_ns, position

    @staticmethod
    def slot(mount_id: str, path: str) -> int:
        """The word that is the mark of a key's values."""
        return _SLOTS_AT + hash((mount_id, path)) % SLOTS

    # ---- both ----

    @property
    def epoch(self) -> int:
        """Another one whenever anything but single values may have changed."""
        return self.words[_EPOCH]

    @property
    def position(self) -> int:
        return self.words[_POSITION]

    def is_fresh(self) -> bool:
        """Whether what the marks stand for is, at this moment, as good as what the main process would say."""
        until_ns = self.words[_FRESH_UNTIL]  # before the clock: that it is over must not be overlooked
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) < until_ns

    def now_ns(self) -> int:
        """As node.store.Store.now_ns()."""
        return max(time.time_ns(), self.words[_CLOCK])

    # ---- counts ----

    def cell(self, worker: int) -> memoryview:
        """The words of one worker."""
        at = _CELLS_AT + worker * _CELL_WORDS
        return self.words[at : at + _CELL_WORDS]

    def counts(self, workers: int) -> Iterator[tuple[int, Counts]]:
        """What workers answered by themselves: status, counts by bucket, sum of seconds."""
        for worker in range(workers):
            words = self.cell(worker)
            for number, status in enumerate(_STATUSES):
                *buckets, sum_ns = words[number * _HISTOGRAM_WORDS : (number + 1) * _HISTOGRAM_WORDS]
                if any(buckets):
                    yield status, (list(buckets), sum_ns / NS)

    def connections(self, workers: int) -> int:
        return sum(self.cell(worker)[_CONNECTIONS] for worker in range(workers))


class Cell:
    """A worker's own counts, with the face of node.telemetry.metrics.Metrics."""

    def __init__(self, words: memoryview) -> None:
        self._words = words
        words[_CONNECTIONS] = 0  # those of the process before this one are gone
        self.answered = 0

    def request_started(self) -> None:
        """Reads in flight are none of the worker's: it answers in the turn that brings them."""

    def request_finished(self) -> None:
        """See request_started()."""

    def observe(self, operation: str, status: int, seconds: float) -> None:
        at = _STATUSES.index(status) * _HISTOGRAM_WORDS
        bucket = 0
        while bucket < len(LATENCY_BUCKETS_S) and LATENCY_BUCKETS_S[bucket] < seconds:
            bucket += 1
        self._words[at + bucket] += 1
        self._words[at + _HISTOGRAM_WORDS - 1] += int(seconds * NS)
        self.answered += 1

    def connected(self, change: int) -> None:
        self._words[_CONNECTIONS] += change
