"""What a member does beside replication: compact its log, take snapshots for those who fell behind it, and make the
next file of its journal ready.

All of it blocks, so it runs in a thread of its own, one thing at a time; the loop stays free, and so does the
journal's thread.
"""

import asyncio
import errno
import functools
import logging
from collections.abc import Callable, Collection
from typing import Protocol

from consensus.api import Member, StateMachine
from consensus.replica import Replica
from consensus.replication import ChunkSource
from consensus.shipping import Shipment
from consensus.snapshot import SnapshotFiles, SnapshotRefused
from consensus.tasks import Run

_log = logging.getLogger(__name__)

KEPT_S = 3600.0  # files that nobody has use for
TIDY_EVERY_S = 600.0


class Sync(Protocol):
    """Awaited before a thread reads the machine's closed state."""

    async def __call__(self) -> None: ...


class Upkeep:
    """Owns one task; `poke()` it when there may be work."""

    def __init__(
        self,
        *,
        replica: Replica,
        machine: StateMachine,
        snapshots: SnapshotFiles,
        close_batch: Sync,
        run: Run,
        clock: Callable[[], float],
        cramped: Callable[[], bool],
        held: Callable[[], Collection[bytes]],
        spare_due: Callable[[], bool],
        prepare_spare: Callable[[], None],
    ) -> None:
        """`held()` are the digests of the files that the log still names (restoring.py); while it is `cramped()` the
        state is not written, so nothing is done here. `prepare_spare()` blocks, and is for when it is `spare_due()`.
        """
        self._spare_due, self._prepare_spare = spare_due, prepare_spare
        self._held, self._tidied_at, self._cramped = held, clock(), cramped
        self._replica, self._machine, self._snapshots = replica, machine, snapshots
        self._close_batch, self._run, self._clock = close_batch, run, clock
        self._wake = asyncio.Event()
        self._wanted = self._busy = False
        self._at_least = 0  # the log is to begin here, whatever the limits say
        self.compactions = 0

    def poke(self) -> None:
        """Ask whether there is work, which is not free; while some is done the next poke will do."""
        if self._busy or self._cramped():
            return
        if self._wanted or self._tidying_due() or self._compaction_due() or self._spare_due():
            self._wake.set()

    def _tidying_due(self) -> bool:
        return self._clock() - self._tidied_at > TIDY_EVERY_S

    def compact_up_to(self, index: int) -> None:
        """Drop the log up to `index`, which is applied: who lacks any of it gets a snapshot."""
        self._at_least = index
        self.poke()

    def snapshot_for(self) -> ChunkSource | None:
        """The kept snapshot if the log goes on from it; else None, and a new one is begun."""
        kept = self._snapshots.outgoing
        if kept is not None and self._replica.log.term_at(kept.index) == kept.term:
            sender = self._snapshots.open_sender()
            if sender is not None:
                return Shipment(sender, self._snapshots.discard_outgoing, self._clock)
        self._wanted = True
        self._wake.set()
        return None

    async def work(self) -> None:
        """The task's body; ends by cancellation."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._busy = True
            if self._wanted:
                await self._take_snapshot()
            if self._tidying_due():
                await self._tidy()
            if self._compaction_due():
                await self._compact()
            if self._spare_due():
                await self._prepare()
            self._busy = False

    async def _tidy(self) -> None:
        self._tidied_at = self._clock()
        sending = self._replica.replicator.snapshot_floor is not None
        await self._run(
            functools.partial(self._snapshots.tidy, sending=sending, held=self._held(), age_s=KEPT_S)
        )

    async def _prepare(self) -> None:
        """A piece with every poke(): the disk is there for others, too."""
        try:
            await self._run(self._prepare_spare)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            _log.warning("no room to make the next file of the journal ready")
            await asyncio.sleep(self._replica.options.election_max_s)

    async def _take_snapshot(self) -> None:
        await self._close_batch()
        try:
            await self._run(self._snapshots.take, self._at)
        except (OSError, SnapshotRefused) as error:  # a full disk here must not stop a member that works
            _log.warning("no snapshot for the member that needs one: %s", type(error).__name__)
            await asyncio.sleep(self._replica.options.election_max_s)
        self._wanted = False

    def _at(self, index: int) -> tuple[int, tuple[Member, ...]]:
        """Term and members at an applied index. Runs in the thread: the log is not compacted meanwhile."""
        log = self._replica.log
        term = log.term_at(index)
        if term is None:
            raise SnapshotRefused("the log began anew while the snapshot was taken")
        return term, tuple(log.members(index).values())

    def _compaction_due(self) -> bool:
        log, options = self._replica.log, self._replica.options
        beyond_tail = len(log) - 1 - options.trailing_entries
        short = beyond_tail <= options.compact_entries and log.bytes <= options.compact_bytes
        if short and self._at_least <= log.base.index:
            return False
        return self._last_droppable() > log.base.index

    def _last_droppable(self) -> int:
        """Applied, and neither in the tail that is kept nor needed behind a snapshot that is on its way."""
        replica = self._replica
        limit, floor = replica.core.applied_index, replica.replicator.snapshot_floor
        if floor is not None and not self._too_long():
            limit = min(limit, floor)
        if limit <= replica.log.base.index:
            return limit
        return min(max(self._before_tail(), self._at_least), limit)

    def _before_tail(self) -> int:
        """The last index before the newest entries that are kept: so many, or so many bytes."""
        log, options = self._replica.log, self._replica.options
        size_bytes = 0
        for kept, entry in enumerate(reversed(log)):
            size_bytes += len(entry[0])
            if kept >= options.trailing_entries or size_bytes > options.trailing_bytes:
                return entry[1]
        return log.base.index

    def _too_long(self) -> bool:
        """A member that takes its snapshot too slowly cannot make the log grow for ever: it gets another."""
        log, options = self._replica.log, self._replica.options
        return len(log) > options.held_entries_max or log.bytes > options.held_bytes_max

    async def _compact(self) -> None:
        """Drop what the state machine holds durably, but a tail for members that are only a little behind."""
        await self._close_batch()
        try:
            durable: int = await self._run(self._machine.checkpoint)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            _log.warning("no room to make the state durable: the log is not compacted")
            await asyncio.sleep(self._replica.options.election_max_s)
            return
        index = min(self._last_droppable(), durable)
        if index > self._replica.log.base.index and self._compaction_due():
            self._replica.log.compact(index)
            self.compactions += 1
