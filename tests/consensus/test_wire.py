"""Every frame reads back as it was; whatever is not exactly a frame is refused."""

import random

import msgspec
import pytest

from consensus import wire

MEMBERS = [("n1", "h:1"), ("n2", "h:2")]
FRAMES = [
    wire.Append(3, 7, 10, 2, 9, [(b"\0a", 11, 2), (b"\1", 12, 3)]),
    wire.Append(1, 1, 0, 0, 0, []),
    wire.Ack(1, 2, 3),
    wire.Reject(1, 2, 3),
    wire.SnapshotOffer(1, 2, 3, 1, MEMBERS, 5, bytes(32)),
    wire.FileWanted(1, bytes(32), 7),
    wire.FilePiece(1, bytes(32), 7, b"data"),
    wire.VoteRequest(1, 2, 1, True),
    wire.Vote(1),
    wire.PreVoteRequest(1, 2, 1),
    wire.PreVote(1, 2, False),
    wire.TimeoutNow(1),
    wire.Propose(1, [(bytes(16), b"command"), (bytes(16), b"")]),
    wire.ProposeRefused(1, bytes(16), wire.OVERLOADED),
    wire.ReadIndex(1, 5, False),
    wire.LeaseAsk(1, 5, True, 600_000),
    wire.LeaseAnswer(1, 5, 400_000, 17),
    wire.LeaseRecall(1, 5),
    wire.LeaseReturned(1, 5),
    wire.ReadIndexReply(1, 5, -1),
    wire.Change(1, 5, True, "n4", "h:4", 100),
    wire.ChangeReply(1, 5, wire.REFUSED, "why"),
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_frames_read_back(frame: wire.Frame) -> None:
    assert wire.decode(wire.encode(frame)) == frame


def packed(*fields: object) -> bytes:
    return b"\x01" + msgspec.msgpack.encode(list(fields))


BAD = {
    "nothing": b"",
    "another version": b"\x7f" + wire.encode(FRAMES[2])[1:],
    "no msgpack": b"\x01\xc1",
    "bytes after the frame": wire.encode(FRAMES[2]) + b"\x00",
    "cut short": wire.encode(FRAMES[0])[:-1],
    "an unknown type": packed(99, 1),
    "a missing field": packed(2, 1, 2),
    "one field too many": packed(2, 1, 2, 3, 4),
    "a negative term": packed(2, -1, 2, 3),
    "a number beyond 63 bits": packed(2, 1 << 63, 2, 3),
    "a float": packed(2, 1.0, 2, 3),
    "a bool for a number": packed(2, True, 2, 3),
    "a map": b"\x01" + msgspec.msgpack.encode({"type": 2, "term": 1}),
    "an empty payload": packed(1, 3, 7, 10, 2, 9, [[b"", 11, 2]]),
    "text for a payload": packed(1, 3, 7, 10, 2, 9, [["x", 11, 2]]),
    "a gap between entries": packed(1, 3, 7, 10, 2, 9, [[b"x", 12, 2]]),
    "a falling term": packed(1, 3, 7, 10, 2, 9, [[b"x", 11, 3], [b"x", 12, 2]]),
    "an entry newer than its sender's term": packed(1, 3, 7, 10, 2, 9, [[b"x", 11, 4]]),
    "too many entries": packed(1, 3, 7, 0, 0, 9, [[b"x", i, 1] for i in range(1, wire.ENTRIES_MAX + 2)]),
    "a short request id": packed(10, 1, bytes(15), b""),
    "a command that is too large": packed(10, 1, bytes(16), bytes(wire.COMMAND_BYTES_MAX + 1)),
    "an unknown code": packed(11, 1, bytes(16), 9),
    "a digest of another size": packed(4, 1, 2, 3, 1, [], 5, bytes(31), 0, b"", True),
    "a chunk that is too large": packed(
        4, 1, 2, 3, 1, [], 5, bytes(32), 0, bytes(wire.CHUNK_BYTES_MAX + 1), True
    ),
    "an id that is too long": packed(14, 1, 5, True, "n" * 200, "h:4", 100),
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_what_is_no_frame_is_refused(body: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.decode(body)


def test_random_damage_is_refused_or_is_a_frame() -> None:
    """Nothing but WireError ever comes out of decode()."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(3000):
        body = bytearray(wire.encode(rng.choice(FRAMES)))
        for _ in range(rng.randint(1, 3)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        try:
            wire.decode(bytes(body))
        except wire.WireError:
            continue
