"""What an audit record says: pure functions from a request and its outcome to one JSON object.

A record is put together from pieces of JSON text: who asks (Asker), what for (place()), what came of it
(outcome()). Each piece is encoded once, and kept by whoever meets the same caller or the same place again.

The field names are OpenBao's. Every string that a caller sent or got is replaced by an HMAC under a key that
all nodes share: two records can be compared, and a known value looked for, but none can be read. Names of
fields, numbers and booleans stay in clear. While the store is sealed there is no key, and strings become a
fixed mark instead.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from node.auth.fields import SECOND_NS, rfc3339
from node.core.request import Operation, Request, Response, WrapInfo
from storage.rows import Mount, Token
from storage.secret import Secret

LIST_ITEMS_MAX = 1000  # of a listing's answer; beyond it only the number is recorded
HMAC_PREFIX = "hmac-sha256:"
SEALED_MARK = "hmac-sha256:sealed"
BEARERS_CACHED_MAX = 4096
_BLOCK_BYTES = 64  # of SHA-256
_SHOWN_ASKED, _SHOWN_ANSWERED = (  # of a mount's configuration
    "audit_non_hmac_request_keys",
    "audit_non_hmac_response_keys",
)
_CLEAR = frozenset({type(None), bool, int, float, Decimal})
_LISTINGS = frozenset({Operation.LIST, Operation.SCAN})
encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token's holder: the record's `auth`, and the members of `request` that name the token."""

    row: Token
    auth: bytes
    members: bytes


class Hasher:
    """Strings to "hmac-sha256:<hex>"; without a key, to a fixed mark.

    HMAC (RFC 2104) with both pads absorbed once: a record takes several, and this halves their cost.
    """

    __slots__ = ("_bearers", "_inner", "_nothing", "_outer")

    def __init__(self, key: bytes | None) -> None:
        padded = b"" if key is None else key.ljust(_BLOCK_BYTES, b"\0")
        if len(padded) > _BLOCK_BYTES:
            raise ValueError(f"the audit key has at most {_BLOCK_BYTES} bytes")
        self._inner = None if key is None else hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))
        self._nothing = self.data(b"")
        self._bearers: dict[bytes, Bearer] = {}

    def text(self, value: str) -> str:
        return self.data(value.encode("utf-8", "surrogatepass")) if value else self._nothing

    def data(self, value: bytes) -> str:
        if self._inner is None:
            return SEALED_MARK
        inner = self._inner.copy()
        inner.update(value)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return HMAC_PREFIX + outer.hexdigest()

    def bearer(self, row: Token, token: Secret) -> Bearer:
        """Who presents `token`, whose row is `row`; tokens seen lately are remembered, by the token's digest."""
        known = self._bearers.get(row.digest)
        if known is None or (known.row is not row and known.row != row):
            if len(self._bearers) >= BEARERS_CACHED_MAX:
                self._bearers.clear()
            known = self._bearers[row.digest] = _bearer(self, row, token)
        return known

    def tree(self, value: Any) -> Any:
        """A JSON value with every string in it replaced; keys of maps stay."""
        kind = type(value)
        if kind is msgspec.Raw:  # a stored value on its way out, still JSON text
            value = _decode(value)
            kind = type(value)
        if kind is dict:
            hashed: dict[str, Any] = {}
            text, tree = self.text, self.tree
            for key, item in value.items():
                kind = type(item)
                hashed[key] = text(item) if kind is str else item if kind in _CLEAR else tree(item)
            return hashed
        if kind is str:
            return self.text(value)
        if kind in _CLEAR:
            return value
        return self._other(value)

    def _other(self, value: Any) -> Any:
        """What JSON itself does not make."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.tree(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.tree(item) for item in value]
        if isinstance(value, int | float | Decimal):
            return value
        if isinstance(value, Secret):
            return self.data(value.reveal())
        if isinstance(value, bytes):
            return self.data(value)
        raise TypeError(f"an audit record cannot hold {type(value).__name__}")


class Asker(msgspec.Struct, frozen=True):
    """Who asks: the record's `auth`, and the members of its `request` that name the caller. Hashed under one key."""

    hasher: Hasher
    row: Token | None
    auth: bytes
    members: bytes


