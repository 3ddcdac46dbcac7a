"""A snapshot as a file: a gzip'd tar in the order that Vault's clients look for, and what each part proves.

    meta.json            what it is: index, term, members, store, software (public)
    state.bin            the database, encrypted under a key that derives from the root key
    seal.json            the root key, sealed; worth nothing without the seal
    ca.pem               the certificate of the store's authority (public)
    SHA256SUMS           of the parts before it
    SHA256SUMS.sealed    the same, encrypted under a key of the same root: who altered anything cannot make this

The state is ciphertext, so the gzip stream stores it as it is. Everything here blocks: call it in a thread.
"""

import gzip
import hashlib
import hmac
import io
import os
import tarfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from storage import files
from storage.errors import StorageError
from storage.keyring import SNAPSHOT, RootKey
from storage.seal import SealFile

META, STATE, SEAL, AUTHORITY, SUMS, SEALED = (
    "meta.json", "state.bin", "seal.json", "ca.pem", "SHA256SUMS", "SHA256SUMS.sealed",
)  # fmt: skip
_PARTS = (META, STATE, SEAL, AUTHORITY, SUMS, SEALED)
_SUMMED = (META, STATE, SEAL, AUTHORITY)
STATE_BYTES_MAX = 8 << 30
PART_BYTES_MAX = 64 << 10  # of every part but the state
PIECE_BYTES = 1 << 20
# The state is noise: what unpacks to more than this many times its size is no snapshot of ours.
GROWTH_MAX = 2
NONCE_BYTES = 12
FORMAT = 1


class BadArchive(Exception):
    """This is no snapshot, or not a whole one. The message is for the operator."""


class Server(msgspec.Struct, frozen=True, rename="pascal"):
    """One member at the time of the snapshot."""

    id: str = msgspec.field(name="ID")
    address: str
    suffrage: int = 0


class Configuration(msgspec.Struct, frozen=True, rename="pascal"):
    servers: tuple[Server, ...] = ()


class Meta(msgspec.Struct, frozen=True, rename="pascal"):
    """What a snapshot says of itself; the names of the first fields are those that Vault's tools know."""

    version: int
    id: str = msgspec.field(name="ID")
    index: int
    term: int
    configuration: Configuration
    size: int  # of state.bin, bytes
    cluster_id: str = msgspec.field(name="ClusterID")
    cluster_name: str
    node_id: str = msgspec.field(name="NodeID")
    taken: str  # RFC 3339
    software: str
    seal_type: str
    state_digest: str  # of the rows in it: what a restored state must have


@dataclass(frozen=True, slots=True)
class Contents:
    """A snapshot, unpacked and whole; `directory` holds its parts as files."""

    meta: Meta
    seal: SealFile
    ca_certificate: bytes
    state: Path
    sums: bytes
    sealed: bytes

    def is_of(self, root: RootKey) -> bool:
        """Whether it was made under this root key, and nothing in it was altered since."""
        try:
            opened = _cipher(root).decrypt(self.sealed[:NONCE_BYTES], self.sealed[NONCE_BYTES:], _AAD)
        except InvalidTag:
            return False
        return hmac.compare_digest(opened, self.sums)


_AAD = b"strongroom snapshot sums v1"


def _cipher(root: RootKey) -> AESGCM:
    return AESGCM(root.derive(SNAPSHOT))


# ---- writing ----


def pack(state: Path, meta: Meta, seal: SealFile, ca_certificate: bytes, root: RootKey) -> Iterator[bytes]:
    """The bytes of the archive, in pieces."""
    gzipper = zlib.compressobj(0, zlib.DEFLATED, 31)
    small = {
        META: msgspec.json.encode(meta),
        SEAL: msgspec.json.encode(seal.as_dict()),
        AUTHORITY: ca_certificate,
    }
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in small.items()}
    with state.open("rb") as file:
        yield gzipper.compress(_part(META, small[META]))
        digest = hashlib.sha256()
        yield gzipper.compress(_head(STATE, meta.size))
        while data := file.read(PIECE_BYTES):
            digest.update(data)
            yield gzipper.compress(data)
        yield gzipper.compress(_padding(meta.size))
        sums[STATE] = digest.hexdigest()
    lines = "".join(f"{sums[name]}  {name}\n" for name in _SUMMED).encode()
    nonce = os.urandom(NONCE_BYTES)
    sealed = nonce + _cipher(root).encrypt(nonce, lines, _AAD)
    for name, data in ((SEAL, small[SEAL]), (AUTHORITY, ca_certificate), (SUMS, lines), (SEALED, sealed)):
        yield gzipper.compress(_part(name, data))
    yield gzipper.compress(bytes(2 * tarfile.BLOCKSIZE)) + gzipper.flush()


