"""What a follower behind the log is sent: taking a snapshot, cutting it into chunks, receiving it whole.

The file is the state machine's and opaque here (storage has encrypted it). A file counts only once its
`.meta` is there, which is written last: a crash at any moment leaves the old snapshot, the new one, or
none, never half.

Installation: file durable (Receiver) -> journal.reset(base) durable -> machine.restore(path) ->
done_install(). At start, a journal whose base is above machine.applied_index, with a pending install at or
above that base, means: finish the restore.
"""

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgpack

from consensus import files
from consensus.api import Member, StateMachine
from consensus.errors import ConsensusError, Corrupt
from consensus.records import encode_members, invariant, members_of, unpack_strict

CHUNK_BYTES = 256 << 10
SNAPSHOT_BYTES_MAX = 8 << 30
META_BYTES_MAX = 64 << 10

_FORMAT = 1
_INDEX_MAX = (1 << 63) - 1
_OUTGOING, _INCOMING, _RECEIVING = "outgoing", "incoming", "receiving"

MembersAt = Callable[[int], tuple[int, tuple[Member, ...]]]


class SnapshotRefused(ConsensusError):
    """The chunk does not follow what was received, or exceeds a limit; begin again at offset 0."""


@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """What identifies a snapshot: the last index in it, that entry's term, and the configuration at it."""

    index: int
    term: int
    members: tuple[Member, ...]
    size_bytes: int
    sha256: bytes

    def encode(self) -> bytes:
        invariant(len(self.sha256) == hashlib.sha256().digest_size, "sha256 is 32 bytes")
        members = unpack_strict(encode_members(self.members))
        packed: bytes = msgpack.packb([_FORMAT, self.index, self.term, members, self.size_bytes, self.sha256])
        return packed

    @classmethod
    def decode(cls, packed: bytes) -> Self:
        """The inverse of encode(), and nothing else. Raises ValueError."""
        if len(packed) > META_BYTES_MAX:
            raise ValueError("snapshot meta: too large")
        match unpack_strict(packed):
            case [int(form), int(index), int(term), list() as members, int(size), bytes(digest)] if (
                form == _FORMAT
                and all(type(n) is int and 0 <= n <= _INDEX_MAX for n in (index, term, size))
                and len(digest) == hashlib.sha256().digest_size
            ):
                return cls(index, term, members_of(members), size, digest)
        raise ValueError("snapshot meta: not the expected fields")


class SnapshotFiles:
    """The directory of snapshots: at most one to send, one being received, one to install."""

    def __init__(
        self, directory: Path, machine: StateMachine, *, size_bytes_max: int = SNAPSHOT_BYTES_MAX
    ) -> None:
        files.make_private_dir(directory)
        self._directory, self._machine, self._size_bytes_max = directory, machine, size_bytes_max
        self._taking = threading.Lock()
        self._outgoing = self._load(_OUTGOING)
        self._incoming = self._load(_INCOMING)
        self._sweep()

    @property
    def outgoing(self) -> SnapshotMeta | None:
        """The snapshot that open_sender() sends, if one is kept."""
        return self._outgoing

    def take(self, term_and_members_at: MembersAt) -> SnapshotMeta:
        """Blocking, in a worker thread: a new snapshot of the machine replaces the one kept for sending.

        `term_and_members_at(index)` is called in that thread, with the index that the machine's copy has.
        """
        with self._taking:
            tmp = self._directory / (_OUTGOING + files.TMP_SUFFIX)
            files.remove(tmp)
            index = self._machine.snapshot(tmp)
            term, members = term_and_members_at(index)
            tmp.chmod(files.PRIVATE_FILE_MODE)
            size_bytes, digest = _sync_and_hash(tmp)
            if size_bytes > self._size_bytes_max:
                files.remove(tmp)
                raise SnapshotRefused(f"a snapshot of {size_bytes} bytes is over {self._size_bytes_max}")
            meta = SnapshotMeta(index, term, members, size_bytes, digest)
            self._commit(_OUTGOING, tmp, meta)
            self._outgoing = meta
            return meta

    def open_sender(self) -> "Sender | None":
        """One transfer of the kept snapshot; it goes on unharmed when take() replaces that. Close it."""
        with self._taking:
            if self._outgoing is None:
                return None
            return Sender(files.open_file(self._data_path(_OUTGOING, self._outgoing)), self._outgoing)

    def receiver(self) -> "Receiver":
        """The one receiving end; what another one had begun is overwritten."""
        return Receiver(
            self._directory / (_RECEIVING + files.TMP_SUFFIX), self._size_bytes_max, self._arrived
        )

    def pending_install(self) -> tuple[Path, SnapshotMeta] | None:
        """A received snapshot that done_install() has not closed. Blocking: hashes it again.

        Raises Corrupt if it is not what was received.
        """
        if self._incoming is None:
            return None
        path = self._data_path(_INCOMING, self._incoming)
        try:
            if _sync_and_hash(path) == (self._incoming.size_bytes, self._incoming.sha256):
                return path, self._incoming
        except FileNotFoundError:
            pass
        raise Corrupt("the snapshot that was received for installation is missing or damaged")

    def done_install(self) -> None:
        """The machine holds it: forget the received snapshot."""
        if self._incoming is not None:
            files.remove(self._meta_path(_INCOMING))
            files.remove(self._data_path(_INCOMING, self._incoming))
            self._incoming = None

    def _arrived(self, tmp: Path, meta: SnapshotMeta) -> Path:
        self._commit(_INCOMING, tmp, meta)
        self._incoming = meta
        return self._data_path(_INCOMING, meta)

    def _commit(self, role: str, tmp: Path, meta: SnapshotMeta) -> None:
        """`tmp` is durable; from the moment that its meta is, it is the snapshot in that role."""
        files.rename(tmp, self._data_path(role, meta))
        files.write_atomic(self._meta_path(role), meta.encode())
        for path in self._directory.glob(f"{role}-*.snap"):
            if path != self._data_path(role, meta):
                path.unlink()

    def _load(self, role: str) -> SnapshotMeta | None:
        try:
            return SnapshotMeta.decode(files.read_file(self._meta_path(role)))
        except FileNotFoundError:
            return None
        except ValueError:
            raise Corrupt(f"the description of the {role} snapshot cannot be read") from None

    def _sweep(self) -> None:
        """Remove all that a crash left without a meta, and an outgoing meta without its file (take again)."""
        if self._outgoing is not None and not self._data_path(_OUTGOING, self._outgoing).exists():
            self._outgoing = None
        keep = set()
        for role, meta in ((_OUTGOING, self._outgoing), (_INCOMING, self._incoming)):
            if meta is not None:
                keep |= {self._meta_path(role), self._data_path(role, meta)}
        for path in self._directory.iterdir():
            if path not in keep:
                path.unlink()

    def _meta_path(self, role: str) -> Path:
        return self._directory / f"{role}.meta"

    def _data_path(self, role: str, meta: SnapshotMeta) -> Path:
        return self._directory / f"{role}-{meta.index:016x}-{meta.sha256.hex()[:16]}.snap"


