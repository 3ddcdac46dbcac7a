"""Every frame that members exchange: one version byte, then msgpack of one strictly typed array.

A frame whose type, arity, field type or size is not exactly one of these is a WireError, and the connection
that brought it is dropped: nothing of it reaches the log. Every frame carries its sender's term (Raft,
section 5.1).
"""

from typing import Annotated

import msgspec

from consensus.api import COMMAND_BYTES_MAX, REQUEST_ID_BYTES

PROTOCOL_VERSION = 2
ENTRIES_MAX = 4096
PROPOSALS_MAX = 1024
MEMBERS_MAX = 64
CHUNK_BYTES_MAX = 1 << 20
ADDRESS_CHARS_MAX = 255
NODE_ID_CHARS_MAX = 128
TEXT_CHARS_MAX = 256
PAYLOAD_BYTES_MAX = 1 + REQUEST_ID_BYTES + COMMAND_BYTES_MAX

Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
NodeId = Annotated[str, msgspec.Meta(max_length=NODE_ID_CHARS_MAX)]
Address = Annotated[str, msgspec.Meta(max_length=ADDRESS_CHARS_MAX)]
RequestId = Annotated[bytes, msgspec.Meta(min_length=REQUEST_ID_BYTES, max_length=REQUEST_ID_BYTES)]
Payload = Annotated[bytes, msgspec.Meta(min_length=1, max_length=PAYLOAD_BYTES_MAX)]
Command = Annotated[bytes, msgspec.Meta(max_length=COMMAND_BYTES_MAX)]
Entries = Annotated[list[tuple[Payload, Count, Count]], msgspec.Meta(max_length=ENTRIES_MAX)]
Commands = Annotated[list[tuple[RequestId, Command]], msgspec.Meta(max_length=PROPOSALS_MAX)]
Members = Annotated[list[tuple[NodeId, Address]], msgspec.Meta(max_length=MEMBERS_MAX)]
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Chunk = Annotated[bytes, msgspec.Meta(max_length=CHUNK_BYTES_MAX)]

# Why a leader did not take a proposal or a membership change: certain, it is not in the log by that attempt.
NOT_LEADER, OVERLOADED, TOO_LARGE, REFUSED, DISK_FULL = 1, 2, 3, 4, 5
DONE = 0
Code = Annotated[int, msgspec.Meta(ge=DONE, le=DISK_FULL)]


class WireError(ValueError):
    """These bytes are no frame of this protocol."""


