"""Every replicated change of the store, and its wire form. Each subject has a module with its commands.

A command is data: the proposer has already drawn what is random, read the clock and encrypted what is
secret, so that apply() is deterministic. Times are wall-clock nanoseconds since 1970 (UTC), durations
nanoseconds; 0 stands for "none" where the field says so. The wire form is one format byte and a msgpack
array tagged by the command's number: numbers and field order are for ever, new fields go last with a default.
"""

import msgspec

from storage.command.base import Command
from storage.command.base import Sealed as Sealed
from storage.command.cluster import (
    ClusterInit,
    JoinTokenPut,
    JoinTokenTake,
    KeyTermAdd,
    LevelProbe,
    LevelRaise,
    NodePut,
    NodeRemove,
    SystemSecretPut,
)
from storage.command.entries import EntriesDelete, EntriesExpire, EntryDelete, EntryPut
from storage.command.kv import (
    KvConfigPut,
    KvDelete,
    KvDestroy,
    KvMetadataDelete,
    KvMetadataPut,
    KvPut,
    KvUndelete,
)
from storage.command.leases import LeaseFailed, LeasePut, LeaseRenew, LeasesEnd, LeasesRemove
from storage.command.mounts import MountMove, MountPut, MountRemove, MountTune, PolicyDelete, PolicyPut
from storage.command.regions import (
    EpochBegin,
    RegionApply,
    RegionDemote,
    RegionFound,
    RegionHandover,
    RegionLeave,
    RegionPromote,
    RegionPut,
    RegionRemove,
)
from storage.command.tokens import TokenPut, TokenRenew, TokenRevoke, TokensExpire, TokenUse

FORMAT = b"\x01"


class Batch(Command, frozen=True, tag=60):
    """All of `commands` in order, or none: the first rejection undoes the others and is the outcome.

    Holds encoded commands; a batch in a batch is malformed. Done({"results": [value, ...]}).
    """

    commands: tuple[bytes, ...]


AnyCommand = (
    ClusterInit
    | KeyTermAdd
    | SystemSecretPut
    | NodePut
    | NodeRemove
    | JoinTokenPut
    | JoinTokenTake
    | LevelRaise
    | LevelProbe
    | MountPut
    | MountTune
    | MountMove
    | MountRemove
    | KvPut
    | KvDelete
    | KvUndelete
    | KvDestroy
    | KvMetadataPut
    | KvMetadataDelete
    | KvConfigPut
    | PolicyPut
    | PolicyDelete
    | TokenPut
    | TokenRenew
    | TokenRevoke
    | TokenUse
    | TokensExpire
    | EntryPut
    | EntryDelete
    | EntriesDelete
    | EntriesExpire
    | LeasePut
    | LeaseRenew
    | LeasesEnd
    | LeaseFailed
    | LeasesRemove
    | RegionFound
    | RegionPut
    | RegionRemove
    | RegionHandover
    | EpochBegin
    | RegionApply
    | RegionPromote
    | RegionDemote
    | RegionLeave
    | Batch
)

# Commands about a region's own cluster: other regions never see them, and they have no place in the store's history.
# So are those of entries in views that begin like this. Each leaves the same state when it is applied again, so their
# outcomes need not be remembered.
OWN_VIEWS = "own:"
LOCAL = frozenset(
    {
        NodePut,
        NodeRemove,
        JoinTokenPut,
        JoinTokenTake,
        SystemSecretPut,
        LevelRaise,
        LevelProbe,
        RegionApply,
        RegionPromote,
        RegionDemote,
        RegionLeave,
    }
)

# The feature level that this release knows, and the commands that came after level 1: a node proposes them, and any
# node understands them, only once the cluster's level has been raised, which takes every node.
LEVEL = 1
LEVELS: dict[type[Command], int] = {LevelProbe: 2}

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyCommand] = msgspec.msgpack.Decoder(AnyCommand)


class MalformedCommand(ValueError):
    """The bytes are no command of this version."""


def encode(command: AnyCommand) -> bytes:
    """The bytes that are replicated."""
    return FORMAT + _encoder.encode(command)


def level_of(command: AnyCommand) -> int:
    """The feature level at which a command, or the newest one of a batch, came in."""
    if isinstance(command, Batch):
        return max((level_of(decode(data)) for data in command.commands), default=1)
    return LEVELS.get(type(command), 1)


def decode(data: bytes) -> AnyCommand:
    """The command that encode() wrote. Raises MalformedCommand."""
    if data[:1] != FORMAT:
        raise MalformedCommand(f"format {data[:1].hex() or 'none'}, expected {FORMAT.hex()}")
    try:
        return _decoder.decode(memoryview(data)[1:])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedCommand(str(error)) from None


def batch(time_ns: int, *commands: AnyCommand) -> Batch:
    """One atomic command out of several."""
    return Batch(time_ns=time_ns, commands=tuple(encode(command) for command in commands))