class Sender:
    """Reads one snapshot from its start to its end. One per peer and attempt."""

    def __init__(self, fd: int, meta: SnapshotMeta) -> None:
        self._fd, self.meta, self._offset, self._ended = fd, meta, 0, False

    def next_chunk(self) -> tuple[SnapshotMeta, int, bytes, bool]:
        """(meta, offset, at most CHUNK_BYTES, whether it is the last). Do not call it again after the last.

        Raises Corrupt if the file has become shorter than it was.
        """
        invariant(not self._ended, "the snapshot was sent to its end, or the sender was closed")
        want = min(CHUNK_BYTES, self.meta.size_bytes - self._offset)
        data = os.pread(self._fd, want, self._offset)
        if len(data) != want:
            raise Corrupt("a snapshot is shorter than it was when it was taken")
        offset, self._offset = self._offset, self._offset + len(data)
        self._ended = self._offset == self.meta.size_bytes
        return self.meta, offset, data, self._ended

    def close(self) -> None:
        """Release the file; also how a transfer is cancelled. May be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self._ended = -1, True


class Receiver:
    """Puts one snapshot together, in order. One call at a time, and none while an install is going on."""

    def __init__(self, tmp: Path, size_bytes_max: int, arrived: Callable[[Path, SnapshotMeta], Path]) -> None:
        self._tmp, self._size_bytes_max, self._arrived = tmp, size_bytes_max, arrived
        self._fd = -1
        self._meta: SnapshotMeta | None = None
        self._offset = 0
        self._hash = hashlib.sha256()

    def accept(self, meta: SnapshotMeta, offset: int, data: bytes, last: bool) -> Path | None:
        """The path when this was the last chunk, size and hash are right, and it is durable; else None.

        Offset 0 begins a transfer and drops an unfinished one. Blocking (the last chunk syncs the file):
        call it in a worker thread. Raises SnapshotRefused, and forgets the transfer, for a chunk that does
        not follow.
        """
        try:
            self._check(meta, offset, data, last)
            if offset == 0:
                self._begin(meta)
            files.write_at(self._fd, data, offset)
        except BaseException:
            self.cancel()
            raise
        self._hash.update(data)
        self._offset += len(data)
        return self._complete(meta) if last else None

    def cancel(self) -> None:
        """Forget the unfinished transfer, if any."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._tmp.unlink(missing_ok=True)
        self._meta = None

    def _check(self, meta: SnapshotMeta, offset: int, data: bytes, last: bool) -> None:
        if meta.size_bytes > self._size_bytes_max:
            raise SnapshotRefused(f"a snapshot of {meta.size_bytes} bytes is over {self._size_bytes_max}")
        if offset != 0 and (meta != self._meta or offset != self._offset):
            raise SnapshotRefused(f"a chunk at {offset} does not follow what was received")
        if len(data) > CHUNK_BYTES or (not data and not last):
            raise SnapshotRefused("a chunk is empty or over CHUNK_BYTES")
        end = offset + len(data)
        if end > meta.size_bytes or last != (end == meta.size_bytes):
            raise SnapshotRefused("a chunk contradicts the snapshot's size")

    def _begin(self, meta: SnapshotMeta) -> None:
        self.cancel()
        self._fd = files.create_file(self._tmp)
        self._meta, self._offset, self._hash = meta, 0, hashlib.sha256()

    def _complete(self, meta: SnapshotMeta) -> Path:
        if self._hash.digest() != meta.sha256:
            self.cancel()
            raise SnapshotRefused("the received snapshot is not the one that was announced")
        files.sync_file(self._fd)
        os.close(self._fd)
        self._fd, self._meta = -1, None
        return self._arrived(self._tmp, meta)


def _sync_and_hash(path: Path) -> tuple[int, bytes]:
    """Make the file durable; its size in bytes and SHA-256."""
    with open(files.open_file(path), "rb") as file:
        files.sync_file(file.fileno())
        digest = hashlib.file_digest(file, "sha256").digest()
        return file.tell(), digest
