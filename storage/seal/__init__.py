"""Seals: what keeps the root key while nobody needs it.

The root key lies in a small file, encrypted under a seal key that is elsewhere: split among people (shamir)
or in a key file (static). The file is bound to its store: swapped with another's, it opens nothing.
"""

import base64
import binascii
import os
import secrets
import uuid
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from storage import files
from storage.errors import Corrupt, Incompatible, InvalidShare, SealUnavailable, WrongKey
from storage.keyring import RootKey
from storage.seal import shamir, static

FORMAT = 1
KEY_BYTES = 32
NONCE_BYTES = 12
SEAL_FILE_BYTES_MAX = 64 * 1024


class SealType(StrEnum):
    SHAMIR = "shamir"
    STATIC = "static"


class SealFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sealed root key, as kept in seal.json. Nothing in it is secret, and all of it is authenticated."""

    format: int
    type: SealType
    cluster_id: str
    threshold: int
    shares: int
    nonce: str  # base64
    wrapped_root_key: str  # base64
    generation: int = 0  # grows with every rekey: of two files, which came later

    def unwrap(self, key: bytes) -> RootKey:
        """The root key. Raises WrongKey if `key` (or the file) is not the one that sealed it."""
        try:
            nonce = base64.b64decode(self.nonce, validate=True)
            wrapped = base64.b64decode(self.wrapped_root_key, validate=True)
        except binascii.Error:
            raise Corrupt("the seal file is not what was written") from None
        if len(key) != KEY_BYTES:
            raise WrongKey(f"a seal key has {KEY_BYTES} bytes")
        if len(nonce) != NONCE_BYTES:
            raise Corrupt("the seal file is not what was written")
        try:
            return RootKey(AESGCM(key).decrypt(nonce, wrapped, self._aad()))
        except InvalidTag:
            raise WrongKey("the key does not open this seal") from None

    def write(self, path: Path) -> None:
        """Replace the file at `path`, atomically and durably, readable by its owner only."""
        files.write_atomic(path, msgspec.json.format(msgspec.json.encode(self)) + b"\n")

    @classmethod
    def read(cls, path: Path) -> "SealFile":
        """Raises SealUnavailable (missing or unreadable), Corrupt, Incompatible."""
        try:
            with path.open("rb") as file:
                data = file.read(SEAL_FILE_BYTES_MAX)
        except OSError as error:
            raise SealUnavailable(f"{path}: {error.strerror}") from None
        try:
            return cls.parse(msgspec.json.decode(data))
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Corrupt("not a seal file") from None

    @classmethod
    def parse(cls, fields: object) -> "SealFile":
        """From what as_dict() gave, as JSON types. Raises Corrupt, Incompatible."""
        if isinstance(fields, dict) and fields.get("format") not in (FORMAT, None):
            raise Incompatible(f"a seal file of format {fields['format']!r}, this build reads {FORMAT}")
        try:
            return msgspec.convert(fields, cls)
        except msgspec.ValidationError:
            raise Corrupt("not a seal file") from None

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON types, to hand to a joining node."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields

    def _aad(self) -> bytes:
        bound: tuple[object, ...] = (
            self.format,
            self.type.value,
            self.cluster_id,
            self.threshold,
            self.shares,
        )
        if self.generation:
            bound += (self.generation,)
        return b"strongroom seal" + msgspec.msgpack.encode(bound)


def create_shamir(
    root: RootKey, *, cluster_id: str, shares: int, threshold: int, generation: int = 0
) -> tuple[SealFile, list[bytes]]:
    """Seal the root key under a fresh key that is split. The shares are returned once and kept nowhere.

    Raises ValueError for numbers that do not go together.
    """
    key = secrets.token_bytes(KEY_BYTES)
    parts = shamir.split(key, shares, threshold)
    return _create(root, key, SealType.SHAMIR, cluster_id, threshold, shares, generation), parts


def create_static(root: RootKey, *, cluster_id: str, key_file: Path) -> SealFile:
    """Seal the root key under the key in a file. Raises SealUnavailable."""
    return _create(root, static.read_key_file(key_file).reveal(), SealType.STATIC, cluster_id, 1, 1)


def _create(
    root: RootKey,
    key: bytes,
    kind: SealType,
    cluster_id: str,
    threshold: int,
    shares: int,
    generation: int = 0,
) -> SealFile:
    empty = SealFile(
        format=FORMAT,
        type=kind,
        cluster_id=cluster_id,
        threshold=threshold,
        shares=shares,
        nonce="",
        wrapped_root_key="",
        generation=generation,
    )
    nonce = os.urandom(NONCE_BYTES)
    wrapped = AESGCM(key).encrypt(nonce, root.reveal(), empty._aad())
    return msgspec.structs.replace(
        empty, nonce=base64.b64encode(nonce).decode(), wrapped_root_key=base64.b64encode(wrapped).decode()
    )


class Unsealer:
    """Collects shares until they open a seal. The nonce names one attempt, so that people add to the same."""

    def __init__(self, file: SealFile) -> None:
        if file.type is not SealType.SHAMIR:
            raise ValueError("only a shamir seal takes shares")
        self._file = file
        self._shares: list[bytes] = []
        self.nonce = ""

    @property
    def file(self) -> SealFile:
        """What the shares are for."""
        return self._file

    @property
    def threshold(self) -> int:
        return self._file.threshold

    @property
    def progress(self) -> int:
        """How many different shares of this attempt are in; 0 right after success, failure or reset."""
        return len(self._shares)

    def offer(self, text: str) -> RootKey | None:
        """add() for a share as people carry it: hexadecimal or base64."""
        return self.add(_decode_share(text))

    def add(self, share: bytes) -> RootKey | None:
        """One more share: the root key when it was the last one needed, else None.

        A share that is in already changes nothing. Raises InvalidShare for a malformed share (progress stays)
        and WrongKey for a complete set that does not open the seal (progress is back to 0).
        """
        self._check(share)
        if any(secrets.compare_digest(share, known) for known in self._shares):
            return None
        if not self._shares:
            self.nonce = str(uuid.uuid4())
        self._shares.append(share)
        if len(self._shares) < self.threshold:
            return None
        collected = self._shares
        self.reset()
        try:
            return self._file.unwrap(collected[0] if self.threshold == 1 else shamir.combine(collected))
        except InvalidShare:
            raise WrongKey("the shares do not belong together") from None

    def reset(self) -> None:
        """Forget the shares that are in."""
        self._shares = []
        self.nonce = ""

    def _check(self, share: bytes) -> None:
        expected = KEY_BYTES if self.threshold == 1 else KEY_BYTES + 1
        if len(share) != expected:
            raise InvalidShare(f"a share of this seal has {expected} bytes")
        if self.threshold > 1 and share[-1] == 0:
            raise InvalidShare("a share has no x coordinate")

    def __repr__(self) -> str:
        return f"Unsealer({self.progress}/{self.threshold})"


def _decode_share(text: str) -> bytes:
    """Hexadecimal first: a hexadecimal share has a length that base64 of a share never has."""
    try:
        return bytes.fromhex(text.strip())
    except ValueError:
        pass
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidShare("'key' must be a valid hex or base64 string") from None
