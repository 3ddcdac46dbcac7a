"""What an unplugged machine may keep: everything that was synced, and of the rest anything at all.

A process that is killed loses nothing that it wrote, because the kernel still has it. To rehearse a power
cut, the bytes that were written and never synced must be taken away by hand. A node that runs with
DURABLE_FILE_VARIABLE in its environment says which these are: after each fdatasync of its journal, and
before anything that was waiting for it is acknowledged, it overwrites the first bytes of that file with
`<segment file name> <offset>\n`.

The database needs no such help: in SQLite's WAL everything up to the last attempted checkpoint was synced
before that checkpoint began (https://sqlite.org/walformat.html), and with synchronous=NORMAL nothing after
it was.
"""

import enum
import os
import random
import struct
from dataclasses import dataclass
from pathlib import Path

from consensus.recovery import HEAD_NAME, encode_head

DURABLE_FILE_VARIABLE = "STRONGROOM_CHAOS_DURABLE_FILE"
DURABLE_RECORD_BYTES_MAX = 256
SECTOR_BYTES = 512

_SEGMENT_SUFFIX = ".wal"
_WAL_HEADER_BYTES = 32
_WAL_FRAME_HEADER_BYTES = 24
_WAL_PAGE_SIZE = struct.Struct(">I")  # at byte 8 of the WAL
_WAL_PAGE_SIZE_OFFSET = 8
_SHM_BACKFILL_ATTEMPTED = struct.Struct("=I")  # at byte 128 of the WAL index, in the machine's byte order
_SHM_BACKFILL_ATTEMPTED_OFFSET = 128


class Loss(enum.StrEnum):
    """What becomes of the bytes that were not synced."""

    ZEROED = "zeroed"
    TORN = "torn"  # a part survives, then garbage
    HOLES = "holes"  # some sectors survive
    GARBAGE = "garbage"
    CUT = "cut"  # a part survives and the file ends there


@dataclass(frozen=True, slots=True)
class Durable:
    """How far a journal is synced: all segments before this one, and this one up to `offset` bytes."""

    segment: str
    offset: int


@dataclass(frozen=True, slots=True)
class Lost:
    """What a power cut took: `bytes` that had been written and not synced, and what is there instead."""

    place: str
    how: str
    bytes: int

    def __str__(self) -> str:
        return f"{self.place} {self.how} ({self.bytes} bytes)"


def read_durable(path: Path) -> Durable | None:
    """What a node last published; None before its first sync. ValueError if the record is malformed."""
    try:
        record = path.read_bytes()[:DURABLE_RECORD_BYTES_MAX]
    except FileNotFoundError:
        return None
    line, end, _ = record.partition(b"\n")
    if not record.strip(b"\0 "):
        return None
    name, _, offset = line.decode("ascii").partition(" ")
    if not end or not name.endswith(_SEGMENT_SUFFIX) or "/" in name:
        raise ValueError(f"{path} is not a durability record")
    return Durable(name, int(offset))


def has_unsynced(journal: Path, durable: Durable) -> bool:
    """Whether the journal's last segment goes on behind what was published."""
    path = journal / durable.segment
    if not path.exists():
        return False
    with path.open("rb") as file:
        file.seek(durable.offset)
        return any(file.read(SECTOR_BYTES))


def lose_journal_tail(journal: Path, durable: Durable, rng: random.Random) -> Lost:
    """Destroy what the journal in this directory had not synced. The node must be dead.

    A segment newer than the published one was synced before it got its name. The name may or may not have been
    synced too: if HEAD tells of it, it was, and nothing before it can be lost.
    """
    path = journal / durable.segment
    for newer in journal.glob(f"*{_SEGMENT_SUFFIX}"):
        if newer.name > durable.segment:
            if (journal / HEAD_NAME).read_bytes() == encode_head(int(newer.stem, 16)):
                return Lost("journal", "just rotated", 0)
            newer.unlink()
    with path.open("r+b") as file:
        file.seek(durable.offset)
        tail = file.read()
        written = len(tail.rstrip(b"\0"))
        if not written:
            return Lost("journal", "all synced", 0)
        how = rng.choice(list(Loss))
        left = lost_tail(tail, written, how, rng)
        file.seek(durable.offset)
        file.write(left)
        if how is Loss.CUT:
            file.truncate(durable.offset + len(left))
    return Lost("journal", how.value, written)


def lost_tail(tail: bytes, written: int, how: Loss, rng: random.Random) -> bytes:
    """What is left of `tail`, of which the first `written` bytes were written and not synced. Pure.

    Where nothing was ever written there are zeros before and after, and at least one written byte changes.
    """
    survives = rng.randrange(written)
    untouched = tail[written:]
    match how:
        case Loss.ZEROED:
            return bytes(len(tail))
        case Loss.CUT:
            return tail[:survives]
        case Loss.TORN:
            return tail[:survives] + _garbage(tail[survives:written], rng) + untouched
        case Loss.GARBAGE:
            return _garbage(tail[:written], rng) + untouched
        case Loss.HOLES:
            sectors = bytearray(tail[:written])
            starts = list(range(0, written, SECTOR_BYTES))
            for start in rng.sample(starts, rng.randint(1, len(starts))):
                end = min(start + SECTOR_BYTES, written)
                sectors[start:end] = bytes(end - start)
            return bytes(sectors) + untouched


def _garbage(original: bytes, rng: random.Random) -> bytes:
    """Random bytes, as many, of which the first differs."""
    return bytes([original[0] ^ rng.randint(1, 255)]) + rng.randbytes(len(original) - 1)


def lose_database_tail(database: Path, rng: random.Random) -> Lost:
    """Cut the database's WAL at any byte after the last attempted checkpoint.

    The node must be dead. The journal replays what is missing. Nothing happens if there is no WAL on disk.
    """
    wal = database.with_name(database.name + "-wal")
    shm = database.with_name(database.name + "-shm")
    if not wal.exists() or not shm.exists() or wal.stat().st_size <= _WAL_HEADER_BYTES:
        return Lost("database", "without a WAL", 0)
    with wal.open("rb") as file:
        file.seek(_WAL_PAGE_SIZE_OFFSET)
        (page_bytes,) = _WAL_PAGE_SIZE.unpack(file.read(_WAL_PAGE_SIZE.size))
    with shm.open("rb") as file:
        file.seek(_SHM_BACKFILL_ATTEMPTED_OFFSET)
        (synced_frames,) = _SHM_BACKFILL_ATTEMPTED.unpack(file.read(_SHM_BACKFILL_ATTEMPTED.size))
    size = wal.stat().st_size
    synced = _WAL_HEADER_BYTES + synced_frames * (page_bytes + _WAL_FRAME_HEADER_BYTES)
    if synced >= size:
        return Lost("database", "synced", 0)
    cut = rng.randrange(synced, size)
    os.truncate(wal, cut)
    shm.unlink()  # shared memory does not outlive the power
    return Lost("database", "cut", size - cut)
