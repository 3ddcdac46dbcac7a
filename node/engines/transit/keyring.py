"""A named key of the transit engine: its versions, and the rules of what may be done with which.

Stored as one JSON entry of the mount, changed only in the revision that was read.
"""

import base64
import binascii
import dataclasses
import os
from dataclasses import dataclass
from typing import Any

from node.auth.fields import SECOND_NS, rfc3339
from node.engines.shelf import Shelf
from node.engines.transit import ciphers
from node.engines.transit.ciphers import Kind
from node.errors import InvalidRequest
from storage.command import EntryPut

KEYS = "key/"
PREFIX = "vault:v"
VERSIONS_MAX = 10_000
VERSION_MAX = 999_999_999
NOT_FOUND = "encryption key not found"


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a key. repr() shows no key."""

    material: bytes
    hmac_key: bytes
    created_ns: int

    def __repr__(self) -> str:
        return f"Version(created_ns={self.created_ns})"


@dataclass(frozen=True, slots=True)
class Key:
    """A named key; versions are numbered from 1, those before min_available_version are gone."""

    name: str
    kind: Kind
    versions: dict[int, Version]
    derived: bool = False
    convergent: bool = False
    exportable: bool = False
    backup_allowed: bool = False
    deletion_allowed: bool = False
    min_decryption_version: int = 1
    min_encryption_version: int = 0  # 0: the latest
    min_available_version: int = 0
    auto_rotate_ns: int = 0
    revision: int = 0

    @property
    def latest(self) -> int:
        return max(self.versions)

    def to_use(self, number: int) -> tuple[int, Version]:
        """The version to encrypt or sign with, 0 for the latest. Raises InvalidRequest."""
        number = number or self.latest
        if number > self.latest:
            raise InvalidRequest("requested version for encryption is higher than the latest key version")
        if number < max(self.min_encryption_version, self.min_decryption_version):
            raise InvalidRequest(
                "requested version for encryption is less than the minimum encryption key version"
            )
        return number, self.versions[number]

    def to_open(self, number: int, what: str) -> Version:
        """The version that a ciphertext or signature names. Raises InvalidRequest."""
        if number > self.latest:
            raise InvalidRequest(f"invalid {what}: version is too new")
        version = self.versions.get(number)
        if number < self.min_decryption_version or version is None:
            raise InvalidRequest("ciphertext or signature version is disallowed by policy (too old)")
        return version

    def is_due(self, now_ns: int) -> bool:
        """Whether it has been used for longer than it should be."""
        return (
            bool(self.auto_rotate_ns)
            and now_ns >= self.versions[self.latest].created_ns + self.auto_rotate_ns
        )

    def with_new_version(self, material: bytes, now_ns: int) -> "Key":
        if len(self.versions) >= VERSIONS_MAX:
            raise InvalidRequest(f"a key has at most {VERSIONS_MAX} versions: trim it")
        made = new_version(material, now_ns, self.kind)
        number = max(self.versions, default=0) + 1
        return dataclasses.replace(self, versions=self.versions | {number: made})


def new_version(material: bytes, now_ns: int, kind: Kind) -> Version:
    """A version with a key for HMACs of its own; a key of kind hmac is that itself."""
    own = material if kind.name == "hmac" else os.urandom(ciphers.HMAC_KEY_BYTES)
    return Version(material, own, now_ns)


# --- the store ---


def load(shelf: Shelf, name: str) -> Key | None:
    item = shelf.get(KEYS + name)
    return None if item is None else dataclasses.replace(restore(item.value, name), revision=item.revision)


def find(shelf: Shelf, name: str) -> Key:
    """Raises InvalidRequest."""
    key = load(shelf, name)
    if key is None:
        raise InvalidRequest(NOT_FOUND)
    return key


def save(shelf: Shelf, key: Key) -> EntryPut:
    """The command that keeps a key, in the place of the revision that it was read in."""
    return shelf.put(KEYS + key.name, plain(key), expect=key.revision)


def plain(key: Key) -> dict[str, Any]:
    """A key as JSON, private parts included: for the store, and for backups that were allowed."""
    fields = {
        field.name: getattr(key, field.name)
        for field in dataclasses.fields(key)
        if field.name not in ("kind", "versions", "revision")
    }
    versions = {
        str(number): {
            "material": base64.b64encode(version.material).decode(),
            "hmac_key": base64.b64encode(version.hmac_key).decode(),
            "created_ns": version.created_ns,
        }
        for number, version in key.versions.items()
    }
    return fields | {"kind": key.kind.name, "versions": versions}


def restore(value: dict[str, Any], name: str) -> Key:
    """The key of what plain() gave, under a name. Raises KeyError, TypeError, ValueError or InvalidRequest."""
    versions = {
        int(number): Version(
            base64.b64decode(each["material"], validate=True),
            base64.b64decode(each["hmac_key"], validate=True),
            int(each["created_ns"]),
        )
        for number, each in value["versions"].items()
    }
    known = {field.name for field in dataclasses.fields(Key)} - {"kind", "versions", "revision", "name"}
    fields = {field: value[field] for field in known if field in value}
    return Key(name=name, kind=ciphers.kind_of(value["kind"]), versions=versions, **fields)


# --- what is shown ---


def shown(key: Key) -> dict[str, Any]:
    """A key as clients see it: nothing private."""
    lowest = max(key.min_decryption_version, key.min_available_version)
    data: dict[str, Any] = {
        "allow_plaintext_backup": key.backup_allowed,
        "auto_rotate_period": key.auto_rotate_ns // SECOND_NS,
        "deletion_allowed": key.deletion_allowed,
        "derived": key.derived,
        "exportable": key.exportable,
        "imported_key": False,
        "keys": {
            str(number): _shown_version(key.kind, version)
            for number, version in sorted(key.versions.items())
            if number >= lowest
        },
        "latest_version": key.latest,
        "min_available_version": key.min_available_version,
        "min_decryption_version": key.min_decryption_version,
        "min_encryption_version": key.min_encryption_version,
        "name": key.name,
        "soft_deleted": False,
        "supports_decryption": key.kind.encrypts,
        "supports_derivation": key.kind.derives,
        "supports_encryption": key.kind.encrypts,
        "supports_signing": key.kind.signs,
        "type": key.kind.name,
    }
    if key.derived:
        data |= {"kdf": "hkdf_sha256", "convergent_encryption": key.convergent}
        data |= {"convergent_encryption_version": -1} if key.convergent else {}
    return data


def _shown_version(kind: Kind, version: Version) -> Any:
    if kind.symmetric:
        return version.created_ns // SECOND_NS
    name = f"P-{kind.curve.key_size}" if kind.curve is not None else kind.name
    return {
        "certificate_chain": "",
        "creation_time": rfc3339(version.created_ns),
        "name": name,
        "public_key": ciphers.public_text(kind, version.material),
    }


# --- texts ---


def to_text(number: int, data: bytes) -> str:
    """ "vault:v1:" and base64."""
    return f"{PREFIX}{number}:{base64.b64encode(data).decode()}"


def from_text(text: str, what: str, *, url: bool = False) -> tuple[int, bytes]:
    """The version and the bytes of a ciphertext, signature or HMAC. Raises InvalidRequest."""
    if not text.startswith(PREFIX):
        raise InvalidRequest(f"invalid {what}: no prefix")
    digits, separator, encoded = text.removeprefix(PREFIX).partition(":")
    if not separator:
        raise InvalidRequest(f"invalid {what}: wrong number of fields")
    if not digits.isascii() or not digits.isdigit() or len(digits) > len(str(VERSION_MAX)):
        raise InvalidRequest(f"invalid {what}: version number could not be decoded")
    try:
        if url:
            return int(digits), base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True)
        return int(digits), base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"invalid {what}: could not decode base64") from None


def from_base64(value: Any, name: str) -> bytes:
    """Bytes that a client sent in base64. Raises InvalidRequest, which says where it stops being that."""
    if not isinstance(value, str):
        raise InvalidRequest(f'error converting input for field "{name}": expected a base64 string')
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        position = next((at for at, character in enumerate(value) if character not in alphabet), len(value))
        raise InvalidRequest(f"illegal base64 data at input byte {position}") from None
