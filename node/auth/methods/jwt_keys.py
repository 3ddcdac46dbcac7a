"""The public keys that JWTs are checked with: given as PEM, or fetched from where their issuer publishes them.

What is fetched is bounded in size and time, from an address that an operator set; redirects are not followed. Keys are
kept for a while; a token that names an unknown one makes this node look again, but not more often than every few
seconds. When the issuer cannot be reached the keys known last are good for a while longer, and those who log in
meanwhile do not all wait for another try of their own.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from node.auth.methods.fetching import FetchError, exchange
from node.errors import InvalidRequest

KEYS_MAX = 64
KEPT_S = 300.0
KEPT_WITHOUT_ISSUER_S = 3600.0
LOOK_AGAIN_S = 10.0
LOOK_AFTER_FAILURE_S = 2.0
SOURCES_MAX = 256
RSA_BITS_MIN = 2048

_BY_CURVE = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
ALGORITHMS = (*_RSA, *_BY_CURVE.values(), "EdDSA")


@dataclass(frozen=True, slots=True)
class Key:
    """A public key, and the algorithms that it can check: never one of another family."""

    kid: str
    algorithms: tuple[str, ...]
    key: Any


@dataclass(frozen=True, slots=True)
class Source:
    """Where keys are fetched: a key set, or a discovery document that names one. `ca_pem` "" means the usual CAs."""

    url: str
    discovery: bool
    ca_pem: str


def from_pem(text: str) -> Key:
    """A public key or the one of a certificate. Raises InvalidRequest."""
    data = text.encode()
    try:
        if b"BEGIN CERTIFICATE" in data:
            return _key("", load_pem_x509_certificate(data).public_key())
        return _key("", load_pem_public_key(data))
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidRequest(
            "error parsing public key: data does not contain any valid public keys"
        ) from None


def _key(kid: str, key: Any) -> Key:
    """Raises ValueError for a key that is too weak or of no use here."""
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= RSA_BITS_MIN:
        return Key(kid, _RSA, key)
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _BY_CURVE:
        return Key(kid, (_BY_CURVE[key.curve.name],), key)
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return Key(kid, ("EdDSA",), key)
    raise ValueError("not a public key that signatures are checked with")


def from_jwks(document: Any) -> list[Key]:
    """The keys of a set (RFC 7517) that can be used; others in it are passed over. Raises FetchError."""
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise FetchError("the answer is no key set")
    keys = []
    for entry in entries[:KEYS_MAX]:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
            continue
        try:
            key = _key(str(entry.get("kid", "")), jwt.PyJWK(entry).key)
        except (jwt.PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
            continue
        if "alg" in entry:
            key = Key(key.kid, tuple(each for each in key.algorithms if each == entry["alg"]), key.key)
        keys.append(key)
    return keys


@dataclass(slots=True)
class _Known:
    keys: Sequence[Key] = ()
    fetched_s: float | None = None  # on the monotonic clock; None: never
    failed_s: float | None = None  # the last look, if that was in vain
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Fetcher:
    """Fetched keys by source. One look at a source at a time; the source that was met first goes first."""

    def __init__(self) -> None:
        self._known: OrderedDict[Source, _Known] = OrderedDict()

    async def keys(self, source: Source, kid: str) -> Sequence[Key]:
        """What the source publishes; looked at again if `kid` is not among it. Raises FetchError."""
        known = self._known.get(source)
        if known is None:
            known = self._known[source] = _Known()
            if len(self._known) > SOURCES_MAX:
                self._known.popitem(last=False)
        if _is_stale(known, kid):
            async with known.lock:
                if _is_stale(known, kid):
                    await self._look(source, known)
        if known.fetched_s is None or time.monotonic() - known.fetched_s > KEPT_WITHOUT_ISSUER_S:
            raise FetchError("the issuer could not be reached a moment ago")
        return known.keys

    async def _look(self, source: Source, known: _Known) -> None:
        try:
            known.keys = await fetch(source)
            known.fetched_s, known.failed_s = time.monotonic(), None
        except FetchError:
            known.failed_s = time.monotonic()


def _is_stale(known: _Known, kid: str) -> bool:
    """Whether to look now."""
    now = time.monotonic()
    if known.failed_s is not None and now - known.failed_s < LOOK_AFTER_FAILURE_S:
        return False
    if known.fetched_s is None:
        return True
    age_s = now - known.fetched_s
    unknown = bool(kid) and all(key.kid != kid for key in known.keys)
    return age_s > (LOOK_AGAIN_S if unknown else KEPT_S)


async def fetch(source: Source) -> list[Key]:
    """Look at a source now. Raises FetchError."""
    url = await _discover(source) if source.discovery else source.url
    return from_jwks(await exchange(url, ca_pem=source.ca_pem))


async def _discover(source: Source) -> str:
    """The address of the key set, from the document of exactly this issuer (OpenID Connect Discovery 1.0)."""
    base = source.url.rstrip("/")
    document = await exchange(f"{base}/.well-known/openid-configuration", ca_pem=source.ca_pem)
    if not isinstance(document, dict) or str(document.get("issuer", "")).rstrip("/") != base:
        raise FetchError("the discovery document is another issuer's")
    address = document.get("jwks_uri")
    if not isinstance(address, str):
        raise FetchError("the discovery document names no key set")
    return address
