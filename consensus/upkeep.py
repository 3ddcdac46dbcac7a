"""What a member does beside replication: compact its log, and take snapshots for those who fell behind it.

Both block, so they run in a thread of their own, one at a time; the loop stays free, and so does the
journal's thread.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from consensus import wire
from consensus.api import Member, StateMachine
from consensus.replica import Replica
from consensus.replication import ChunkSource
from consensus.snapshot import Sender, SnapshotFiles, SnapshotRefused

_log = logging.getLogger(__name__)

Run = Callable[..., Awaitable[Any]]


class Sync(Protocol):
    """Called before a thread reads the machine's closed state."""

    def __call__(self) -> None: ...


class _Chunks:
    """A snapshot file on its way to one peer, as frames."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    @property
    def index(self) -> int:
        return self._sender.meta.index

    def next_chunk(self, *, term: int, seq: int) -> wire.SnapshotChunk:
        meta, offset, data, last = self._sender.next_chunk()
        members = [(member.id, member.address) for member in meta.members]
        return wire.SnapshotChunk(
            term, seq, meta.index, meta.term, members, meta.size_bytes, meta.sha256, offset, data, last
        )

    def close(self) -> None:
        self._sender.close()


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
    ) -> None:
        self._replica, self._machine, self._snapshots = replica, machine, snapshots
        self._close_batch, self._run = close_batch, run
        self._wake = asyncio.Event()
        self._wanted = False
        self.compactions = self.snapshots_taken = 0

    def poke(self) -> None:
        if self._wanted or self._compaction_due():
            self._wake.set()

    def snapshot_for(self) -> ChunkSource | None:
        """The kept snapshot if the log goes on from it; else None, and a new one is begun."""
        kept = self._snapshots.outgoing
        if kept is not None and self._replica.log.term_at(kept.index) == kept.term:
            sender = self._snapshots.open_sender()
            return None if sender is None else _Chunks(sender)
        self._wanted = True
        self._wake.set()
        return None

    async def work(self) -> None:
        """The task's body; ends by cancellation."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._wanted:
                await self._take_snapshot()
            if self._compaction_due():
                await self._compact()

    async def _take_snapshot(self) -> None:
        self._close_batch()
        try:
            await self._run(self._snapshots.take, self._at)
            self.snapshots_taken += 1
        except (OSError, SnapshotRefused) as error:  # a full disk here must not stop a member that works
            _log.warning("no snapshot for the member that needs one: %s", type(error).__name__)
            await asyncio.sleep(self._replica.options.election_max_s)
        self._wanted = False

    def _at(self, index: int) -> tuple[int, tuple[Member, ...]]:
        """Term and members at an applied index. Runs in the thread: the log is not compacted meanwhile."""
        log = self._replica.log
        term = log.term_at(index)
        if term is None:
            raise AssertionError("the log was compacted beyond what the state machine holds")
        return term, tuple(log.members(index).values())

    def _compaction_due(self) -> bool:
        log, options = self._replica.log, self._replica.options
        if len(log) <= options.trailing_entries + 1 or self._last_droppable() <= log.base.index:
            return False
        extra = len(log) - options.trailing_entries
        if extra <= options.compact_entries and log.bytes <= options.compact_bytes:
            return False
        return not log.changes or log.changes[-1].index <= self._replica.core.applied_index

    def _last_droppable(self) -> int:
        limit = self._replica.core.applied_index - self._replica.options.trailing_entries
        floor = self._replica.replicator.snapshot_floor
        return limit if floor is None else min(limit, floor)

    async def _compact(self) -> None:
        """Drop what the state machine holds durably, but a tail for members that are only a little behind."""
        self._close_batch()
        durable: int = await self._run(self._machine.checkpoint)
        index = min(self._last_droppable(), durable - self._replica.options.trailing_entries)
        if index > self._replica.log.base.index and self._compaction_due():
            self._replica.log.compact(index)
            self.compactions += 1
