"""The one writer of the journal: what is queued becomes durable, a batch and an fsync at a time."""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from consensus.disk import DiskHealth, DiskRunner, Run
from consensus.journal import Batch, Journal, NoRoom
from consensus.replica import Replica

LONE_RECORDS_MAX = 2  # beyond it others have work for the loop while the disk is busy
ROOM_RETRY_S = 0.5

_log = logging.getLogger(__name__)


class Member(Protocol):
    """Whose journal it is."""

    replica: Replica

    def tick(self) -> None: ...


class Syncing:
    """Owns one task's body, work(); `poke()` it when the journal is dirty."""

    def __init__(
        self,
        member: Member,
        journal: Journal,
        disk: DiskHealth,
        *,
        run: Run,
        run_lone: Run | DiskRunner,
        observe: Callable[[float], None],
    ) -> None:
        """`run` awaits a blocking call; `run_lone` one of a writer who has the disk for himself."""
        self._member, self._journal, self._disk = member, journal, disk
        self._run, self._run_lone, self._observe = run, run_lone, observe
        self._dirty = asyncio.Event()
        self.count = 0

    def poke(self) -> None:
        self._dirty.set()

    async def work(self) -> None:
        """One batch after another: what comes in during an fsync shares the next one. Ends by cancellation."""
        journal, replica = self._journal, self._member.replica
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            while journal.dirty:
                replica.taken()
                batch = self._take_all()
                lone = journal.lsn - journal.durable_lsn <= LONE_RECORDS_MAX and not replica.log.trimmed
                replica.log.trimmed = False
                await self._write(batch, self._run_lone if lone else self._run)
                self.count += 1
                replica.durable()
                self._member.tick()

    async def _write(self, batch: Batch, run: Run | DiskRunner) -> None:
        """Until it is durable; a full disk is waited for, any other error of it ends the process."""
        self._disk.begin()
        while True:
            try:
                await run(self._journal.write, batch)
            except NoRoom:
                if not self._disk.full:
                    _log.error("the disk is full: this node takes no writes")
                self._disk.refused()
                await asyncio.sleep(ROOM_RETRY_S)
            else:
                self._observe(self._disk.end())
                return

    def _take_all(self) -> Batch:
        """Everything that is queued; writing the last batch writes those before it."""
        batch = self._journal.take()
        while self._journal.dirty:
            batch = self._journal.take()
        return batch
