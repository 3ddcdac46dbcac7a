"""Batch tokens: a row that its holder carries, sealed, so that any node of the store can read it and none keeps it.

"b." and, in base64url, a format byte, a nonce and the row under AES-256-GCM with a key derived from the root key.
Such a token has no accessor, is never renewed and cannot be revoked by itself; it dies with its parent, with
the auth method that issued it, and at its end.
"""

import base64
import binascii
import os

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node.errors import InvalidRequest
from storage.rows import Token
from storage.secret import Secret

PREFIX = "b."
BATCH_TOKEN_BYTES_MAX = 4096  # it travels in a header
_FORMAT = b"\x01"
_NONCE_BYTES = 12
_AAD = b"strongroom batch token"


class _Carried(msgspec.Struct, frozen=True, array_like=True):
    """The sealed row: field order is for as long as tokens live."""

    policies: tuple[str, ...]
    path: str
    display_name: str
    metadata: dict[str, str] | None
    ttl_ns: int
    created_ns: int
    expires_ns: int
    parent: bytes | None
    entity_id: str
    role: str
    bound_cidrs: tuple[str, ...]
    issuer: str


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Carried).decode
_FIELDS = _Carried.__struct_fields__


def seal(key: AESGCM, row: Token) -> Secret:
    """The token for a row (its digest is not used). Raises InvalidRequest if it gets too long for a header."""
    carried = _encode(_Carried(*(getattr(row, name) for name in _FIELDS)))
    nonce = os.urandom(_NONCE_BYTES)
    blob = _FORMAT + nonce + key.encrypt(nonce, carried, _AAD)
    token = PREFIX.encode() + base64.urlsafe_b64encode(blob).rstrip(b"=")
    if len(token) > BATCH_TOKEN_BYTES_MAX:
        raise InvalidRequest(
            f"a batch token has at most {BATCH_TOKEN_BYTES_MAX} bytes: less metadata, please"
        )
    return Secret(token)


def unseal(key: AESGCM, token: bytes, digest: bytes) -> Token | None:
    """The row, with `digest` for its own; None for what no node of this store has sealed."""
    try:
        text = token[len(PREFIX) :]
        blob = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        if blob[:1] != _FORMAT:
            return None
        head = 1 + _NONCE_BYTES
        carried = _decode(key.decrypt(blob[1:head], blob[head:], _AAD))
    except (binascii.Error, ValueError, InvalidTag, msgspec.MsgspecError):
        return None
    return row(digest, **{name: getattr(carried, name) for name in _FIELDS})


def row(
    digest: bytes,
    *,
    policies: tuple[str, ...],
    path: str,
    display_name: str,
    metadata: dict[str, str] | None,
    ttl_ns: int,
    created_ns: int,
    expires_ns: int,
    parent: bytes | None,
    entity_id: str,
    role: str,
    bound_cidrs: tuple[str, ...],
    issuer: str,
) -> Token:
    """A batch token as everybody else sees a token."""
    return Token(
        digest=digest,
        accessor="",
        parent=parent,
        policies=policies,
        path=path,
        display_name=display_name,
        metadata=metadata,
        num_uses=0,
        ttl_ns=ttl_ns,
        explicit_max_ttl_ns=0,
        period_ns=0,
        renewable=False,
        created_ns=created_ns,
        expires_ns=expires_ns,
        orphan=parent is None,
        last_renewal_ns=0,
        entity_id=entity_id,
        role=role,
        bound_cidrs=bound_cidrs,
        issuer=issuer,
        kind="batch",
    )