class _Frame(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    term: Count


class Append(_Frame, frozen=True, tag=1):
    """Entries after (prev_index, prev_term); none is a heartbeat. `seq` numbers the leader's rounds."""

    seq: Count
    prev_index: Count
    prev_term: Count
    commit: Count
    entries: Entries


class Ack(_Frame, frozen=True, tag=2):
    """Entries up to `match` equal the leader's and are durable here; 0 only says that the round was heard."""

    seq: Count
    match: Count


class Reject(_Frame, frozen=True, tag=3):
    """The log here does not hold (prev_index, prev_term), or the term is older than ours: try from `hint`."""

    seq: Count
    hint: Count


class VoteRequest(_Frame, frozen=True, tag=5):
    """`transfer` says that the leader itself asked for this election (Raft thesis, section 3.10)."""

    last_index: Count
    last_term: Count
    transfer: bool


class Vote(_Frame, frozen=True, tag=6):
    """The sender's vote in `term` is yours. There is no frame for a refusal."""


class PreVoteRequest(_Frame, frozen=True, tag=7):
    """Would you vote for me in `term`? Changes nothing at the receiver (Raft thesis, section 9.6)."""

    last_index: Count
    last_term: Count


class PreVote(_Frame, frozen=True, tag=8):
    """The answer to a PreVoteRequest for `asked_term`; `term` is the answering member's own."""

    asked_term: Count
    granted: bool


class TimeoutNow(_Frame, frozen=True, tag=9):
    """The leader hands over: campaign at once."""


class Propose(_Frame, frozen=True, tag=10):
    """Append these commands, each unless its request id is there already."""

    commands: Commands


class ProposeRefused(_Frame, frozen=True, tag=11):
    """That command was not appended by that attempt. An accepted proposal has no answer: the log itself brings it."""

    request_id: RequestId
    code: Code


class ReadIndex(_Frame, frozen=True, tag=12):
    """Which index makes a read linearizable? With `confirm`, ask a quorum even inside the leader's lease."""

    number: Count
    confirm: bool


class ReadIndexReply(_Frame, frozen=True, tag=13):
    """`index` is the answer to request `number`, or -1: not the leader any more."""

    number: Count
    index: Annotated[int, msgspec.Meta(ge=-1, le=(1 << 63) - 1)]


class Change(_Frame, frozen=True, tag=14):
    """Add (`adding`) or remove a member, on behalf of a caller who waits at most `timeout_ms`."""

    number: Count
    adding: bool
    node_id: NodeId
    address: Address
    timeout_ms: Count


class ChangeReply(_Frame, frozen=True, tag=15):
    """The end of that change; `text` says why it was refused."""

    number: Count
    code: Code
    text: Annotated[str, msgspec.Meta(max_length=TEXT_CHARS_MAX)]


class LeaseAsk(_Frame, frozen=True, tag=16):
    """How far was all committed when I asked this, and may I read alone for a while (`wanted`)?

    And: having heard you, I vote for nobody else for `promise_micros`.
    """

    number: Count
    wanted: bool
    promise_micros: Count


class LeaseAnswer(_Frame, frozen=True, tag=17):
    """The leader, inside its own lease, has committed up to `commit`; the lease is `micros` long, 0 for none."""

    number: Count
    micros: Count
    commit: Count


class LeaseRecall(_Frame, frozen=True, tag=18):
    """The leader hands over: do not read alone any more."""

    number: Count


class LeaseReturned(_Frame, frozen=True, tag=19):
    """The sender has obeyed the recall `number`."""

    number: Count


class SnapshotOffer(_Frame, frozen=True, tag=20):
    """The leader's heartbeat to a member that the log no longer reaches: there is this snapshot. Ask for it."""

    seq: Count
    index: Count
    index_term: Count
    members: Members
    size_bytes: Count
    sha256: Digest


class FileWanted(_Frame, frozen=True, tag=21):
    """Of the file `sha256` this member holds the first `offset` bytes: send what follows, a window of it."""

    sha256: Digest
    offset: Count


class FilePiece(_Frame, frozen=True, tag=22):
    """A piece of the file that was asked for."""

    sha256: Digest
    offset: Count
    data: Chunk


class FileOffer(_Frame, frozen=True, tag=23):
    """The sender wants the whole group to restore this file: ask for it (FileWanted), hold it, and say so."""

    sha256: Digest
    size_bytes: Count


class FileHeld(_Frame, frozen=True, tag=24):
    """The file of that digest is here, verified and durable."""

    sha256: Digest


class RestoreAsk(_Frame, frozen=True, tag=25):
    """Append the entry that restores this file, unless it is there already; answered by ChangeReply."""

    number: Count
    request_id: RequestId
    sha256: Digest
    size_bytes: Count


class RemovalAsk(_Frame, frozen=True, tag=26):
    """May this member be removed, as things are? Answered by ChangeReply; nothing changes."""

    number: Count
    node_id: NodeId


Frame = (
    Append
    | Ack
    | Reject
    | VoteRequest
    | Vote
    | PreVoteRequest
    | PreVote
    | TimeoutNow
    | Propose
    | ProposeRefused
    | ReadIndex
    | ReadIndexReply
    | Change
    | ChangeReply
    | LeaseAsk
    | LeaseAnswer
    | LeaseRecall
    | LeaseReturned
    | SnapshotOffer
    | FileWanted
    | FilePiece
    | FileOffer
    | FileHeld
    | RestoreAsk
    | RemovalAsk
)

_VERSION = bytes([PROTOCOL_VERSION])
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)


def encode(frame: Frame) -> bytes:
    """The bytes of one frame. Encoding does not check limits: what we send, we have checked."""
    return _VERSION + _encoder.encode(frame)


def decode(body: bytes) -> Frame:
    """The frame in `body`. Raises WireError for anything that encode() cannot have made."""
    if body[:1] != _VERSION:
        raise WireError("unknown protocol version")
    try:
        frame = _decoder.decode(memoryview(body)[1:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(str(error)) from None
    if isinstance(frame, Append):
        _check_entries(frame)
    return frame


def _check_entries(frame: Append) -> None:
    """Indexes are consecutive and terms never fall, nor exceed the sender's: what every Raft log is."""
    index, term = frame.prev_index, frame.prev_term
    for _, entry_index, entry_term in frame.entries:
        if entry_index != index + 1 or not term <= entry_term <= frame.term:
            raise WireError("entries are not consecutive")
        index, term = entry_index, entry_term
