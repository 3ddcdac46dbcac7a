"""What became of a command, equally on every node, and its wire form.

An outcome is remembered and travels as a msgpack array tagged by its kind; the reasons are part of it. As with
commands, tags, field order and the words of the reasons are for ever.
"""

from typing import Any

import msgspec


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


encode_outcome = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Outcome] = msgspec.msgpack.Decoder(Outcome)
decode_outcome = _decoder.decode
