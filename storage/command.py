"""Every replicated change of the store, and its wire form.

A command is data: the proposer has already drawn what is random, read the clock and encrypted what is
secret, so that apply() is deterministic. Times are wall-clock nanoseconds since 1970 (UTC), durations
nanoseconds; 0 stands for "none" where the field says so. The wire form is one format byte and a msgpack
array tagged by the command's number: numbers and field order are for ever, new fields go last with a default.
"""

from typing import Any

import msgspec

FORMAT = b"\x01"


class Command(msgspec.Struct, frozen=True, array_like=True):
    """The base of all commands; time_ns is the proposer's clock when the request arrived."""

    time_ns: int


class Sealed(msgspec.Struct, frozen=True, array_like=True):
    """A value under its own data key, which is itself wrapped under a numbered keyring term.

    repr() shows only sizes: ciphertext is no secret, but it does not belong in a log either.
    """

    term: int
    wrapped_key: bytes
    ciphertext: bytes

    def __repr__(self) -> str:
        return f"Sealed(term={self.term}, {len(self.ciphertext)} bytes)"


# --- cluster -----------------------------------------------------------------------------------------------


class ClusterInit(Command, frozen=True, tag=1):
    """The first command of a store. Rejected(ALREADY_INITIALIZED) ever after."""

    cluster_id: str
    cluster_name: str


class KeyTermAdd(Command, frozen=True, tag=2):
    """A new keyring term; the newest one encrypts. wrapped_key is the term's key under the root key."""

    term: int
    wrapped_key: bytes


class SystemSecretPut(Command, frozen=True, tag=3):
    """A secret of the cluster's own (the key of its CA), by name; not shared with other regions."""

    name: str
    value: Sealed


class NodePut(Command, frozen=True, tag=4):
    """What everybody should know of a node: where it answers and where it replicates.

    Rejected(LEVEL_UNKNOWN) if it does not know the level at which the cluster is.
    """

    node_id: str
    region: str
    api_address: str  # a URL
    cluster_address: str  # host:port
    link_address: str = ""  # host:port for other regions; "" if it takes no part in them
    software: str = ""  # the version that it runs
    level: int = 1  # the newest feature level that this version knows


class NodeRemove(Command, frozen=True, tag=5):
    node_id: str


class JoinTokenPut(Command, frozen=True, tag=6):
    """A one-time ticket for one node; only its keyed digest is stored."""

    digest: bytes
    expires_ns: int


class JoinTokenTake(Command, frozen=True, tag=7):
    """Use a ticket up. Rejected(TOKEN_INVALID) if unknown, expired or taken by another node.

    The node that took it may take it again until it expires, so that a lost answer can be asked for again.
    """

    digest: bytes
    node_id: str


class LevelRaise(Command, frozen=True, tag=8):
    """From now on commands of this feature level may be proposed. A level is never lowered.

    Rejected(LEVEL_UNKNOWN) if any registered node does not know it.
    """

    level: int


class LevelProbe(Command, frozen=True, tag=9):
    """Does nothing. It is of the level after this release's, so that tests can be a release ahead of it."""


# --- mounts ------------------------------------------------------------------------------------------------


class MountPut(Command, frozen=True, tag=20):
    """Mount an engine. Rejected(PATH_IN_USE) if the path equals, contains or lies under another mount's."""

    path: str  # ends with "/"
    mount_id: str  # a uuid, never reused
    accessor: str
    kind: str  # "kv", "approle", ...: which engine answers
    version: int  # of the engine; 0 where it has no versions
    description: str
    default_lease_ttl_ns: int
    max_lease_ttl_ns: int
    details: dict[str, Any] = {}  # what clients said of it besides: its options, its configuration


class MountTune(Command, frozen=True, tag=21):
    """Change what is not None. Rejected(NO_SUCH_MOUNT)."""

    path: str
    description: str | None = None
    default_lease_ttl_ns: int | None = None
    max_lease_ttl_ns: int | None = None
    details: dict[str, Any] | None = None  # replaces them all
    version: int | None = None


class MountMove(Command, frozen=True, tag=22):
    """Rejected(NO_SUCH_MOUNT) or Rejected(PATH_IN_USE)."""

    source: str
    target: str


