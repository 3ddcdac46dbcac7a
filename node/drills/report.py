"""What a drill found out, as the store keeps it: a record that is signed, so that it can be shown to others.

The signature (Ed25519, RFC 8032) is over the record as JSON with sorted keys and no spaces, in UTF-8. Its key is
derived from the root key, so every node of every region signs as one. It vouches for who recorded what and when; what
was measured is the word of who ran the drill.
"""

import base64
from typing import Annotated, Any, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from node.errors import InvalidRequest
from storage.keyring import DRILL_REPORT, RootKey

LINES_MAX = 64
LINE_CHARS_MAX = 500
COUNT_MAX = 1 << 53  # JSON numbers that every reader takes for what they are

Kind = Literal["leader", "node", "region", "isolated"]
Ending = Literal["passed", "failed", "interrupted"]
Line = Annotated[str, msgspec.Meta(max_length=LINE_CHARS_MAX)]
Count = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]
Time = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z\Z")]


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that was done, or waited for; ms: how long it took."""

    what: Line
    ms: Count


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What who ran a drill tells. None: not measured.

    rto_ms is the longest time without an acknowledged write, rpo_writes how many acknowledged writes were not found
    again, lag_entries how far the region that took over was behind when it was asked to.
    """

    drill: Kind
    ending: Ending
    started: Time
    ended: Time
    target: Line = ""
    forced: bool = False
    rto_ms: Count | None = None
    rpo_writes: Count | None = None
    lag_entries: Count | None = None
    requests: Count = 0
    requests_failed: Count = 0
    steps: Annotated[tuple[Step, ...], msgspec.Meta(max_length=LINES_MAX)] = ()
    notes: Annotated[tuple[Line, ...], msgspec.Meta(max_length=LINES_MAX)] = ()


class Record(msgspec.Struct, frozen=True):
    """A report with what the store knows of it itself."""

    id: str
    recorded: str  # RFC 3339
    by: str  # the display name of the token that recorded it
    entity_id: str
    cluster_id: str
    region: str
    node_id: str
    report: Report


_encode = msgspec.json.Encoder(order="sorted").encode


def parse(data: object) -> Report:
    """A report out of a request. Raises InvalidRequest."""
    try:
        return msgspec.convert(data, Report)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"not the report of a drill: {error}") from None


def signed(record: Record, root: RootKey) -> dict[str, Any]:
    """The record as it is kept and answered."""
    signature = _key(root).sign(_encode(record))
    shown: dict[str, Any] = msgspec.to_builtins(record)
    return shown | {"signature": base64.b64encode(signature).decode()}


def public_key(root: RootKey) -> str:
    """What verifies signatures: base64 of 32 bytes."""
    return base64.b64encode(_key(root).public_key().public_bytes_raw()).decode()


def verifies(record: dict[str, Any], key: str) -> bool:
    """Whether a record that was answered is one that the holder of `key` (as public_key() gives it) signed."""
    said = {name: value for name, value in record.items() if name != "signature"}
    try:
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key, validate=True))
        public.verify(base64.b64decode(str(record.get("signature")), validate=True), _encode(said))
    except (InvalidSignature, ValueError):
        return False
    return True


def _key(root: RootKey) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(root.derive(DRILL_REPORT))
