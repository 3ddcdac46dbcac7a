"""Reading a journal back: which entries, vote and base its files prove, or why they cannot be trusted."""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from consensus import files
from consensus.api import Cipher
from consensus.errors import Corrupt
from consensus.records import Base, Entry, HardState, Kind, Record, decode_base, decode_hard, decode_records
from consensus.segments import Frames, Header, decode_header, read_frames

HEAD_NAME = "HEAD"
_SEGMENT_NAME = re.compile(r"([0-9a-f]{16})\.wal")


@dataclass(frozen=True, slots=True)
class Recovered:
    """What the journal remembers. `entries` follow the base; `torn_bytes` were cut off its end."""

    base: Base
    entries: list[Entry]
    hard: HardState
    torn_bytes: int


@dataclass(slots=True)
class SegmentFile:
    """One file of the journal, and the highest index that any of its entries has."""

    number: int
    max_index: int = 0


@dataclass(frozen=True, slots=True)
class Tail:
    """Where writing goes on: behind `end` of the last segment, with the next frame's sequence."""

    segments: list[SegmentFile]
    header: Header
    end: int
    file_bytes: int
    sequence: int
    last_index: int


def segment_name(number: int) -> str:
    return f"{number:016x}.wal"


def encode_head(number: int) -> bytes:
    """The content of HEAD: the newest segment's number, so that a vanished one is noticed."""
    text = b"%016x" % number
    return b"%s %08x\n" % (text, zlib.crc32(text))


def recover(directory: Path, *, owner: str, cipher: Cipher) -> tuple[Recovered, Tail]:
    """Read the whole journal. Blocking. Raises Corrupt if it is not what was written, or not there."""
    numbers = _segment_numbers(directory)
    replay = _Replay()
    segments: list[SegmentFile] = []
    sequence: int | None = None
    header: Header | None = None
    data, frames = b"", Frames([], 0, 0)
    for number in numbers:
        data = files.read_file(directory / segment_name(number))
        former, (header, start) = header, decode_header(data, number=number, owner=owner)
        if former is not None and former.life != header.life:
            raise Corrupt(f"journal segment {number} belongs to another journal of this node")
        frames = read_frames(data, start=start, number=number, sequence=sequence)
        if not frames.valid:
            raise Corrupt(f"journal segment {number} has lost its first frame")
        if frames.torn_bytes and number != numbers[-1]:
            raise Corrupt(f"journal segment {number} is damaged, and segment {number + 1} follows it")
        segments.append(SegmentFile(number))
        sequence = frames.valid[-1].sequence + 1
        for position, batch in enumerate(_decrypt(header, frames, cipher)):
            replay.batch(batch, segments, opens=position == 0)
    recovered = replay.finish(frames.torn_bytes)
    if header is None or sequence is None:
        raise Corrupt("the journal has no segment")
    return recovered, Tail(segments, header, frames.end, len(data), sequence, replay.last_index)


def _decrypt(header: Header, frames: Frames, cipher: Cipher) -> Iterator[bytes]:
    decrypt = cipher.segment(header.salt).decrypt
    for frame in frames.valid:
        try:
            yield decrypt(frame.payload, header.associated_data(frame.sequence))
        except ValueError:
            raise Corrupt(
                f"frame {frame.sequence} of the journal was altered, or written under another key"
            ) from None


def _segment_numbers(directory: Path) -> list[int]:
    """The segments' numbers, oldest first, without a gap, and ending where HEAD says."""
    try:
        head = files.read_file(directory / HEAD_NAME)
        names = sorted(path.name for path in directory.glob("*.wal"))
    except FileNotFoundError:
        raise Corrupt(
            "there is no journal here (a node that lost its disk joins again as a new one)"
        ) from None
    matches = [_SEGMENT_NAME.fullmatch(name) for name in names]
    numbers = [int(match[1], 16) for match in matches if match]
    if len(numbers) != len(names) or not numbers:
        raise Corrupt("the journal's directory holds a segment with a foreign name, or none")
    if numbers != list(range(numbers[0], numbers[-1] + 1)):
        raise Corrupt("a segment of the journal is missing between two others")
    # HEAD is written right after a segment: a crash in between leaves it one behind.
    if head not in (encode_head(numbers[-1]), encode_head(numbers[-1] - 1)):
        raise Corrupt("the newest segment of the journal is missing, or HEAD is damaged")
    return numbers


@dataclass(slots=True)
class _Replay:
    """The log as the records tell it.

    Deleted segments leave a hole: the first segment left says how far the log reached before it (last_index),
    and a base must cover everything up to there (`owed_index`), or a segment was lost rather than deleted.
    Invariant: entries are the indexes last_index - len(entries) + 1 to last_index.
    """

    base: Base = field(default_factory=lambda: Base(0, 0, ()))
    hard: HardState = field(default_factory=lambda: HardState(0, None))
    entries: list[Entry] = field(default_factory=list)
    last_index: int = -1
    owed_index: int = 0

    def batch(self, batch: bytes, segments: list[SegmentFile], *, opens: bool) -> None:
        records = list(decode_records(batch))
        if opens:
            self._opening(records)
            return
        for record in records:
            match record.kind:
                case Kind.ENTRY:
                    self._entry((record.body, record.a, record.b))
                    segments[-1].max_index = max(segments[-1].max_index, record.a)
                case Kind.HARD:
                    self._hard(decode_hard(record))
                case Kind.BASE:
                    self._compact(decode_base(record))
                case Kind.RESET:
                    self._reset(decode_base(record))
                    for segment in segments:
                        segment.max_index = 0
                case Kind.OPEN:
                    raise Corrupt("a segment of the journal begins twice")

    def finish(self, torn_bytes: int) -> Recovered:
        if self.owed_index > self.base.index:
            raise Corrupt(f"entries up to {self.owed_index} of the journal are missing")
        return Recovered(self.base, self.entries, self.hard, torn_bytes)

    def _opening(self, records: list[Record]) -> None:
        if [record.kind for record in records] != [Kind.OPEN, Kind.HARD, Kind.BASE]:
            raise Corrupt("a segment of the journal does not begin as one")
        last_index, hard, base = records[0].a, decode_hard(records[1]), decode_base(records[2])
        if self.last_index < 0:
            self.last_index, self.hard, self.base = last_index, hard, base
            self.owed_index = last_index if last_index > base.index else 0
        elif (last_index, hard, base) != (self.last_index, self.hard, self.base):
            raise Corrupt("a segment of the journal does not continue the one before it")

    def _entry(self, entry: Entry) -> None:
        index = entry[1]
        if not self.base.index < index <= self.last_index + 1:
            raise Corrupt(f"entry {index} of the journal follows entry {self.last_index}")
        first_index = self.last_index - len(self.entries) + 1
        del self.entries[max(0, index - first_index) :]
        self.entries.append(entry)
        self.last_index = index

    def _hard(self, hard: HardState) -> None:
        if hard.term < self.hard.term:
            raise Corrupt(f"the term in the journal falls from {self.hard.term} to {hard.term}")
        if hard.term == self.hard.term and self.hard.voted_for not in (None, hard.voted_for):
            raise Corrupt(f"the journal holds two votes in term {hard.term}")
        self.hard = hard

    def _compact(self, base: Base) -> None:
        if not self.base.index <= base.index <= self.last_index:
            raise Corrupt(f"the journal's base {base.index} is outside its log")
        gone = base.index - (self.last_index - len(self.entries))
        if gone > 0 and self.entries[gone - 1][2] != base.term:
            raise Corrupt(f"the journal's base {base.index} contradicts the entry at that index")
        del self.entries[: max(0, gone)]
        self.base = base

    def _reset(self, base: Base) -> None:
        self.entries.clear()
        self.base, self.last_index, self.owed_index = base, base.index, 0
