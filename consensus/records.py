"""What the journal says, as values and as bytes. Pure: no file is touched here.

A record is `kind u8, a u64, b u64, length u32` (little endian) and `length` bytes of body:

    ENTRY  a = index, b = term    body = the entry's payload, opaque
    HARD   a = term,  b = 0       body = the id voted for in that term, empty for nobody
    BASE   a = index, b = term    body = the members, msgpack; entries up to the index are compacted away
    RESET  as BASE                the log is replaced: after this record it has no entries
    OPEN   a = last index, b = 0  how far the log reached when a segment began; first record of each segment

A batch of records is one frame (segments.py). An ENTRY at index i takes back every entry at i and above that
came before it, so truncation writes nothing of its own.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack

from consensus.api import Member
from consensus.errors import Corrupt

MEMBERS_MAX = 64
NODE_ID_BYTES_MAX = 255
ADDRESS_BYTES_MAX = 512
ENTRY_BYTES_MAX = 2 << 20  # a command, its envelope and room to spare

Entry = tuple[bytes, int, int]  # payload, index, term: the order that pysyncobj uses

_HEAD = struct.Struct("<BQQI")
HEAD_BYTES = _HEAD.size


@dataclass(frozen=True, slots=True)
class Base:
    """The last entry that was compacted away, and the configuration in force at it."""

    index: int
    term: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class HardState:
    """What Raft must never forget: the newest term, and the vote in it. Raft paper, figure 2."""

    term: int
    voted_for: str | None


class Kind(IntEnum):
    """The first byte of a record."""

    ENTRY = 1
    HARD = 2
    BASE = 3
    RESET = 4
    OPEN = 5


class Record(NamedTuple):
    """One decoded record; what a, b and body mean depends on the kind."""

    kind: Kind
    a: int
    b: int
    body: bytes


def invariant(holds: bool, message: str) -> None:
    """Crash on a programmer's error (a plain assert would vanish under -O)."""
    if not holds:
        raise AssertionError(message)


def encode_entry(entry: Entry) -> bytes:
    payload, index, term = entry
    invariant(len(payload) <= ENTRY_BYTES_MAX, "entry larger than ENTRY_BYTES_MAX")
    return _HEAD.pack(Kind.ENTRY, index, term, len(payload)) + payload


def encode_hard(hard: HardState) -> bytes:
    invariant(hard.voted_for != "", "an empty id is not a vote")
    vote = (hard.voted_for or "").encode()
    return _HEAD.pack(Kind.HARD, hard.term, 0, len(vote)) + vote


def encode_base(base: Base, *, reset: bool = False) -> bytes:
    body = encode_members(base.members)
    return _HEAD.pack(Kind.RESET if reset else Kind.BASE, base.index, base.term, len(body)) + body


def encode_opening(last_index: int, hard: HardState, base: Base) -> bytes:
    """The first frame of a segment: all that is needed to forget the segments before it."""
    return _HEAD.pack(Kind.OPEN, last_index, 0, 0) + encode_hard(hard) + encode_base(base)


def decode_records(batch: bytes) -> Iterator[Record]:
    """The records of one frame, in order. Raises Corrupt at the first one that is not whole or not known."""
    at = 0
    while at < len(batch):
        if at + HEAD_BYTES > len(batch):
            raise Corrupt("a record of the journal is cut short")
        kind, a, b, length = _HEAD.unpack_from(batch, at)
        at += HEAD_BYTES
        if at + length > len(batch):
            raise Corrupt("a record of the journal is cut short")
        try:
            known = Kind(kind)
        except ValueError:
            raise Corrupt(f"record kind {kind} of the journal is unknown") from None
        yield Record(known, a, b, batch[at : at + length])
        at += length


def decode_hard(record: Record) -> HardState:
    try:
        return HardState(record.a, record.body.decode() or None)
    except UnicodeDecodeError:
        raise Corrupt("the vote in the journal cannot be read") from None


def decode_base(record: Record) -> Base:
    try:
        return Base(record.a, record.b, decode_members(record.body))
    except ValueError:
        raise Corrupt("the members in the journal cannot be read") from None


def encode_members(members: Sequence[Member]) -> bytes:
    invariant(len(members) <= MEMBERS_MAX, "more than MEMBERS_MAX members")
    packed: bytes = msgpack.packb([[member.id, member.address] for member in members])
    return packed


def decode_members(packed: bytes) -> tuple[Member, ...]:
    """The inverse of encode_members(), and nothing else. Raises ValueError."""
    return members_of(unpack_strict(packed))


def members_of(value: Any) -> tuple[Member, ...]:
    """Members from their decoded form, a list of [id, address] pairs with unique ids. Raises ValueError."""
    if not isinstance(value, list) or len(value) > MEMBERS_MAX:
        raise ValueError("members: not a list")
    members = tuple(_member_of(pair) for pair in value)
    if len({member.id for member in members}) != len(members):
        raise ValueError("members: one id twice")
    return members


def _member_of(pair: Any) -> Member:
    match pair:
        case [str() as node_id, str() as address] if (
            0 < len(node_id) <= NODE_ID_BYTES_MAX and len(address) <= ADDRESS_BYTES_MAX
        ):
            return Member(node_id, address)
    raise ValueError("members: not a pair of id and address")


def unpack_strict(packed: bytes) -> Any:
    """msgpack of a small record: bounded, no extension types, no foreign map keys. Raises ValueError."""
    try:
        return msgpack.unpackb(
            packed,
            strict_map_key=True,
            max_str_len=ADDRESS_BYTES_MAX,
            max_bin_len=1 << 10,
            max_array_len=MEMBERS_MAX,
            max_map_len=16,
            max_ext_len=0,
        )
    except (msgpack.UnpackException, ValueError, RecursionError) as error:
        raise ValueError(f"not the expected msgpack ({type(error).__name__})") from None
