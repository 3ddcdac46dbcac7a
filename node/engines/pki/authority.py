"""What a PKI mount keeps: issuers with their keys, certificates by serial number, and its configuration.

A certificate that is revoked has an entry of its own besides, so that a revocation list (revocation.py) is made from
those alone.
"""

from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from node.auth.fields import SECOND_NS
from node.engines.pki import certificates as c
from node.engines.shelf import Shelf
from node.errors import InvalidRequest
from storage.command import AnyCommand

ISSUERS = "issuer/"
KEYS = "key/"
CERTS = "cert/"
REVOKED = "revoked/"
CRL = "crl/"
CONFIG = "config/"

ISSUERS_MAX = 100
KEYS_MAX = 1_000
CHAIN_MAX = 10
DEFAULT = "default"
SIGNING = "issuing-certificates"
USAGES = ("crl-signing", SIGNING, "ocsp-signing", "read-only")

NO_ISSUER = "no default issuer currently configured"

_STALE = {"crl": "", "made_ns": 0}

CRL_DEFAULTS: dict[str, Any] = {
    "allow_expired_cert_revocation": False,
    "auto_rebuild": False,
    "auto_rebuild_grace_period": "12h",
    "delta_rebuild_interval": "15m",
    "disable": False,
    "enable_delta": False,
    "expiry": "72h",
    "ocsp_disable": False,
    "ocsp_expiry": "12h",
}
URL_DEFAULTS: dict[str, Any] = {
    "crl_distribution_points": [],
    "delta_crl_distribution_points": [],
    "enable_templating": False,
    "issuing_certificates": [],
    "ocsp_servers": [],
}


@dataclass(frozen=True, slots=True)
class Issuer:
    """A certificate that may issue others, if its key is here too."""

    id: str
    name: str
    certificate: x509.Certificate
    key_id: str
    usage: tuple[str, ...]
    revoked_ns: int
    leaf_not_after_behavior: str
    revision: int

    @property
    def pem(self) -> str:
        return c.to_pem(self.certificate)

    def stored(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "certificate": self.pem,
            "key_id": self.key_id,
            "usage": list(self.usage),
            "revoked_ns": self.revoked_ns,
            "leaf_not_after_behavior": self.leaf_not_after_behavior,
        }


@dataclass(frozen=True, slots=True)
class Signer:
    """An issuer with its private key."""

    issuer: Issuer
    key: c.PrivateKey


# --- issuers and keys ---


def issuers(shelf: Shelf) -> list[Issuer]:
    """All of them, by id."""
    found = (_issuer(shelf, name) for name in shelf.children(ISSUERS, limit=ISSUERS_MAX))
    return [issuer for issuer in found if issuer is not None]


def _issuer(shelf: Shelf, issuer_id: str) -> Issuer | None:
    item = shelf.get(ISSUERS + issuer_id)
    if item is None:
        return None
    value = item.value
    return Issuer(
        id=issuer_id,
        name=value["name"],
        certificate=x509.load_pem_x509_certificate(value["certificate"].encode()),
        key_id=value["key_id"],
        usage=tuple(value["usage"]),
        revoked_ns=value["revoked_ns"],
        leaf_not_after_behavior=value["leaf_not_after_behavior"],
        revision=item.revision,
    )


def find_issuer(shelf: Shelf, reference: str) -> Issuer:
    """By "default", id or name. Raises InvalidRequest."""
    if reference == DEFAULT:
        reference = config(shelf, "issuers", {DEFAULT: ""})[DEFAULT]
        if not reference:
            raise InvalidRequest(NO_ISSUER)
    direct = _issuer(shelf, reference)
    if direct is not None:
        return direct
    named = next((issuer for issuer in issuers(shelf) if issuer.name == reference), None)
    if named is None:
        raise InvalidRequest(f"unable to find PKI issuer for reference: {reference}")
    return named


def find_signer(shelf: Shelf, reference: str) -> Signer:
    """An issuer that can sign, and may. Raises InvalidRequest."""
    issuer = find_issuer(shelf, reference)
    if SIGNING not in issuer.usage:
        raise InvalidRequest(
            f"requested usage {SIGNING} for issuer [{issuer.id}] but only had usage {list(issuer.usage)}"
        )
    return Signer(issuer, signing_key(shelf, issuer))


def signing_key(shelf: Shelf, issuer: Issuer) -> c.PrivateKey:
    """An issuer's private key. Raises InvalidRequest."""
    item = shelf.get(KEYS + issuer.key_id) if issuer.key_id else None
    if item is None:
        raise InvalidRequest(f"issuer {issuer.id} has no private key in this mount: it cannot sign")
    return c.load_key(item.value["private_key"].encode())


