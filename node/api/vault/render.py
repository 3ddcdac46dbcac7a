"""From an answer or an error to bytes, as Vault's clients expect them. The one table of errors is here."""

import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from node import errors
from node.core.request import NO_CONTENT, Lease, Response, Shape, WrapInfo

if TYPE_CHECKING:
    from node.events.subscription import Subscription

JSON = "application/json"  # exactly: hvac reads the errors of a body only then

# Every NodeError: its status, and its message where it was raised without one.
STATUS: Mapping[type[errors.NodeError], tuple[int, str]] = {
    errors.InvalidRequest: (400, ""),
    errors.NotEnabled: (400, "this needs a newer release on every node of the cluster"),
    errors.PermissionDenied: (403, "1 error occurred:\n\t* permission denied\n\n"),
    errors.NotFound: (404, ""),
    errors.Unsupported: (405, ""),
    errors.TooOld: (412, "what this node has may be older than that"),
    errors.BodyTooLarge: (413, "http: request body too large"),
    errors.NotYet: (429, "this node does not hold the demanded index yet"),
    errors.TooBusy: (503, "too busy"),
    errors.DiskFull: (507, "no room on the disk for new writes; nothing happened"),
    errors.Sealed: (503, "Vault is sealed"),
    errors.NotInitialized: (503, "Vault is sealed"),
    errors.NoQuorum: (503, "no leader could be reached; nothing happened"),
    errors.NotPrimary: (503, "this region follows another one, which orders writes; nothing happened"),
    errors.OutcomeUnknown: (504, "the outcome is not known yet"),
    errors.AuditFailed: (500, "no audit sink accepted the record"),
}
_NO_LEASE = Lease(duration_s=0)
_RETRY_SOON = (errors.NotYet, errors.TooOld, errors.TooBusy, errors.NoQuorum, errors.NotPrimary)

RANDOM_IDS = 256  # drawn at a time

_encode = msgspec.json.Encoder(decimal_format="number").encode
_random: list[str] = []  # each is used once


@dataclass(slots=True)
class Rendered:
    """A status, headers without those that every answer has, and a body."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    stream: AsyncIterator[bytes] | None = None  # instead of the body
    subscription: "Subscription | None" = None  # so is this


def answer(response: Response, *, request_id: str, shape: Shape) -> Rendered:
    """A handler's response in its own shape, or else in its route's."""
    headers = dict(response.headers)
    if response.body is not None:
        return Rendered(response.status, response.body, headers)
    if response.stream is not None:
        return Rendered(response.status, b"", headers, response.stream)
    if response.subscription is not None:
        return Rendered(response.status, b"", headers, subscription=response.subscription)
    headers.setdefault("Content-Type", JSON)
    if response.data is None and response.status == NO_CONTENT:
        return Rendered(response.status, b"", dict(response.headers))
    shape = response.shape or shape
    if shape is Shape.RAW and response.wrap_info is None:
        return Rendered(response.status, _encode(response.data), headers)
    lease = response.lease or _NO_LEASE
    body: dict[str, Any] = (
        dict(response.data or {}) if shape is Shape.DOUBLE and response.wrap_info is None else {}
    )
    body |= {
        "request_id": "" if response.wrap_info is not None else response.request_id or request_id,
        "lease_id": lease.id,
        "renewable": lease.renewable,
        "lease_duration": lease.duration_s,
        "data": response.data,
        "wrap_info": None if response.wrap_info is None else _wrap_info(response.wrap_info),
        "warnings": response.warnings,
        "auth": response.auth,
    }
    return Rendered(response.status, _encode(body), headers)


def around(data: dict[str, Any]) -> tuple[bytes, bytes]:
    """The body of a 200 of Shape.LOGICAL with nothing but data: up to its request id, and after it."""
    return _BEFORE_ID, b"%b%b%b" % (_AFTER_ID, _encode(data), _AFTER_DATA)


def _wrap_info(info: WrapInfo) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "token": info.token.reveal().decode(),
        "accessor": info.accessor,
        "ttl": info.ttl_s,
        "creation_time": info.creation_time,
        "creation_path": info.creation_path,
    }
    return shown | ({"wrapped_accessor": info.wrapped_accessor} if info.wrapped_accessor else {})


_ID, _DATA = "an id", {"some": "data"}  # stand in an answer that is taken apart, once
_BEFORE_ID, _, _rest = answer(Response(data=_DATA), request_id=_ID, shape=Shape.LOGICAL).body.partition(
    _ID.encode()
)
_AFTER_ID, _, _AFTER_DATA = _rest.partition(_encode(_DATA))


def failure(error: errors.NodeError) -> Rendered:
    """A domain error as Vault would say it."""
    status, default = STATUS[type(error)]
    headers = {"Retry-After": "1"} if isinstance(error, _RETRY_SOON) else {}
    return message(status, error.message or default, headers=headers)


def message(status: int, text: str, *, headers: Mapping[str, str] | None = None) -> Rendered:
    """{"errors": [text]}, or no text at all."""
    body = _encode({"errors": [text] if text else []})
    return Rendered(status, body, {"Content-Type": JSON, **(headers or {})})


def new_request_id() -> str:
    """A random UUID, version 4."""
    if not _random:
        drawn = os.urandom(16 * RANDOM_IDS).hex()
        _random.extend(drawn[at : at + 32] for at in range(0, len(drawn), 32))
    digits = _random.pop()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