class MountRemove(Command, frozen=True, tag=23):
    """Remove a mount with everything in it; removing an absent one succeeds."""

    path: str


# --- KV version 2 ------------------------------------------------------------------------------------------


class KvPut(Command, frozen=True, tag=30):
    """Write version `version` of a key, which must be the next one.

    `decided` is the position of the state that the caller's permission was read from; 0: a confirmed state.
    Checked in this order: Rejected(PERMISSION_OUTDATED) if anything that a permission may rest on has changed since
    `decided`; Rejected(NO_SUCH_MOUNT); Rejected(CAS_REQUIRED) if the mount or the key demands
    `cas` and it is None; Rejected(CAS_MISMATCH) if `cas` is not the current version (0: must not exist, or
    have no versions); Rejected(VERSION_RACED) if `version` is not current + 1: the ciphertext is bound to its
    version, so the proposer encrypts again and retries.
    Done({"version", "created_ns", "deletion_ns", "destroyed": False, "custom_metadata": map or None}).
    """

    mount_id: str
    path: str
    version: int
    cas: int | None
    value: Sealed
    decided: int = 0
    patch: bool = False  # made from the version before it: what is told of it differs, what it does does not


class KvDelete(Command, frozen=True, tag=31):
    """Mark versions deleted (those that exist, are not destroyed or deleted already); () means the latest."""

    mount_id: str
    path: str
    versions: tuple[int, ...]


class KvUndelete(Command, frozen=True, tag=32):
    """Take the deletion mark off versions that are not destroyed."""

    mount_id: str
    path: str
    versions: tuple[int, ...]


class KvDestroy(Command, frozen=True, tag=33):
    """Forget the wrapped data key and the ciphertext of versions, for ever."""

    mount_id: str
    path: str
    versions: tuple[int, ...]


class KvMetadataPut(Command, frozen=True, tag=34):
    """Create or change a key's metadata; None leaves a field as it is. Rejected(NO_SUCH_MOUNT).

    custom_metadata replaces the whole map; with patch=True it merges, and a null value removes its key, and
    an absent key is Rejected(NO_SUCH_KEY). Lowering max_versions prunes the oldest versions at the next
    write.
    """

    mount_id: str
    path: str
    max_versions: int | None = None
    cas_required: bool | None = None
    delete_version_after_ns: int | None = None
    custom_metadata: dict[str, str | None] | None = None
    patch: bool = False


class KvMetadataDelete(Command, frozen=True, tag=35):
    """Forget a key with all its versions."""

    mount_id: str
    path: str


class KvConfigPut(Command, frozen=True, tag=36):
    """Change what is not None of a mount's defaults. Rejected(NO_SUCH_MOUNT).

    A negative delete_version_after_ns switches it off for all keys of the mount, whatever they ask for.
    """

    mount_id: str
    max_versions: int | None = None
    cas_required: bool | None = None
    delete_version_after_ns: int | None = None


# --- policies ----------------------------------------------------------------------------------------------


class PolicyPut(Command, frozen=True, tag=40):
    """The text has been parsed by the proposer; `name` is canonical (lower case)."""

    name: str
    text: str


class PolicyDelete(Command, frozen=True, tag=41):
    name: str


# --- tokens ------------------------------------------------------------------------------------------------


class TokenPut(Command, frozen=True, tag=50):
    """A new service token, known only by its keyed digest. Rejected(TOKEN_EXISTS | PARENT_GONE).

    A token with an `issuer`, the id of an auth method's mount, goes when that mount does;
    Rejected(NO_SUCH_MOUNT) if it is gone already.
    """

    digest: bytes
    accessor: str
    parent: bytes | None  # digest of the parent; None for an orphan
    policies: tuple[str, ...]
    path: str
    display_name: str
    metadata: dict[str, str] | None
    num_uses: int  # 0: without limit
    ttl_ns: int  # 0: does not expire
    explicit_max_ttl_ns: int  # 0: none
    period_ns: int  # 0: not periodic
    renewable: bool
    expires_ns: int  # 0: never
    entity_id: str = ""
    role: str = ""  # of the token store, or of the issuer: whose rules a renewal follows
    bound_cidrs: tuple[str, ...] = ()  # where it may be presented; () anywhere
    issuer: str = ""