def asker(hasher: Hasher, *, row: Token | None, token: Secret | None, remote: str) -> Asker:
    """The caller at the address `remote`, with the token that was presented and its row, as far as there are any."""
    address = b'"remote_address":%b' % encode(remote)
    if token is None:
        return Asker(hasher, row, b"{}", address)
    if row is None:
        return Asker(
            hasher, row, b"{}", b"%b,%b" % (address, _members({"client_token": hasher.data(token.reveal())}))
        )
    bearer = hasher.bearer(row, token)
    return Asker(hasher, row, bearer.auth, b"%b,%b" % (address, bearer.members))


def asked(hasher: Hasher, request: Request) -> bytes:
    """Who asks for what: the members that both records share."""
    who = asker(hasher, row=request.token_row, token=request.token, remote=request.remote)
    return asked_by(who, place(hasher, request), request_id=request.id)


def asked_by(who: Asker, what: bytes, *, request_id: str) -> bytes:
    """asked(), from its pieces: `what` is of place()."""
    return b'"auth":%b,"request":{"id":"%b",%b,%b}' % (who.auth, request_id.encode(), what, who.members)


def place(hasher: Hasher, request: Request) -> bytes:
    """What is asked for: members of a record's `request`, without who asks."""
    entry: dict[str, Any] = {"operation": request.operation, "path": request.path}
    if request.mount is not None:
        entry["mount_point"] = request.mount.path
        entry["mount_type"] = request.mount.kind
        entry["mount_accessor"] = request.mount.accessor
    if request.data:
        entry["data"] = _hidden(hasher, request.data, _shown(request.mount, _SHOWN_ASKED))
    if request.query:
        entry["query"] = hasher.tree(request.query)
    return _members(entry)


class FolderReads(msgspec.Struct, frozen=True):
    """What records say of reads of the names in a folder: all but the name, and the data that is answered."""

    hasher: Hasher
    before: bytes  # of place(): up to the name, and after it
    after: bytes
    outcome_before: bytes  # of outcome(): up to the data, and after them
    outcome_after: bytes
    shown: frozenset[str]  # fields whose strings stay as they are

    def place(self, name: str) -> bytes:
        """place() of a name that JSON has nothing to escape in."""
        return b"%b%b%b" % (self.before, name.encode(), self.after)

    def outcome(self, data: dict[str, Any]) -> bytes:
        """outcome() of a 200 with nothing but data."""
        hashed = encode(_hidden(self.hasher, data, self.shown))
        return b"%b%b%b" % (self.outcome_before, hashed, self.outcome_after)


def folder_reads(hasher: Hasher, request: Request, name: str) -> FolderReads:
    """From the read of one name, which occurs nowhere else in the request, and which its mount answers."""
    before, _, after = place(hasher, request).partition(name.encode())
    came = outcome(hasher, request, Response(data={name: None}))
    outcome_before, _, outcome_after = came.partition(encode({name: None}))
    shown = _shown(request.served_by, _SHOWN_ANSWERED)
    return FolderReads(hasher, before, after, outcome_before, outcome_after, shown)


def request_record(asked: bytes, *, now_ns: int, error: str = "") -> bytes:
    """The record of what is asked, written before anything happens. Records lack their opening brace (log.py)."""
    return request_at(moment(now_ns), asked, _error(error))


def response_record(asked: bytes, outcome: bytes | None, *, now_ns: int, error: str = "") -> bytes:
    """The record of what came of it, written before the answer leaves.

    `outcome` is of outcome(), None where there is no answer but an error.
    """
    return response_at(moment(now_ns), asked, outcome, _error(error))


def moment(now_ns: int) -> bytes:
    """A time as records have it."""
    return rfc3339(now_ns).encode()


def request_at(moment: bytes, asked: bytes, error: bytes = b"") -> bytes:
    """request_record(), from its pieces."""
    return b'"time":"%b","type":"request",%b%b}' % (moment, asked, error)


def response_at(moment: bytes, asked: bytes, outcome: bytes | None, error: bytes = b"") -> bytes:
    """response_record(), from its pieces."""
    came = b"" if outcome is None else b',"response":%b' % outcome
    return b'"time":"%b","type":"response",%b%b%b}' % (moment, asked, error, came)