def _part(name: str, data: bytes) -> bytes:
    return _head(name, len(data)) + data + _padding(len(data))


def _head(name: str, size_bytes: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size_bytes, 0o600, int(time.time())
    return info.tobuf(tarfile.GNU_FORMAT)


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % tarfile.BLOCKSIZE)


# ---- reading ----


def unpack(source: Path, directory: Path) -> Contents:
    """The parts of an archive, checked against its sums; the state as a file in `directory`. Raises BadArchive.

    Nothing that the archive says decides where or how much is written: the names are ours, the sizes bounded.
    """
    state = directory / STATE
    try:
        with gzip.open(source, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            small, digests = _read(archive, state, GROWTH_MAX * source.stat().st_size + PART_BYTES_MAX)
            _to_the_end(stream)
    except gzip.BadGzipFile:
        raise BadArchive("failed to read snapshot: it is not compressed as snapshots are (gzip)") from None
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise BadArchive(f"failed to read snapshot: {str(error) or type(error).__name__}") from None
    missing = [name for name in _PARTS if name not in digests]
    if missing:
        raise BadArchive(f"incomplete snapshot, unable to read {missing[0]} file")
    expected = "".join(f"{digests[name]}  {name}\n" for name in _SUMMED).encode()
    if not hmac.compare_digest(expected, small[SUMS]):
        raise BadArchive("the snapshot is damaged: its parts do not match SHA256SUMS")
    try:
        meta = msgspec.json.decode(small[META], type=Meta)
        seal = SealFile.parse(msgspec.json.decode(small[SEAL]))
    except (msgspec.DecodeError, StorageError) as error:
        raise BadArchive(f"the snapshot's description cannot be read: {error}") from None
    if meta.version != FORMAT or meta.size != state.stat().st_size:
        raise BadArchive(f"a snapshot of format {meta.version}, this build reads {FORMAT}")
    return Contents(meta, seal, small[AUTHORITY], state, small[SUMS], small[SEALED])


def _read(
    archive: tarfile.TarFile, state: Path, state_bytes_max: int
) -> tuple[dict[str, bytes], dict[str, str]]:
    small: dict[str, bytes] = {}
    digests: dict[str, str] = {}
    for member in archive:
        name = member.name
        if name not in _PARTS or name in digests or not member.isreg():
            raise BadArchive("unexpected part in snapshot: this is not a snapshot of Strongroom")
        limit = min(STATE_BYTES_MAX, state_bytes_max) if name == STATE else PART_BYTES_MAX
        if member.size > limit:
            raise BadArchive(f"{name} in the snapshot is larger than {limit} bytes")
        part = archive.extractfile(member)
        if part is None:
            raise BadArchive(f"{name} in the snapshot cannot be read")
        if name == STATE:
            files.create_empty(state)
            with state.open("r+b") as target:
                digests[name] = _copy(part, target, member.size)
        else:
            buffer = io.BytesIO()
            digests[name] = _copy(part, buffer, member.size)
            small[name] = buffer.getvalue()
    return small, digests


def _copy(source: Any, target: BinaryIO, size_bytes: int) -> str:
    digest = hashlib.sha256()
    left = size_bytes
    while left:
        data = source.read(min(PIECE_BYTES, left))
        if not data:
            raise BadArchive("the snapshot ends too early")
        digest.update(data)
        target.write(data)
        left -= len(data)
    return digest.hexdigest()


def _to_the_end(stream: Any) -> None:
    """So that the gzip checksum is looked at; what follows the tar is at most its padding."""
    left = stream.read(PART_BYTES_MAX)
    if len(left) == PART_BYTES_MAX or left.strip(b"\0"):
        raise BadArchive("unexpected data behind the snapshot")
