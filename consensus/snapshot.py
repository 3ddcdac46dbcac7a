"""What a follower behind the log is sent, as files: taken here, received there, whole or not at all.

The content is the state machine's and opaque here (storage has encrypted it). A file counts only once its
`.meta` is there, which is written last: a crash at any moment leaves the old snapshot, the new one, or
none, never half. What has arrived of a file stays on disk under its digest, so that a transfer goes on where a
lost link or a restart stopped it; the digest of the whole decides in the end.

Installation: file durable (arrived) -> machine.stage(path) -> journal.reset(base) durable ->
machine.restore(path) -> done_install(). At start, a journal whose base is above machine.applied_index, with
a pending install at or above that base, means: finish the restore.
"""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgpack

from consensus import files
from consensus.api import Member, StateMachine
from consensus.errors import ConsensusError, Corrupt
from consensus.records import encode_members, invariant, members_of, unpack_strict

SNAPSHOT_BYTES_MAX = 8 << 30
META_BYTES_MAX = 64 << 10

_FORMAT = 1
_INDEX_MAX = (1 << 63) - 1
_OUTGOING, _INCOMING = "outgoing", "incoming"
_HELD = "held-*.snap"
_RECEIVING, _HOLDING = "receiving", "holding"

MembersAt = Callable[[int], tuple[int, tuple[Member, ...]]]


