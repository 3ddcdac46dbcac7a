"""The receiving end of files from other members, and the installation of a snapshot: beside the loop, not on it.

The receiver asks for a window at a time and writes it in a thread before it asks for the next, so no side
ever holds more than WINDOW_BYTES of a file, and a slow disk slows the sender down. Whatever a link
loses is asked for again from where the file ends. A snapshot is verified and laid beside the state while
this member goes on as it was; only then does the log begin anew at it, and the state is swapped.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from consensus import wire
from consensus.api import Member, StateMachine
from consensus.errors import ConsensusError
from consensus.records import Base
from consensus.snapshot import Receiver, SnapshotFiles, SnapshotMeta, SnapshotRefused
from consensus.tasks import Run, Spawn

WINDOW_BYTES = 1 << 20
PIECE_BYTES = 256 << 10
REFUSED_PAUSE_S = 10.0  # before a transfer that ended in an error is begun again

_log = logging.getLogger(__name__)


class Silence(ConsensusError):
    """The sender says nothing any more."""


class Pull:
    """One file on its way here. `ask(offset)` requests the window that begins there."""

    def __init__(
        self,
        receiver: Receiver,
        *,
        size_bytes: int,
        sha256: bytes,
        ask: Callable[[int], None],
        run: Run,
        patience_s: float,
        silent: Callable[[], bool],
    ) -> None:
        self._receiver, self._run, self._ask = receiver, run, ask
        self._size_bytes, self._sha256 = size_bytes, sha256
        self._patience_s, self._silent = patience_s, silent
        self._at = self._want = 0
        self._window = bytearray()
        self._full = asyncio.Event()

    async def fetch(self) -> Path:
        """The whole file, verified and durable. Raises SnapshotRefused, Silence, OSError."""
        offset: int = await self._run(self._receiver.begin, self._size_bytes, self._sha256)
        while offset < self._size_bytes:
            data = await self._next(offset)
            await self._run(self._receiver.write, offset, data)
            offset += len(data)
        path: Path = await self._run(self._receiver.finish)
        return path

    async def _next(self, offset: int) -> bytes:
        """What comes of the window at `offset`, at least one piece; asks again for what was lost."""
        self._at, self._want = offset, min(WINDOW_BYTES, self._size_bytes - offset)
        self._window = bytearray()
        while not self._window:
            if self._silent():
                raise Silence("nobody offers this file any more")
            self._full.clear()
            self._ask(offset)
            try:
                async with asyncio.timeout(self._patience_s):
                    await self._full.wait()
            except TimeoutError:
                pass
        self._want = 0  # what comes late is not for this window
        return bytes(self._window)

    def piece(self, frame: wire.FilePiece) -> None:
        """A piece has come; what does not follow is not for us (any more)."""
        follows = frame.sha256 == self._sha256 and frame.offset == self._at + len(self._window)
        if not follows or len(self._window) + len(frame.data) > self._want:
            return
        self._window += frame.data
        if len(self._window) == self._want:
            self._full.set()


class Local(Protocol):
    """The member that installs."""

    @property
    def term(self) -> int: ...
    def send(self, peer: str, body: bytes) -> bool: ...
    def begin_install(self, base: Base) -> bool:
        """The log begins anew at `base` (not durable yet). False: no use for it any more; nothing changed."""
        ...

    async def durable(self) -> None:
        """Return when all that was appended to the journal is on disk."""
        ...

    def installed(self, index: int) -> None:
        """The state machine holds the snapshot at `index`."""
        ...


@dataclass(frozen=True, slots=True)
class Staging:
    """What it takes to replace the machine's state by another one, here and in restoring.py."""

    machine: StateMachine
    snapshots: SnapshotFiles
    run: Run
    spawn: Spawn  # tasks belong to the engine
    clock: Callable[[], float]
    lock: asyncio.Lock = field(
        default_factory=asyncio.Lock
    )  # held by whoever lays a state beside the machine's


class Intake:
    """At most one snapshot on its way into this member."""

    def __init__(self, local: Local, staging: Staging, *, patience_s: float) -> None:
        self._local, self._machine, self._snapshots = local, staging.machine, staging.snapshots
        self._run, self._spawn, self._clock = staging.run, staging.spawn, staging.clock
        self._lock, self._patience_s = staging.lock, patience_s
        self._receiver = self._snapshots.receiver()
        self._task: asyncio.Task[None] | None = None
        self._pull: Pull | None = None
        self._meta: SnapshotMeta | None = None
        self._leader = ""
        self._offered_at = self._not_before = self._clock()
        self.installed = self.refused = 0

    def offered(self, peer: str, offer: wire.SnapshotOffer) -> None:
        """The leader says that this member needs a snapshot, again with each heartbeat."""
        self._leader, self._offered_at = peer, self._clock()
        members = tuple(Member(node_id, address) for node_id, address in offer.members)
        meta = SnapshotMeta(offer.index, offer.index_term, members, offer.size_bytes, offer.sha256)
        if self._clock() < self._not_before:
            return
        if self._task is not None and not self._task.done():
            if self._pull is None or meta == self._meta:
                return  # it is being installed, or on its way
            self._task.cancel()  # a newer one, or another leader's
        self._meta = meta
        self._pull = self._pull_of(meta)
        self._task = self._spawn(self._take_in(meta, self._pull))

    def piece(self, peer: str, frame: wire.FilePiece) -> None:
        if self._pull is not None and peer == self._leader:
            self._pull.piece(frame)

    def _pull_of(self, meta: SnapshotMeta) -> Pull:
        def ask(offset: int) -> None:
            frame = wire.FileWanted(self._local.term, meta.sha256, offset)
            self._local.send(self._leader, wire.encode(frame))

        return Pull(
            self._receiver,
            size_bytes=meta.size_bytes,
            sha256=meta.sha256,
            ask=ask,
            run=self._run,
            patience_s=self._patience_s,
            silent=lambda: self._clock() - self._offered_at > 2 * self._patience_s,
        )

    async def _take_in(self, meta: SnapshotMeta, pull: Pull) -> None:
        try:
            part = await pull.fetch()
            path = await self._run(self._snapshots.arrived, part, meta)
            self._pull = None
            await self._install(path, meta)
        except Silence:
            return
        except (
            OSError,
            SnapshotRefused,
        ) as error:  # a full disk, a spoiled file: this member goes on as it was
            _log.warning("the snapshot at %d is not taken in: %s", meta.index, error)
            self.refused += 1
            self._not_before = self._clock() + REFUSED_PAUSE_S

    async def _install(self, path: Path, meta: SnapshotMeta) -> None:
        async with self._lock:
            try:
                await self._stage(path)
                if self._local.begin_install(Base(meta.index, meta.term, meta.members)):
                    await self._local.durable()
                    self._machine.restore(path)
                    self._local.installed(meta.index)
                    self.installed += 1
            finally:
                self._machine.unstage()
        await self._run(self._snapshots.done_install)

    async def _stage(self, path: Path) -> None:
        try:
            await self._run(self._machine.stage, path)
        except OSError:
            raise
        except Exception as error:
            await self._run(self._snapshots.done_install)
            raise SnapshotRefused(f"it does not open ({type(error).__name__})") from error
