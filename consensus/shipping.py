"""The sending end of files to other members: a window is read in a thread when the receiver asks for it.

The receiver sets the pace (intake.py), so a transfer costs the sender one window of memory, whatever the size of
the file and the speed of the link.
"""

import contextlib
import logging
from collections.abc import Callable
from typing import Protocol

from consensus import wire
from consensus.errors import Corrupt
from consensus.intake import PIECE_BYTES, REFUSED_PAUSE_S, WINDOW_BYTES
from consensus.snapshot import Sender, SnapshotFiles, SnapshotMeta
from consensus.tasks import Run, Spawn

_log = logging.getLogger(__name__)


class Shipment:
    """A snapshot on its way to one peer (replication.py's ChunkSource)."""

    def __init__(
        self, sender: Sender, spoiled: Callable[[SnapshotMeta], None], clock: Callable[[], float]
    ) -> None:
        """`spoiled(meta)` is called when the file turns out to be no good to send."""
        self._sender, self._spoiled, self._clock = sender, spoiled, clock
        self._delivered_at: float | None = None

    @property
    def index(self) -> int:
        return self._sender.meta.index

    @property
    def sha256(self) -> bytes:
        return self._sender.meta.sha256

    def offer(self, *, term: int, seq: int) -> wire.SnapshotOffer:
        meta = self._sender.meta
        members = [(member.id, member.address) for member in meta.members]
        return wire.SnapshotOffer(term, seq, meta.index, meta.term, members, meta.size_bytes, meta.sha256)

    def read(self, offset: int, bytes_max: int) -> bytes:
        """Blocking. A receiver that begins anew after it had everything has found the file spoiled."""
        delivered_at = self._delivered_at
        if offset == 0 and delivered_at is not None and self._clock() - delivered_at > REFUSED_PAUSE_S / 2:
            self.spoil()
            return b""
        data = self._sender.read(offset, bytes_max)
        if offset + len(data) == self._sender.meta.size_bytes:
            self._delivered_at = self._clock()
        return data

    def spoil(self) -> None:
        self._spoiled(self._sender.meta)
        self.close()

    def close(self) -> None:
        self._sender.close()


class Source(Protocol):
    """A file on its way to one peer."""

    @property
    def sha256(self) -> bytes: ...
    def read(self, offset: int, bytes_max: int) -> bytes: ...
    def spoil(self) -> None:
        """It turned out to be no good."""
        ...


class HeldFile:
    """A file that this member holds (restoring.py), opened for each window: it may be gone by the next."""

    def __init__(self, snapshots: SnapshotFiles, sha256: bytes, size_bytes: int) -> None:
        self._snapshots, self._sha256, self._size_bytes = snapshots, sha256, size_bytes

    @property
    def sha256(self) -> bytes:
        return self._sha256

    def read(self, offset: int, bytes_max: int) -> bytes:
        """Blocking. Raises FileNotFoundError: it was restored meanwhile."""
        with contextlib.closing(self._snapshots.open_held(self._sha256, self._size_bytes)) as sender:
            return sender.read(offset, bytes_max)

    def spoil(self) -> None:
        """Nothing to do: it is offered for as long as it is there."""


class Way(Protocol):
    """The member that sends."""

    @property
    def term(self) -> int: ...
    def send(self, peer: str, body: bytes) -> bool: ...
    def shipment(self, peer: str, sha256: bytes) -> Source | None:
        """The file that this peer is being offered, if that is it."""
        ...


class Shipping:
    """Answers FileWanted; at most one window a peer is under way."""

    def __init__(self, way: Way, *, run: Run, spawn: Spawn) -> None:
        self._way, self._run, self._spawn = way, run, spawn
        self._busy: set[str] = set()

    def wanted(self, peer: str, frame: wire.FileWanted) -> None:
        shipment = self._way.shipment(peer, frame.sha256)
        if shipment is not None and peer not in self._busy:
            self._busy.add(peer)
            _ = self._spawn(self._ship(peer, shipment, frame.offset))

    async def _ship(self, peer: str, shipment: Source, offset: int) -> None:
        try:
            data: bytes = await self._run(shipment.read, offset, WINDOW_BYTES)
        except (OSError, Corrupt) as error:
            _log.warning("a snapshot cannot be read and is made anew: %s", type(error).__name__)
            await self._run(shipment.spoil)
            return
        finally:
            self._busy.discard(peer)
        for at in range(0, len(data), PIECE_BYTES):
            piece = wire.FilePiece(self._way.term, shipment.sha256, offset + at, data[at : at + PIECE_BYTES])
            if not self._way.send(peer, wire.encode(piece)):
                return