class SnapshotRefused(ConsensusError):
    """The file exceeds a limit, or is not what was announced: what was received of it is gone."""


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

    def discard_outgoing(self, meta: SnapshotMeta) -> None:
        """The kept snapshot is no good (any more): the next one who needs one gets a new one."""
        with self._taking:
            if self._outgoing == meta:
                files.remove(self._meta_path(_OUTGOING))
                files.remove(self._data_path(_OUTGOING, meta))
                self._outgoing = None

    def receiver(self) -> "Receiver":
        """The one receiving end of snapshots."""
        return Receiver(self._directory, self._size_bytes_max)

    def tidy(self, *, sending: bool, held: Collection[bytes], age_s: float) -> None:
        """Blocking: remove what nobody has touched for so long and nobody needs. A copy of the state outlives what is
        destroyed in the state, so it must not stay because it was of use once.
        """
        limit = time.time() - age_s
        kept = self._outgoing
        if kept is not None and not sending and _modified(self._data_path(_OUTGOING, kept)) < limit:
            self.discard_outgoing(kept)
        needed = {self.held_path(sha256) for sha256 in held}
        for pattern in (_HELD, f"{_RECEIVING}-*.part", f"{_HOLDING}-*.part"):
            for path in self._directory.glob(pattern):
                if path not in needed and _modified(path) < limit:
                    path.unlink(missing_ok=True)

    # ---- files that the log names (restoring.py): held until they are restored

    def holder(self) -> "Receiver":
        """The one receiving end of files to hold."""
        return Receiver(self._directory, self._size_bytes_max, _HOLDING)

    def hold(self, part: Path, sha256: bytes) -> Path:
        """Blocking: what holder().finish() gave is held from now on, also after a crash."""
        path = self.held_path(sha256)
        files.rename(part, path)
        return path

    def hold_copy(self, source: Path) -> tuple[int, bytes]:
        """Blocking: hold a copy of any file. Returns its size in bytes and its digest. Raises SnapshotRefused."""
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            size_bytes = file.tell()
            holder = self.holder()
            at = holder.begin(size_bytes, digest)
            file.seek(at)
            while data := file.read(files.READ_BYTES):
                holder.write(at, data)
                at += len(data)
        self.hold(holder.finish(), digest)
        return size_bytes, digest

    def held(self, sha256: bytes) -> bool:
        return self.held_path(sha256).exists()

    def keep(self, sha256: bytes) -> None:
        """What is held counts as new from now on, for tidy(); nothing if it has gone meanwhile."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.held_path(sha256))

    def held_path(self, sha256: bytes) -> Path:
        return self._directory / f"held-{sha256.hex()}.snap"

    def open_held(self, sha256: bytes, size_bytes: int) -> "Sender":
        """Sends a held file. Raises FileNotFoundError."""
        return Sender(files.open_file(self.held_path(sha256)), SnapshotMeta(0, 0, (), size_bytes, sha256))

    def release(self, sha256: bytes) -> None:
        """Forget one held file."""
        self.held_path(sha256).unlink(missing_ok=True)

    def arrived(self, part: Path, meta: SnapshotMeta) -> Path:
        """Blocking: what Receiver.finish() gave is the snapshot to install from now on. Returns its path."""
        self._commit(_INCOMING, part, meta)
        self._incoming = meta
        return self._data_path(_INCOMING, meta)

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
        """Remove all that a crash left without a meta, and an outgoing meta without its file (take again).

        One unfinished file stays: its transfer may go on.
        """
        if self._outgoing is not None and not self._data_path(_OUTGOING, self._outgoing).exists():
            self._outgoing = None
        keep = {*sorted(self._directory.glob(f"{_RECEIVING}-*.part"))[:1], *self._directory.glob(_HELD)}
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
    """Reads one snapshot anywhere. read() in one thread at a time; close() in any."""

    def __init__(self, fd: int, meta: SnapshotMeta) -> None:
        self._fd, self.meta = fd, meta
        self._lock = threading.Lock()
        self._reading = self._closed = False

    def read(self, offset: int, bytes_max: int) -> bytes:
        """Blocking: what stands at `offset`; b"" once the sender was closed.

        Raises Corrupt if the file has become shorter than it was.
        """
        if not self._enter():
            return b""
        try:
            want = max(0, min(bytes_max, self.meta.size_bytes - offset))
            data = os.pread(self._fd, want, offset)
            if len(data) != want:
                raise Corrupt("a snapshot is shorter than it was when it was taken")
            return data
        finally:
            self._leave()

    def _enter(self) -> bool:
        with self._lock:
            self._reading = not self._closed
            return self._reading

    def _leave(self) -> None:
        with self._lock:
            self._reading = False
            if self._closed:
                os.close(self._fd)

    def close(self) -> None:
        """Release the file, without waiting for a read; also how a transfer is cancelled. May be called again."""
        with self._lock:
            if not self._closed and not self._reading:
                os.close(self._fd)
            self._closed = True


class Receiver:
    """Puts one file together, in order. Blocking: one call at a time, all in one worker thread."""

    def __init__(self, directory: Path, size_bytes_max: int, name: str = _RECEIVING) -> None:
        self._directory, self._size_bytes_max, self._name = directory, size_bytes_max, name
        self._part: Path | None = None
        self._fd = -1
        self._size_bytes = self._offset = 0
        self._sha256 = b""
        self._hash = hashlib.sha256()

    def begin(self, size_bytes: int, sha256: bytes) -> int:
        """How many bytes of that file are here already. Another file's beginning is dropped.

        Raises SnapshotRefused for a file over the limit.
        """
        if size_bytes > self._size_bytes_max:
            raise SnapshotRefused(f"a file of {size_bytes} bytes is over {self._size_bytes_max}")
        part = self._directory / f"{self._name}-{sha256.hex()}.part"
        if self._part != part or self._fd < 0:
            self._close()
            for other in self._directory.glob(f"{self._name}-*.part"):
                if other != part:
                    other.unlink()
            self._part, self._size_bytes, self._sha256 = part, size_bytes, sha256
            self._open(part)
        return self._offset

    def write(self, offset: int, data: bytes) -> None:
        """Append what stands at `offset`. Raises SnapshotRefused if it does not follow what is here."""
        invariant(self._fd >= 0, "begin() comes first")
        if offset != self._offset or offset + len(data) > self._size_bytes:
            raise SnapshotRefused(f"a piece at {offset} does not follow what was received")
        files.write_at(self._fd, data, offset)
        self._hash.update(data)
        self._offset += len(data)

    def finish(self) -> Path:
        """The whole file, verified and durable. Raises SnapshotRefused, and drops it, if it is another one."""
        if self._offset != self._size_bytes or self._hash.digest() != self._sha256:
            self.drop()
            raise SnapshotRefused("the received file is not the one that was announced")
        files.sync_file(self._fd)
        part = self._part
        self._close()
        if part is None:
            raise AssertionError("begin() comes first")
        return part

    def drop(self) -> None:
        """Forget what has arrived."""
        part = self._part
        self._close()
        if part is not None:
            part.unlink(missing_ok=True)

    def _open(self, part: Path) -> None:
        """Go on with what is there, or anew. What a power cut spoiled is found out at the end."""
        try:
            self._fd = files.open_file(part, writable=True)
        except FileNotFoundError:
            self._fd = files.create_file(part)
        self._hash, self._offset = hashlib.sha256(), 0
        while data := os.pread(self._fd, files.READ_BYTES, self._offset):
            self._hash.update(data)
            self._offset += len(data)
        if self._offset > self._size_bytes:
            os.ftruncate(self._fd, 0)
            self._hash, self._offset = hashlib.sha256(), 0

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._part, self._offset = -1, None, 0


def _modified(path: Path) -> float:
    """Seconds since 1970; a file that is gone is as old as can be."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _sync_and_hash(path: Path) -> tuple[int, bytes]:
    """Make the file durable; its size in bytes and SHA-256."""
    with open(files.open_file(path), "rb") as file:
        files.sync_file(file.fileno())
        digest = hashlib.file_digest(file, "sha256").digest()
        return file.tell(), digest
