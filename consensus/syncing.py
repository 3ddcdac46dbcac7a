"""The one writer of the journal: what is queued becomes durable, a batch and an fsync at a time."""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from consensus.disk import DiskHealth, Pace
from consensus.journal import Batch, Journal, NoRoom
from consensus.replica import Replica
from consensus.tasks import Run

INLINE_BYTES_MAX = 256 << 10  # more takes its time to encrypt, whatever the disk does
ROOM_RETRY_S = 0.5

_log = logging.getLogger(__name__)


class Member(Protocol):
    """Whose journal it is."""

    replica: Replica

    def tick(self) -> None: ...


class Syncing:
    """at_once() writes on the caller's thread. Where it does not, `poke()`: one task's body, work(), does."""

    def __init__(
        self,
        member: Member,
        journal: Journal,
        disk: DiskHealth,
        *,
        run: Run,
        pace: Pace | None,
        observe: Callable[[float], None],
    ) -> None:
        """`run` awaits a blocking call in the disk's thread; without a `pace` every write is one."""
        self._member, self._journal, self._disk = member, journal, disk
        self._run, self._pace, self._observe = run, pace, observe
        self._dirty = asyncio.Event()
        self._working = False
        self.count = 0

    def poke(self) -> None:
        self._dirty.set()

    def at_once(self) -> bool:
        """Blocking: make durable what is queued, if the disk is quick and it is not much. The caller ticks again.

        False: it is for the task. An error of the disk, but for a lack of room, passes: the node must end.
        """
        log, pace = self._member.replica.log, self._pace
        if self._working or pace is None or not pace.quick:
            return False
        if log.trimmed or self._journal.queued_bytes > INLINE_BYTES_MAX:
            return False
        batch = self._begin()
        try:
            self._journal.write(batch)
        except NoRoom:
            self._refused()
            return False
        pace.ran_here(self._end())
        return True

    async def work(self) -> None:
        """One batch after another: what comes in during an fsync shares the next one. Ends by cancellation."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            self._working = True
            while self._journal.durable_lsn < self._journal.lsn:
                await self._write()
                self._member.tick()
            self._working = False

    async def _write(self) -> None:
        """In the thread, until it is durable; a full disk is waited for, any other error of it ends the process."""
        batch = self._begin()
        while True:
            try:
                await self._run(self._journal.write, batch)
            except NoRoom:
                self._refused()
                await asyncio.sleep(ROOM_RETRY_S)
            else:
                self._end()
                if self._pace is not None:
                    self._pace.ran_elsewhere()
                return

    def _begin(self) -> Batch:
        """Take everything that is queued; writing the last batch writes those before it, also what found no room."""
        replica = self._member.replica
        replica.taken()
        replica.log.trimmed = False
        batch = self._journal.take()
        while self._journal.dirty:
            batch = self._journal.take()
        self._disk.begin()
        return batch

    def _refused(self) -> None:
        if not self._disk.full:
            _log.error("the disk is full: this node takes no writes")
        self._disk.refused()

    def _end(self) -> float:
        """It is durable. Returns how many seconds that took."""
        took_s = self._disk.end()
        self._observe(took_s)
        self.count += 1
        self._member.replica.durable()
        return took_s