def key_by_public(shelf: Shelf, public: c.PublicKey) -> str:
    """The id of the key whose public half this is, "" if it is not here."""
    wanted = c.fingerprint(public)
    for key_id in shelf.children(KEYS, limit=KEYS_MAX):
        item = shelf.get(KEYS + key_id)
        if item is not None and item.value["fingerprint"] == wanted:
            return key_id
    return ""


def put_key(shelf: Shelf, key_id: str, key: c.PrivateKey, name: str) -> AnyCommand:
    """The command that keeps a new key. Raises InvalidRequest if there are too many."""
    if len(shelf.children(KEYS, limit=KEYS_MAX)) >= KEYS_MAX:
        raise InvalidRequest(f"a mount has at most {KEYS_MAX} keys: delete those that no issuer needs")
    value = {
        "name": name,
        "kind": c.key_kind(key),
        "fingerprint": c.fingerprint(key.public_key()),
        "private_key": c.private_pem(key),
    }
    return shelf.put(KEYS + key_id, value, expect=0)


def chain(shelf: Shelf, issuer: Issuer) -> list[Issuer]:
    """The issuer, who issued it, and so on, as far as they are here."""
    known = issuers(shelf)
    links = [issuer]
    while len(links) < CHAIN_MAX and links[-1].certificate.issuer != links[-1].certificate.subject:
        above = next((each for each in known if _issued(each, links[-1])), None)
        if above is None or above in links:
            break
        links.append(above)
    return links


def _issued(above: Issuer, below: Issuer) -> bool:
    try:
        below.certificate.verify_directly_issued_by(above.certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


# --- certificates ---


def serial_path(text: str) -> str:
    """A serial number as the store names it, however it was written ("1a:2b", "1a-2b")."""
    return text.strip().lower().replace("-", ":")


def put_certificate(shelf: Shelf, certificate: x509.Certificate, issuer_id: str) -> AnyCommand:
    """The command that keeps a certificate."""
    value = {"certificate": c.to_pem(certificate), "issuer_id": issuer_id, "revoked_ns": 0}
    return shelf.put(CERTS + c.serial(certificate.serial_number), value)


def revoke(shelf: Shelf, path: str, now_ns: int) -> tuple[int, list[AnyCommand]]:
    """When a certificate was revoked, and what is to be written for that. Raises InvalidRequest if it is not here."""
    item = shelf.get(CERTS + path)
    if item is None:
        raise InvalidRequest(f"certificate with serial {path} not found.")
    value = item.value
    if value["revoked_ns"]:
        return int(value["revoked_ns"]), []
    certificate = x509.load_pem_x509_certificate(value["certificate"].encode())
    entry = {"revoked_ns": now_ns, "issuer_id": value["issuer_id"], "ends_ns": c.ends_ns(certificate)}
    return now_ns, [
        shelf.put(CERTS + path, value | {"revoked_ns": now_ns}, expect=item.revision),
        shelf.put(REVOKED + path, entry),
        outdated(shelf, value["issuer_id"]),
    ]


def outdated(shelf: Shelf, issuer_id: str) -> AnyCommand:
    """The command after which an issuer's revocation list has to be made anew."""
    return shelf.put(CRL + issuer_id, _STALE)


# --- configuration ---


def config(shelf: Shelf, name: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """One page of the mount's configuration."""
    item = shelf.get(CONFIG + name)
    return defaults | (item.value if item is not None else {})


def put_config(shelf: Shelf, name: str, defaults: dict[str, Any], said: dict[str, Any]) -> AnyCommand:
    """The command that changes a page in what is said, unless somebody else changes it meanwhile."""
    path = CONFIG + name
    return shelf.put(path, config(shelf, name, defaults) | said, expect=shelf.revision(path))


def urls(shelf: Shelf) -> c.Urls:
    """What certificates say about where to look."""
    said = config(shelf, "urls", URL_DEFAULTS)
    return c.Urls(
        tuple(said["issuing_certificates"]),
        tuple(said["crl_distribution_points"]),
        tuple(said["ocsp_servers"]),
    )


def check_end(signer: Signer, not_after_ns: int, *, chosen: bool) -> int:
    """The end of a certificate that must not outlive its issuer; `chosen` if somebody asked for just this.

    Raises InvalidRequest.
    """
    limit_ns = c.ends_ns(signer.issuer.certificate)
    if not_after_ns <= limit_ns or signer.issuer.leaf_not_after_behavior == "permit":
        return not_after_ns
    if signer.issuer.leaf_not_after_behavior == "truncate" or not chosen:
        return limit_ns
    raise InvalidRequest(
        f"cannot satisfy request, as TTL would result in notAfter of {_date(not_after_ns)} that is beyond the"
        f" expiration of the CA certificate at {_date(limit_ns)}"
    )


def _date(ns: int) -> str:
    return c.moment(ns - ns % SECOND_NS).strftime("%Y-%m-%dT%H:%M:%SZ")