class TokenRenew(Command, frozen=True, tag=51):
    """Set a live token's expiry. Rejected(NO_SUCH_TOKEN) if it is gone or has expired by time_ns."""

    digest: bytes
    ttl_ns: int
    expires_ns: int


class TokenRevoke(Command, frozen=True, tag=52):
    """Revoke a token with all its descendants; orphan_children=True lets the children live on as orphans.

    Done({"revoked": n}) with n = 0 if there was none.
    """

    digest: bytes
    orphan_children: bool = False


class TokenUse(Command, frozen=True, tag=53):
    """Spend one use of a token. Rejected(NO_SUCH_TOKEN) if it is gone, has expired or has no use left.

    Done({"remaining": n}), n being the token's num_uses from now on: -1 after the last use (it stays present
    until the request that spent it revokes it, or a minute later TokensExpire does), 0 if it has no limit.
    """

    digest: bytes


class TokensExpire(Command, frozen=True, tag=54):
    """Revoke at most `limit` tokens (and their descendants) that expired by time_ns. Done({"revoked": n})."""

    limit: int


# --- entries -----------------------------------------------------------------------------------------------


class EntryPut(Command, frozen=True, tag=70):
    """Write an entry of a view: what engines and auth methods keep by name.

    A view is a mount's id, or a name that begins with "sys:", or with "own:" if other regions do not share it.
    `expect` is the revision that the entry must have (0: it must not exist), None for any:
    Rejected(REVISION_MISMATCH). Rejected(NO_SUCH_MOUNT) if the mount is gone. An entry with an `owner`, a token's
    digest, goes when that token does; Rejected(NO_SUCH_TOKEN)
    if it is gone already. Done({"revision": n}): n grows with every write of the entry, also after a removal.
    """

    view: str
    path: str
    value: Sealed
    expires_ns: int = 0
    expect: int | None = None
    owner: bytes | None = None


class EntryDelete(Command, frozen=True, tag=71):
    """Remove an entry, if it has the revision `expect`: Rejected(REVISION_MISMATCH). Done({"removed": 0 or 1})."""

    view: str
    path: str
    expect: int | None = None


class EntriesDelete(Command, frozen=True, tag=72):
    """Remove every entry of a view whose path begins with `prefix`. Done({"removed": n})."""

    view: str
    prefix: str


class EntriesExpire(Command, frozen=True, tag=73):
    """Remove at most `limit` entries that expired by time_ns. Done({"removed": n})."""

    limit: int


# --- leases ------------------------------------------------------------------------------------------------


class LeasePut(Command, frozen=True, tag=80):
    """A new lease of a mount. Rejected(LEASE_EXISTS | NO_SUCH_MOUNT | NO_SUCH_TOKEN).

    A lease with an `owner`, a token's digest, falls due when that token goes. `value` is what the engine needs to take
    back what it gave.
    """

    lease_id: str
    mount_id: str
    owner: bytes | None
    ttl_ns: int
    expires_ns: int
    max_ns: int  # no renewal reaches beyond this time
    renewable: bool
    value: Sealed


class LeaseRenew(Command, frozen=True, tag=81):
    """Set a live lease's expiry. Rejected(NO_SUCH_LEASE) if it is gone, ending or expired."""

    lease_id: str
    ttl_ns: int
    expires_ns: int


class LeasesEnd(Command, frozen=True, tag=82):
    """At most `limit` leases, that named `prefix` or all that begin with it, fall due now. Done({"ended": n})."""

    prefix: str
    exact: bool
    limit: int


class LeaseFailed(Command, frozen=True, tag=83):
    """The engine could not take a lease back at attempt number `attempts` (from 0). Done({"recorded": 0 or 1})."""

    lease_id: str
    attempts: int
    problem: str
    retry_ns: int
    irrevocable: bool


class LeasesRemove(Command, frozen=True, tag=84):
    """Forget leases whose revocation is done. Done({"removed": n})."""

    lease_ids: tuple[str, ...]


# --- regions -----------------------------------------------------------------------------------------------


