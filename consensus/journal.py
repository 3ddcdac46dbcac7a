"""The durable Raft log, term and vote: encrypted segments, one frame and one fdatasync a group commit.

One thread owns the journal and queues records (append, set_hard_state, compact, reset). Nothing that they
say may leave the node before `durable_lsn` has reached the `lsn` behind them. Any thread may
write() what the owner took. The commit index is not stored: it is learnt again from the cluster (a stored
one can outrun the log). The entries stay with the owner; the journal keeps only what it needs to delete
old segments.
"""

import errno
import os
import secrets
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import msgspec

from consensus import files
from consensus.api import Cipher, SegmentCipher
from consensus.records import (
    Base,
    Entry,
    HardState,
    encode_base,
    encode_entry,
    encode_hard,
    encode_opening,
    invariant,
)
from consensus.recovery import HEAD_NAME, Recovered, SegmentFile, encode_head, recover, segment_name
from consensus.segments import (
    FRAME_BYTES_MAX,
    FRAME_HEAD_BYTES,
    LIFE_BYTES,
    OWNER_BYTES_MAX,
    SALT_BYTES,
    Header,
    encode_frame,
)
from consensus.spare import Spare

__all__ = ["Base", "Batch", "Entry", "HardState", "Journal", "NoRoom", "Recovered"]

INITIAL = HardState(0, None)
SEGMENT_BYTES = 16 << 20
BATCH_BYTES_MAX = 4 << 20  # of records in one frame; a single larger record goes alone
CIPHER_OVERHEAD_BYTES = 64  # at most: nonce and tag
SPARE_FROM = 0.25  # of a segment: a node that is hardly written to has no use for another one

OnDurable = Callable[[Path, int], None]


class NoRoom(OSError):
    """The disk is full, and nothing was written: the same batch can be written later."""


class _Position(msgspec.Struct, frozen=True):
    """The journal's state behind some record: what a new segment repeats in its first frame."""

    last_index: int
    hard: HardState
    base: Base


