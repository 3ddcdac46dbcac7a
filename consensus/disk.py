"""The disk as the loop sees it: where an fsync runs, whether it hangs, whether there is room.

An fsync runs on the loop while the disk is fast, in its thread once it is not.

A thread and the loop share one interpreter: on a busy node the way to the thread and back takes milliseconds, of
which the fsync of a good disk is a small part, and whole batches of writes wait for it on three nodes. A slow disk
must stop neither heartbeats nor clients, so once even the quickest of the latest ones took more than INLINE_SYNC_S_MAX,
the next SLOW_SYNCS run in the thread: the loop stalls at most once in so many, for one sync.
"""

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

INLINE_SYNC_S_MAX = 0.001
SYNCS_LOOKED_AT = 8
LATEST_S_MAX = 0.04  # of those together: a disk that is quick now and then may not stop the loop in between
SLOW_SYNCS = 128
LOOK_S = 0.1
SCARCE_BYTES = 1 << 30  # more than all pages that a full batch of the state may change


class Pace:
    """Whether the next sync may run on the loop."""

    def __init__(self) -> None:
        self._elsewhere = 0  # so many have yet to run in the thread
        self._latest_s: deque[float] = deque(maxlen=SYNCS_LOOKED_AT)

    @property
    def quick(self) -> bool:
        return self._elsewhere == 0

    def ran_here(self, seconds: float) -> None:
        """A sync ran on the loop. How long the disk takes is what the quickest of several took: in the others another
        process had the processor, which on a busy machine are most of them.
        """
        self._latest_s.append(seconds)
        if min(self._latest_s) > INLINE_SYNC_S_MAX or sum(self._latest_s) > LATEST_S_MAX:
            self._latest_s.clear()
            self._elsewhere = SLOW_SYNCS

    def ran_elsewhere(self) -> None:
        """A sync ran in the thread. How long says nothing of the disk: a busy loop keeps the interpreter from it."""
        self._elsewhere = max(0, self._elsewhere - 1)


class DiskHealth:
    """Whether the disk answers, and whether there is room: what a leader must have, and a writer too."""

    def __init__(
        self,
        free_bytes: Callable[[], int],
        free_elsewhere_bytes: Callable[[], int],
        *,
        clock: Callable[[], float],
        stall_s: float,
        reserve_bytes: int,
        state_reserve_bytes: int,
    ):
        """`free_bytes()` asks the file system of journal and state, `free_elsewhere_bytes()` others that a node needs;
        a sync that takes more than `stall_s` is a stall.
        """
        self._free_bytes, self._free_elsewhere_bytes, self._clock = free_bytes, free_elsewhere_bytes, clock
        self._stall_s = stall_s
        self._reserve_bytes, self._state_reserve_bytes = reserve_bytes, state_reserve_bytes
        self._began: float | None = None
        self._refused = self._low = self._cramped = self._scarce = False
        self._looked = float("-inf")

    def begin(self) -> None:
        """A write and its sync are under way."""
        self._began = self._clock()

    def end(self) -> float:
        """They are done. Returns how many seconds it took."""
        began, self._began, self._refused = self._began, None, False
        return 0.0 if began is None else self._clock() - began

    def refused(self) -> None:
        """There was no room for it; it will be tried again."""
        self._refused = True

    def look(self) -> None:
        """From time to time: ask how much room is left."""
        if self._clock() - self._looked >= LOOK_S:
            self.look_now()

    def look_now(self) -> None:
        """Ask how much room is left."""
        self._looked = self._clock()
        left = self._free_bytes()
        self._scarce = left < SCARCE_BYTES
        self._cramped = left < self._state_reserve_bytes
        self._low = min(left, self._free_elsewhere_bytes()) < self._reserve_bytes

    @property
    def stalled(self) -> bool:
        """The sync that is under way has taken too long: nothing that this node says can become durable soon."""
        return self._began is not None and self._clock() - self._began > self._stall_s

    @property
    def cramped(self) -> bool:
        """The state machine must not write now: a database that finds no room loses what it has not committed, and
        only a restart brings that back.
        """
        return self._cramped

    @property
    def scarce(self) -> bool:
        """The state machine must write little at a time, or what is left may not be enough for it."""
        return self._scarce

    @property
    def full(self) -> bool:
        """No writes are taken: what room is left is for those that were taken already."""
        return self._low or self._refused


def free_bytes(directory: Path) -> int:
    """What this process may still write there."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize
