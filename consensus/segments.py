"""The bytes of a journal file: a header, then frames, then zeros. Pure: no file is touched here.

    header  magic and version 8, segment number u64, life 16, salt 16, owner length u16, owner, crc32 u32
    frame   magic 4, payload length u32, crc32 u32, sequence u64, payload

A payload is one batch of records (records.py), encrypted under the segment's own key with owner, segment
number and sequence as associated data. Frames are numbered without a gap through all segments. The crc
tells damage, and needs no key; the authentication tag tells tampering. One frame is one group commit, and
the next one is written only after this one is durable. So a bad frame before a valid later one was once
whole, and is corruption; a bad frame with nothing valid behind it is a torn tail, which nobody was ever
told of. (A last frame that rots after it was durable cannot be told from a torn one. Every log has that
limit; etcd's too.)
"""

import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

from consensus.errors import Corrupt

LIFE_BYTES = 16
SALT_BYTES = 16
OWNER_BYTES_MAX = 512
FRAME_BYTES_MAX = 16 << 20

_HEADER_MAGIC = b"SRWAL\x00\x00\x01"
_HEADER = struct.Struct(f"<8sQ{LIFE_BYTES}s{SALT_BYTES}sH")
_FRAME_MAGIC = b"\xf5SRF"
_FRAME = struct.Struct("<4sIIQ")
_CRC = struct.Struct("<I")
_CRC_SEED = struct.Struct("<QQI")
_AAD = struct.Struct(f"<QQ{LIFE_BYTES}sH")
FRAME_HEAD_BYTES = _FRAME.size


class Frame(NamedTuple):
    """One group commit, still encrypted."""

    sequence: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Frames:
    """What a segment holds: `end` is the offset behind its last valid frame, `torn_bytes` what lies there."""

    valid: list[Frame]
    end: int
    torn_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a segment says of itself. `life` is random and common to all segments of one journal."""

    number: int
    owner: str
    life: bytes
    salt: bytes

    def encode(self) -> bytes:
        name = self.owner.encode()
        head = _HEADER.pack(_HEADER_MAGIC, self.number, self.life, self.salt, len(name)) + name
        return head + _CRC.pack(zlib.crc32(head))

    def associated_data(self, sequence: int) -> bytes:
        """What a frame is bound to: it decrypts nowhere else, nor in another journal of the same owner."""
        name = self.owner.encode()
        return b"strongroom journal frame v1" + _AAD.pack(self.number, sequence, self.life, len(name)) + name


def decode_header(data: bytes, *, number: int, owner: str) -> tuple[Header, int]:
    """The header, and the offset of the first frame. Raises Corrupt if it is damaged or somebody else's."""
    if len(data) < _HEADER.size:
        raise Corrupt(f"journal segment {number} has no header")
    magic, stored_number, life, salt, owner_bytes = _HEADER.unpack_from(data)
    end = _HEADER.size + owner_bytes
    if magic != _HEADER_MAGIC or owner_bytes > OWNER_BYTES_MAX or len(data) < end + _CRC.size:
        raise Corrupt(f"the header of journal segment {number} is damaged, or of another format")
    if _CRC.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
        raise Corrupt(f"the header of journal segment {number} is damaged")
    if stored_number != number:
        raise Corrupt(f"journal segment {number} is a copy of segment {stored_number}")
    if data[_HEADER.size : end] != owner.encode():
        raise Corrupt(f"journal segment {number} belongs to another node or cluster")
    return Header(number, owner, life, salt), end + _CRC.size


def encode_frame(*, number: int, sequence: int, payload: bytes) -> bytes:
    crc = _frame_crc(number, sequence, payload)
    return _FRAME.pack(_FRAME_MAGIC, len(payload), crc, sequence) + payload


def read_frames(data: bytes, *, start: int, number: int, sequence: int | None) -> Frames:
    """The valid frames from offset `start`, the first of them with `sequence` (None: whatever it says).

    Raises Corrupt when a valid later frame lies behind a bad one.
    """
    valid: list[Frame] = []
    at = start
    expected = sequence
    while (frame := _frame_at(data, at, number)) is not None:
        if expected is not None and frame.sequence != expected:
            break
        valid.append(frame)
        at += FRAME_HEAD_BYTES + len(frame.payload)
        expected = frame.sequence + 1
    torn_bytes = len(data[at:].rstrip(b"\0"))
    if torn_bytes:
        _refuse_later_frame(data, at, number, expected or 0)
    return Frames(valid, at, torn_bytes)


def _refuse_later_frame(data: bytes, start: int, number: int, expected: int) -> None:
    at = data.find(_FRAME_MAGIC, start)
    while at >= 0:
        frame = _frame_at(data, at, number)
        if frame is not None and frame.sequence >= expected:
            raise Corrupt(
                f"journal segment {number}: frame {expected} at offset {start} is damaged, "
                f"and frame {frame.sequence} behind it is whole"
            )
        at = data.find(_FRAME_MAGIC, at + 1)


def _frame_at(data: bytes, at: int, number: int) -> Frame | None:
    if at + FRAME_HEAD_BYTES > len(data):
        return None
    magic, length, crc, sequence = _FRAME.unpack_from(data, at)
    begin = at + FRAME_HEAD_BYTES
    if magic != _FRAME_MAGIC or length > FRAME_BYTES_MAX or begin + length > len(data):
        return None
    payload = data[begin : begin + length]
    return Frame(sequence, payload) if _frame_crc(number, sequence, payload) == crc else None


def _frame_crc(number: int, sequence: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_CRC_SEED.pack(number, sequence, len(payload))))