def outcome(hasher: Hasher, request: Request, response: Response) -> bytes:
    """What is answered: a record's `response`."""
    return encode(_response(hasher, request, response))


def _error(error: str) -> bytes:
    return b',"error":%b' % encode(error) if error else b""


def _members(fields: dict[str, Any]) -> bytes:
    """A JSON object without its braces."""
    return encode(fields)[1:-1]


def _bearer(hasher: Hasher, row: Token, token: Secret) -> Bearer:
    hidden, accessor = hasher.data(token.reveal()), hasher.text(row.accessor)
    named = _members({"client_token": hidden, "client_token_accessor": accessor})
    return Bearer(row, encode(_auth(row, hidden, accessor)), named)


def _auth(row: Token, token: str, accessor: str) -> dict[str, Any]:
    auth: dict[str, Any] = {
        "client_token": token,
        "accessor": accessor,
        "display_name": row.display_name,
        "policies": row.policies,
        "token_policies": row.policies,
        "token_issue_time": rfc3339(row.created_ns),
        "token_ttl": row.ttl_ns // SECOND_NS,
        "token_type": row.kind,
    }
    if row.entity_id:
        auth["entity_id"] = row.entity_id
    if row.metadata:
        auth["metadata"] = row.metadata
    if row.num_uses:
        auth["remaining_uses"] = max(row.num_uses, 0)
    return auth


def _response(hasher: Hasher, request: Request, response: Response) -> dict[str, Any]:
    entry: dict[str, Any] = {"status": response.status}
    if request.mount is not None:
        entry["mount_point"] = request.mount.path
        entry["mount_type"] = request.mount.kind
    if response.auth is not None:
        entry["auth"] = _issued(hasher, response.auth)
    if response.data is not None:
        bounded = _bounded(request, response.data)
        entry["data"] = _hidden(hasher, bounded, _shown(request.mount, _SHOWN_ANSWERED))
    if response.wrap_info is not None:
        entry["wrap_info"] = _wrap_info(hasher, response.wrap_info)
    if response.warnings:
        entry["warnings"] = response.warnings
    return entry


def _shown(mount: Mount | None, setting: str) -> frozenset[str]:
    """The fields that the mount is tuned to show as they are."""
    config = mount.details.get("config") if mount is not None else None
    return frozenset(config.get(setting, ())) if config else frozenset()


def _hidden(hasher: Hasher, data: dict[str, Any], shown: frozenset[str]) -> Any:
    """The fields that were sent or are answered, as records have them."""
    return _except(hasher, data, shown) if shown else hasher.tree(data)


def _except(hasher: Hasher, value: Any, clear: frozenset[str]) -> Any:
    """Hasher.tree(), but for strings under a key of `clear`, at any depth."""
    if isinstance(value, msgspec.Raw):
        value = msgspec.json.decode(value)
    if isinstance(value, Mapping):
        return {
            key: item if key in clear and isinstance(item, str) else _except(hasher, item, clear)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_except(hasher, item, clear) for item in value]
    return hasher.tree(value)


def _wrap_info(hasher: Hasher, info: WrapInfo) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "token": hasher.data(info.token.reveal()),
        "accessor": hasher.text(info.accessor),
        "ttl": info.ttl_s,
        "creation_time": info.creation_time,
        "creation_path": info.creation_path,
    }
    if info.wrapped_accessor:
        entry["wrapped_accessor"] = hasher.text(info.wrapped_accessor)
    return entry


_ISSUED_SECRETS = frozenset({"client_token", "accessor"})


def _issued(hasher: Hasher, auth: Mapping[str, Any]) -> dict[str, Any]:
    """An auth block: who got what is the point of the record, so only what could be presented is hidden."""
    return {key: hasher.tree(value) if key in _ISSUED_SECRETS else value for key, value in auth.items()}


def _bounded(request: Request, data: dict[str, Any]) -> dict[str, Any]:
    if request.operation not in _LISTINGS:
        return data
    return {
        key: len(value) if isinstance(value, list) and len(value) > LIST_ITEMS_MAX else value
        for key, value in data.items()
    }