class _Queued(msgspec.Struct, frozen=True):
    """One record and the position behind it."""

    encoded: bytes
    position: _Position
    index: int = 0  # of the entry; 0 for any other record
    resets: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Records that were taken together: one frame. Opaque to the owner."""

    ticket: int
    lsn: int
    records: tuple[_Queued, ...]


class Journal:
    """See the module. After an error of the disk every further write raises it again: the owner must stop."""

    def __init__(
        self,
        directory: Path,
        *,
        owner: str,
        cipher: Cipher,
        position: _Position,
        segment_bytes: int,
        on_durable: OnDurable | None,
    ) -> None:
        invariant(0 < len(owner.encode()) <= OWNER_BYTES_MAX, "owner: 1 to OWNER_BYTES_MAX bytes")
        self._directory, self._cipher = directory, cipher
        self._segment_bytes, self._on_durable = segment_bytes, on_durable
        # the owner's side
        self._queue: deque[_Queued] = deque()
        self._queued = position
        self._ticket = 0
        self.lsn = 0
        # between the two: taken and not yet written, oldest first
        self._taken: deque[Batch] = deque()
        # the writer's side, under _io
        self._io = threading.Lock()
        self._failed: BaseException | None = None
        self._written = position
        self._segments: list[SegmentFile] = []
        self._spare = Spare()
        self._fd = -1
        self._header = Header(0, owner, secrets.token_bytes(LIFE_BYTES), b"")  # of the newest segment
        self._sealer: SegmentCipher  # under that segment's key; set when it is opened or begun
        self._begin = self._end = 0
        self._sequence = 1
        self.durable_lsn = 0

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        owner: str,
        cipher: Cipher,
        base: Base,
        hard: HardState = INITIAL,
        segment_bytes: int = SEGMENT_BYTES,
        on_durable: OnDurable | None = None,
    ) -> Self:
        """Begin a journal in `directory`, which must be empty or absent (FileExistsError). Blocking.

        It appears whole or not at all: a crash in between leaves nothing that open() would accept.
        """
        if directory.exists() and any(directory.iterdir()):
            raise FileExistsError(errno.EEXIST, "the directory of a new journal is not empty", str(directory))
        staging = directory.with_name(directory.name + ".creating")
        files.remove_tree(staging)
        files.make_private_dir(staging)
        position = _Position(base.index, hard, base)
        journal = cls(
            staging,
            owner=owner,
            cipher=cipher,
            position=position,
            segment_bytes=segment_bytes,
            on_durable=None,
        )
        journal._begin_segment(1)
        files.rename(staging, directory)
        journal._directory, journal._on_durable = directory, on_durable
        journal._report()
        return journal

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        owner: str,
        cipher: Cipher,
        segment_bytes: int = SEGMENT_BYTES,
        on_durable: OnDurable | None = None,
    ) -> tuple[Self, Recovered]:
        """Read an existing journal back and continue it. Blocking. Raises Corrupt, also if there is none.

        All that it returns is durable, also what a killed process had written and not yet synced.
        """
        recovered, tail = recover(directory, owner=owner, cipher=cipher)
        position = _Position(tail.last_index, recovered.hard, recovered.base)
        journal = cls(
            directory,
            owner=owner,
            cipher=cipher,
            position=position,
            segment_bytes=segment_bytes,
            on_durable=on_durable,
        )
        journal._segments, journal._header = tail.segments, tail.header
        journal._sealer = cipher.segment(tail.header.salt)
        journal._end, journal._sequence = tail.end, tail.sequence
        journal._fd = files.open_file(journal._path(tail.segments[-1].number), writable=True)
        if recovered.torn_bytes or tail.file_bytes < segment_bytes:
            files.cut(journal._fd, keep_bytes=tail.end, size_bytes=segment_bytes)
        else:
            files.sync_file(journal._fd)
        files.write_atomic(directory / HEAD_NAME, encode_head(tail.segments[-1].number))
        files.remove_leftovers(directory)
        journal._report()
        return journal, recovered

    # ---- the owner's side

    def append(self, entry: Entry) -> None:
        """Queue an entry; one at the same or a lower index than before takes back the tail from there on."""
        index, before = entry[1], self._queued
        last_index, hard, base = before.last_index, before.hard, before.base
        if not base.index < index <= last_index + 1:
            invariant(False, f"entry {index} after {last_index}, base {base.index}")
        self._enqueue(_Queued(encode_entry(entry), _Position(index, hard, base), index))

    def set_hard_state(self, hard: HardState) -> None:
        """Queue a term and a vote; follow it with sync() before anybody hears of them."""
        last = self._queued.hard
        if hard == last:
            return
        invariant(hard.term >= last.term, f"the term falls from {last.term} to {hard.term}")
        invariant(hard.term > last.term or last.voted_for is None, f"a second vote in term {hard.term}")
        position = _Position(self._queued.last_index, hard, self._queued.base)
        self._enqueue(_Queued(encode_hard(hard), position))

    def compact(self, base: Base) -> None:
        """Queue a new base, an entry of the log: once it is durable, segments wholly below it are deleted.

        The owner's snapshot up to `base` must be durable already.
        """
        last_index, last = self._queued.last_index, self._queued.base
        invariant(last.index <= base.index <= last_index, f"base {base.index} is outside the log")
        if base.index == last.index:
            return
        self._enqueue(_Queued(encode_base(base), _Position(last_index, self._queued.hard, base)))

    def reset(self, base: Base) -> None:
        """Queue the replacement of the whole log by `base`: no entries are left (a snapshot was received)."""
        invariant(base.index >= self._queued.base.index, f"base {base.index} goes backwards")
        position = _Position(base.index, self._queued.hard, base)
        self._enqueue(_Queued(encode_base(base, reset=True), position, resets=True))

    def _enqueue(self, record: _Queued) -> None:
        self._queue.append(record)
        self._queued = record.position
        self.lsn += 1

    @property
    def dirty(self) -> bool:
        """Something is queued and not yet taken."""
        return bool(self._queue)

    @property
    def queued_bytes(self) -> int:
        """Of the records that are not yet taken."""
        return sum(len(record.encoded) for record in self._queue)

    def take(self) -> Batch:
        """Up to BATCH_BYTES_MAX of what is queued, in order; take again while `dirty`."""
        records: list[_Queued] = []
        size_bytes = 0
        while self._queue and (not records or size_bytes + len(self._queue[0].encoded) <= BATCH_BYTES_MAX):
            record = self._queue.popleft()
            size_bytes += len(record.encoded)
            records.append(record)
        if records:
            self._ticket += 1
        batch = Batch(self._ticket, self.lsn - len(self._queue), tuple(records))
        if records:
            self._taken.append(batch)
        return batch

    def sync(self) -> None:
        """Make everything durable on the calling (owner's) thread: a vote, before it is answered."""
        while self.dirty:
            self.take()
        self.write(Batch(self._ticket, self.lsn, ()))

    def close(self) -> None:
        """Release the file. What is not durable is dropped, as in a crash: call sync() first to keep it."""
        with self._io:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            if self._failed is None:
                self._failed = OSError(errno.EBADF, "the journal is closed")
        self._spare.drop()

    # ---- anybody's side

    @property
    def spare_due(self) -> bool:
        """The present segment is filling up, and the file of the next one is not ready."""
        return not self._spare.ready and self._end > self._segment_bytes * SPARE_FROM

    def prepare_spare(self) -> None:
        """Blocking, any thread but not after close(): a piece of work on that file. Raises OSError: begin again."""
        self._spare.prepare(self._directory, self._segment_bytes)

    # ---- the writer's side

    def write(self, batch: Batch) -> None:
        """Blocking, any thread: `batch` and whatever was taken before it is durable when this returns.

        Whoever holds the lock writes for the others, oldest first, so two threads can neither overtake
        each other nor wait for a batch whose writer was cancelled. An error is final (fsyncgate: a second
        fsync may succeed although the pages of the first are gone), but for NoRoom: call again later.
        """
        with self._io:
            if self._failed is not None:
                raise self._failed
            try:
                while self._taken and self._taken[0].ticket <= batch.ticket:
                    self._make_room(self._taken[0])
                    self._write_frame(self._taken.popleft())
            except NoRoom:
                raise
            except BaseException as error:
                self._failed = error
                raise

    def _make_room(self, batch: Batch) -> None:
        """Another segment, if the present one cannot take the batch. Raises NoRoom: nothing has changed."""
        room = FRAME_HEAD_BYTES + CIPHER_OVERHEAD_BYTES + sum(len(record.encoded) for record in batch.records)
        if self._end > self._begin and self._end + room > self._segment_bytes:
            self._begin_segment(self._segments[-1].number + 1)

    def _write_frame(self, batch: Batch) -> None:
        plaintext = b"".join(record.encoded for record in batch.records)
        frame = self._seal_frame(plaintext)
        files.write_at(self._fd, frame, self._end)
        files.sync_data(self._fd)
        self._end += len(frame)
        self._sequence += 1
        self._written = batch.records[-1].position
        self._note_indexes(batch)
        self.durable_lsn = batch.lsn
        self._report()
        self._delete_compacted()

    def _seal_frame(self, plaintext: bytes) -> bytes:
        payload = self._sealer.encrypt(plaintext, self._header.associated_data(self._sequence))
        invariant(len(payload) <= FRAME_BYTES_MAX, "frame larger than FRAME_BYTES_MAX")
        return encode_frame(number=self._header.number, sequence=self._sequence, payload=payload)

    def _begin_segment(self, number: int) -> None:
        """A new file under a new key. It gets its name only when its first frame is durable."""
        path = self._path(number)
        fd, tmp = self._spare.take() or self._reserve(path.with_name(path.name + files.TMP_SUFFIX))
        self._header = replace(self._header, number=number, salt=secrets.token_bytes(SALT_BYTES))
        self._sealer = self._cipher.segment(self._header.salt)
        opening = encode_opening(self._written.last_index, self._written.hard, self._written.base)
        head = self._header.encode() + self._seal_frame(opening)
        try:
            files.write_at(fd, head, 0)
            files.sync_file(fd)
            files.rename(tmp, path)
            files.write_atomic(self._directory / HEAD_NAME, encode_head(number))
        except BaseException:
            os.close(fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._begin, self._end = fd, len(head), len(head)
        self._sequence += 1
        self._segments.append(SegmentFile(number))
        self._report()

    def _reserve(self, tmp: Path) -> tuple[int, Path]:
        """An open file with room for a segment, and its name. Raises NoRoom."""
        fd = -1
        try:
            fd = files.create_file(tmp)
            files.preallocate(fd, self._segment_bytes)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            tmp.unlink(missing_ok=True)
            raise NoRoom(error.errno, "no room for another segment of the journal") from error
        return fd, tmp

    def _note_indexes(self, batch: Batch) -> None:
        for record in batch.records:
            if record.resets:
                for segment in self._segments:
                    segment.max_index = 0
            self._segments[-1].max_index = max(self._segments[-1].max_index, record.index)

    def _delete_compacted(self) -> None:
        """Oldest first, each durably gone before the next: no crash can leave a hole between two segments."""
        while len(self._segments) > 1 and self._segments[0].max_index <= self._written.base.index:
            files.remove(self._path(self._segments[0].number))
            del self._segments[0]

    def _report(self) -> None:
        if self._on_durable is not None:
            self._on_durable(self._path(self._segments[-1].number), self._end)

    def _path(self, number: int) -> Path:
        return self._directory / segment_name(number)
