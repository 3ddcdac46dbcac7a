"""What an audit record says: pure functions from a request and its outcome to one JSON object.

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
from node.core.request import Operation, Request, Response
from storage.rows import Token
from storage.secret import Secret

LIST_ITEMS_MAX = 1000  # of a listing's answer; beyond it only the number is recorded
HMAC_PREFIX = "hmac-sha256:"
SEALED_MARK = "hmac-sha256:sealed"
BEARERS_CACHED_MAX = 4096
_BLOCK_BYTES = 64  # of SHA-256
_CLEAR = frozenset({type(None), bool, int, float, Decimal})
_LISTINGS = frozenset({Operation.LIST, Operation.SCAN})
_encode = msgspec.json.Encoder().encode


class Hasher:
    """Strings to "hmac-sha256:<hex>"; without a key, to a fixed mark.

    HMAC (RFC 2104) with both pads absorbed once: a record takes several, and this halves their cost.
    """

    __slots__ = ("_bearers", "_inner", "_outer")

    def __init__(self, key: bytes | None) -> None:
        padded = b"" if key is None else key.ljust(_BLOCK_BYTES, b"\0")
        if len(padded) > _BLOCK_BYTES:
            raise ValueError(f"the audit key has at most {_BLOCK_BYTES} bytes")
        self._inner = None if key is None else hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))
        self._bearers: dict[bytes, tuple[str, str]] = {}

    def text(self, value: str) -> str:
        return self.data(value.encode("utf-8", "surrogatepass"))

    def data(self, value: bytes) -> str:
        if self._inner is None:
            return SEALED_MARK
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(value)
        outer.update(inner.digest())
        return HMAC_PREFIX + outer.hexdigest()

    def bearer(self, digest: bytes, token: Secret, accessor: str) -> tuple[str, str]:
        """The HMACs of a token and its accessor; those of tokens seen lately are kept, by the token's digest."""
        known = self._bearers.get(digest)
        if known is None:
            if len(self._bearers) >= BEARERS_CACHED_MAX:
                self._bearers.clear()
            known = self._bearers[digest] = (self.data(token.reveal()), self.text(accessor))
        return known

    def tree(self, value: Any) -> Any:
        """A JSON value with every string in it replaced; keys of maps stay."""
        kind = type(value)
        if kind is str:
            return self.text(value)
        if kind in _CLEAR:
            return value
        if kind is dict:
            tree, text = self.tree, self.text
            return {
                key: text(item) if type(item) is str else item if type(item) in _CLEAR else tree(item)
                for key, item in value.items()
            }
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
        if isinstance(value, msgspec.Raw):  # a stored value on its way out, still JSON text
            return self.tree(msgspec.json.decode(value))
        if isinstance(value, Secret):
            return self.data(value.reveal())
        if isinstance(value, bytes):
            return self.data(value)
        raise TypeError(f"an audit record cannot hold {type(value).__name__}")


@dataclass(slots=True)
class Asked:
    """Who asks for what, as JSON: both records of a request begin with it."""

    auth: msgspec.Raw
    request: msgspec.Raw


def asked(hasher: Hasher, request: Request) -> Asked:
    """The part that both records share."""
    row = request.token_row
    token: str | None
    accessor: str | None
    if row is not None and request.token is not None:
        token, accessor = hasher.bearer(row.digest, request.token, row.accessor)
        auth = _auth(row, token, accessor)
    else:
        token = None if request.token is None else hasher.data(request.token.reveal())
        auth, accessor = {}, None
    return Asked(msgspec.Raw(_encode(auth)), msgspec.Raw(_encode(_request(hasher, request, token, accessor))))


def request_record(subject: Asked, *, now_ns: int, error: str = "") -> dict[str, Any]:
    """The record of what is asked, written before anything happens."""
    record: dict[str, Any] = {
        "time": rfc3339(now_ns),
        "type": "request",
        "auth": subject.auth,
        "request": subject.request,
    }
    if error:
        record["error"] = error
    return record


def response_record(
    hasher: Hasher,
    subject: Asked,
    request: Request,
    response: Response | None,
    *,
    now_ns: int,
    error: str = "",
) -> dict[str, Any]:
    """The record of what came of it, written before the answer leaves."""
    record = request_record(subject, now_ns=now_ns, error=error)
    record["type"] = "response"
    if response is not None:
        record["response"] = _response(hasher, request, response)
    return record


def _auth(row: Token, token: str | None, accessor: str | None) -> dict[str, Any]:
    auth: dict[str, Any] = {
        "client_token": token,
        "accessor": accessor,
        "display_name": row.display_name,
        "policies": row.policies,
        "token_policies": row.policies,
        "token_issue_time": rfc3339(row.created_ns),
        "token_ttl": row.ttl_ns // SECOND_NS,
        "token_type": "service",
    }
    if row.metadata:
        auth["metadata"] = row.metadata
    if row.num_uses:
        auth["remaining_uses"] = max(row.num_uses, 0)
    return auth


def _request(hasher: Hasher, request: Request, token: str | None, accessor: str | None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": request.id,
        "operation": request.operation.value,
        "path": request.path,
        "remote_address": request.remote,
    }
    if request.mount is not None:
        entry["mount_point"] = request.mount.path
        entry["mount_type"] = request.mount.kind
        entry["mount_accessor"] = request.mount.accessor
    if token is not None:
        entry["client_token"] = token
    if accessor is not None:
        entry["client_token_accessor"] = accessor
    if request.data:
        entry["data"] = hasher.tree(request.data)
    if request.query:
        entry["query"] = hasher.tree(request.query)
    return entry


def _response(hasher: Hasher, request: Request, response: Response) -> dict[str, Any]:
    entry: dict[str, Any] = {"status": response.status}
    if request.mount is not None:
        entry["mount_point"] = request.mount.path
        entry["mount_type"] = request.mount.kind
    if response.auth is not None:
        entry["auth"] = _issued(hasher, response.auth)
    if response.data is not None:
        entry["data"] = hasher.tree(_bounded(request, response.data))
    if response.warnings:
        entry["warnings"] = response.warnings
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