class RegionFound(Command, frozen=True, tag=90):
    """This cluster becomes the primary region `name` of its store. Rejected(REGION_ROLE) if there are regions."""

    name: str
    endpoints: tuple[str, ...]
    links: tuple[str, ...]


class RegionPut(Command, frozen=True, tag=91):
    """A region that follows, or what changed of one. Rejected(REGION_ROLE) while there are no regions."""

    name: str
    endpoints: tuple[str, ...]  # URLs at which clients reach its nodes
    links: tuple[str, ...]  # host:port at which other regions do


class RegionRemove(Command, frozen=True, tag=92):
    """Forget a region that follows. Rejected(REGION_ROLE) if it is the one that orders writes."""

    name: str


class RegionHandover(Command, frozen=True, tag=93):
    """The last command that the primary region orders: from here on only `target` may begin an epoch.

    Rejected(NO_SUCH_REGION) if nobody follows under that name, or it is the primary itself.
    """

    target: str


class EpochBegin(Command, frozen=True, tag=94):
    """The first command of an epoch: `region` orders writes from here on. Only RegionPromote makes one."""

    epoch: int
    region: str


class RegionApply(Command, frozen=True, tag=95):
    """What the primary ordered, in a region that follows: commands from position `first` on.

    `epoch` is the one in force before the first of them. Rejected(REGION_ROLE) in a region that does not follow,
    Rejected(POSITION_GAP) if the last one applied is not first - 1 or the epoch is another one.
    Done({"position": the last one applied}).
    """

    epoch: int
    first: int
    commands: tuple[tuple[bytes, bytes], ...]  # request id and encoded command


class RegionPromote(Command, frozen=True, tag=96):
    """This region, which followed, begins epoch `epoch`. Rejected(REGION_ROLE), or Rejected(POSITION_GAP) if the
    epoch in force is not epoch - 1 or, with `at`, the last position applied is not `at`.
    """

    epoch: int
    at: int | None = None


class RegionDemote(Command, frozen=True, tag=97):
    """This region follows from now on: it handed over, found that another one began an epoch where it stands, or was
    told to order nothing any more.
    """


class RegionLeave(Command, frozen=True, tag=98):
    """This cluster is no region any more: the state stays, and it orders its writes alone.

    Rejected(REGION_ROLE) unless it follows, or orders writes and no other region is registered.
    """


# --- several at once ---------------------------------------------------------------------------------------


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


# --- outcomes ----------------------------------------------------------------------------------------------


class Done(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Applied."""

    value: dict[str, Any] = {}


class Rejected(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Looked at, in order, and refused: nothing changed."""

    reason: str  # one of Reason
    detail: str = ""


Outcome = Done | Rejected


class Reason:
    """Why a command was refused."""

    MALFORMED = "malformed"
    STALE = "stale"  # stamped longer ago than request ids are remembered: a retry could not be told apart
    ALREADY_INITIALIZED = "already-initialized"
    TERM_EXISTS = "term-exists"
    PATH_IN_USE = "path-in-use"
    NO_SUCH_MOUNT = "no-such-mount"
    NO_SUCH_KEY = "no-such-key"
    CAS_REQUIRED = "cas-required"
    CAS_MISMATCH = "cas-mismatch"
    VERSION_RACED = "version-raced"
    PERMISSION_OUTDATED = "permission-outdated"
    REVISION_MISMATCH = "revision-mismatch"
    LEASE_EXISTS = "lease-exists"
    NO_SUCH_LEASE = "no-such-lease"
    NOT_PRIMARY = "not-primary"  # this region follows another, which orders writes
    REGION_ROLE = "region-role"
    NO_SUCH_REGION = "no-such-region"
    POSITION_GAP = "position-gap"
    LEVEL_UNKNOWN = "level-unknown"  # to some node of this cluster
    TOKEN_EXISTS = "token-exists"  # noqa: S105 - a name
    PARENT_GONE = "parent-gone"
    NO_SUCH_TOKEN = "no-such-token"  # noqa: S105
    TOKEN_INVALID = "token-invalid"  # noqa: S105


outcome_encode = _encoder.encode
_outcome_decoder: msgspec.msgpack.Decoder[Outcome] = msgspec.msgpack.Decoder(Outcome)
outcome_decode = _outcome_decoder.decode
