"""Named keys that sign identity tokens: made, rotated, and known to others by their public halves.

A key that is due for rotation is rotated when it is next used to sign; what it signed before can be checked until the
verification time has passed. Pure, but for drawing keys; times and durations are nanoseconds.
"""

import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from node.auth import fields
from node.auth.fields import SECOND_NS
from node.core.fields import Field, Kind
from node.errors import InvalidRequest

DEFAULT = "default"  # is always there
RETIRED_MAX = 32  # public halves of one key
CLIENT_IDS_MAX = 256
ANY_CLIENT = "*"
DAY_NS = 24 * 3600 * SECOND_NS
ROTATION_MIN_NS = 60 * SECOND_NS
RSA_BITS = 2048

FIELDS = (
    Field("rotation_period", Kind.DURATION, "How often it is replaced."),
    Field("verification_ttl", Kind.DURATION, "For how long a replaced one can still be checked against."),
    Field("allowed_client_ids", Kind.STRINGS, "Of the roles that may sign with it; * for all."),
    Field("algorithm", Kind.STRING, "RS256, RS384, RS512, ES256, ES384, ES512 or EdDSA."),
)

_GENERATORS: Mapping[str, Callable[[], Any]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512"), lambda: rsa.generate_private_key(65537, RSA_BITS)),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ES512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}
ALGORITHMS = tuple(_GENERATORS)


class Public(msgspec.Struct, frozen=True):
    """A public half, as a JWK (RFC 7517)."""

    kid: str
    algorithm: str
    jwk: dict[str, Any]
    expires_ns: int  # 0: it signs still


class NamedKey(msgspec.Struct, frozen=True):
    """repr() shows no private key."""

    name: str
    algorithm: str = "RS256"
    rotation_period_ns: int = DAY_NS
    verification_ttl_ns: int = DAY_NS
    allowed_client_ids: tuple[str, ...] = ()
    private_pem: str = ""  # "": not drawn yet
    kid: str = ""
    rotate_ns: int = 0
    public: tuple[Public, ...] = ()

    def __repr__(self) -> str:
        return f"NamedKey({self.name!r}, {self.algorithm})"

    def allows(self, client_id: str) -> bool:
        """Whether the role with this client id may sign with it."""
        return ANY_CLIENT in self.allowed_client_ids or client_id in self.allowed_client_ids


def changed(key: NamedKey, data: Mapping[str, Any]) -> NamedKey:
    """A key with what a request says. Raises InvalidRequest."""
    given: dict[str, Any] = {}
    for name in ("rotation_period", "verification_ttl"):
        if data.get(name) is not None:
            given[f"{name}_ns"] = fields.duration_ns(data[name], name)
    if data.get("allowed_client_ids") is not None:
        given["allowed_client_ids"] = tuple(fields.strings(data["allowed_client_ids"], "allowed_client_ids"))
    if data.get("algorithm") is not None:
        given["algorithm"] = fields.text(data["algorithm"], "algorithm")
    key = msgspec.structs.replace(key, **given)
    if key.algorithm not in ALGORITHMS:
        raise InvalidRequest(f'unknown signing algorithm "{key.algorithm}"')
    if key.rotation_period_ns < ROTATION_MIN_NS:
        raise InvalidRequest("rotation_period must be at least one minute")
    if key.verification_ttl_ns > 10 * key.rotation_period_ns:
        raise InvalidRequest("verification_ttl cannot be longer than 10x rotation_period")
    if len(key.allowed_client_ids) > CLIENT_IDS_MAX:
        raise InvalidRequest(f"at most {CLIENT_IDS_MAX} client ids")
    return key


def draw(algorithm: str) -> tuple[str, dict[str, Any]]:
    """Blocking for up to a second: a new private key in PEM, and its public half as a JWK."""
    private = _GENERATORS[algorithm]()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    jwk: dict[str, Any] = json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(private.public_key()))
    return pem.decode(), jwk


def private_key(key: NamedKey) -> Any:
    """What signs. It was drawn here: to look for its primes again would hold up the process at every signature."""
    pem = key.private_pem.encode()
    return serialization.load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)


def rotated(
    key: NamedKey, drawn: tuple[str, dict[str, Any]], now_ns: int, *, verification_ttl_ns: int | None = None
) -> NamedKey:
    """The key with a new pair; the old public half stays for the verification time."""
    pem, jwk = drawn
    kid = str(uuid.uuid4())
    ends_ns = now_ns + (key.verification_ttl_ns if verification_ttl_ns is None else verification_ttl_ns)
    retired = [
        msgspec.structs.replace(each, expires_ns=each.expires_ns or ends_ns)
        for each in key.public
        if not each.expires_ns or each.expires_ns > now_ns
    ]
    jwk = {"kty": jwk["kty"], "use": "sig", "alg": key.algorithm, "kid": kid} | {
        name: value for name, value in jwk.items() if name in ("n", "e", "crv", "x", "y")
    }
    return msgspec.structs.replace(
        key,
        private_pem=pem,
        kid=kid,
        rotate_ns=now_ns + key.rotation_period_ns,
        public=(*retired[-(RETIRED_MAX - 1) :], Public(kid, key.algorithm, jwk, 0)),
    )


def data(key: NamedKey) -> dict[str, Any]:
    """A key as it is shown."""
    return {
        "algorithm": key.algorithm,
        "allowed_client_ids": list(key.allowed_client_ids),
        "rotation_period": key.rotation_period_ns // SECOND_NS,
        "verification_ttl": key.verification_ttl_ns // SECOND_NS,
    }
