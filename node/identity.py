"""Who this node is, on disk: its Raft identity and the keys of its TLS listener, all encrypted.

    data_dir/
      seal.former.json      what it was before the last rekey, for as long as the new shares may be in nobody's hands
      seal.json             the sealed root key: exists from the moment that the node belongs to a cluster
      identity.sealed       node id, incarnation, cluster id, peer certificate and key; under the root key
      tls/ca.pem            the certificate of the cluster's CA (public)
      tls/ca.sealed         the CA itself, from the first start until `init` moves it into the store
      tls/listener.sealed   certificate and key of the listener, when the operator brings none

The files under tls/ must be readable before the root key is known, so they are encrypted under a key
derived from the static seal key. A node with shamir shares has no such key, and brings its own files.
"""

import contextlib
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node.pki import Credentials, credentials, peer_names
from storage.errors import Corrupt
from storage.files import write_atomic
from storage.keyring import PEER_IDENTITY, RootKey
from storage.secret import Secret

FORMAT = b"\x01"
NONCE_BYTES = 12
FILE_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Identity:
    """A node's place in its cluster. The incarnation tells an empty directory from the one before it."""

    node_id: str
    incarnation: str
    cluster_id: str
    ca_certificate: bytes
    peer: Credentials

    @property
    def owner(self) -> str:
        """What the journal's files are labelled with."""
        return f"{self.cluster_id}/{self.node_id}/{self.incarnation}"


class Layout:
    """The paths of one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir
        self.seal = data_dir / "seal.json"
        self.former_seal = data_dir / "seal.former.json"
        self.identity = data_dir / "identity.sealed"
        self.database = data_dir / "state.db"
        self.raft = data_dir / "raft"
        self.tls = data_dir / "tls"
        self.ca_certificate = self.tls / "ca.pem"
        self.ca = self.tls / "ca.sealed"
        self.listener = self.tls / "listener.sealed"

    def prepare(self) -> None:
        """Create what is missing, private to this user."""
        for directory in (self.root, self.tls):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def clear_unfinished(self) -> None:
        """Without seal.json nobody was ever told of what is here: it can go. What arrived from another region stays
        until this node has a store.
        """
        self.identity.unlink(missing_ok=True)
        for suffix in ("", "-wal", "-shm"):
            self.database.with_name(self.database.name + suffix).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.raft)


def incarnate(
    layout: Layout, root: RootKey, *, node_id: str, cluster_id: str, ca_certificate: bytes, peer: Credentials
) -> Identity:
    """Who the node in this directory is from now on, under an incarnation of its own; durable on return."""
    incarnation = uuid.uuid4().hex
    identity = Identity(node_id, incarnation, cluster_id, ca_certificate, peer)
    write_identity(layout.identity, root.derive(PEER_IDENTITY), identity)
    return identity


def incarnate_first(
    layout: Layout, root: RootKey, *, node_id: str, cluster_id: str, ca: Credentials
) -> Identity:
    """incarnate() for a node that has the cluster's authority at hand, as nobody else is there to ask."""
    peer = credentials(ca, peer_names(node_id, cluster_id))
    return incarnate(
        layout, root, node_id=node_id, cluster_id=cluster_id, ca_certificate=ca.certificate, peer=peer
    )


def write_identity(path: Path, key: bytes, identity: Identity) -> None:
    """Encrypt and replace atomically; durable on return."""
    fields = {
        "node_id": identity.node_id,
        "incarnation": identity.incarnation,
        "cluster_id": identity.cluster_id,
        "ca": identity.ca_certificate,
        "certificate": identity.peer.certificate,
        "key": identity.peer.key.reveal(),
    }
    _write(path, key, fields)


def read_identity(path: Path, key: bytes) -> Identity:
    """Raises storage.errors.Corrupt if the file is not what was written under this key."""
    fields = _read(path, key)
    return Identity(
        node_id=fields["node_id"],
        incarnation=fields["incarnation"],
        cluster_id=fields["cluster_id"],
        ca_certificate=fields["ca"],
        peer=Credentials(fields["certificate"], Secret(fields["key"])),
    )


def write_credentials(path: Path, key: bytes, own: Credentials) -> None:
    """Encrypt and replace atomically; durable on return."""
    _write(path, key, {"certificate": own.certificate, "key": own.key.reveal()})


def read_credentials(path: Path, key: bytes) -> Credentials:
    """Raises storage.errors.Corrupt if the file is not what was written under this key."""
    fields = _read(path, key)
    return Credentials(fields["certificate"], Secret(fields["key"]))


def _write(path: Path, key: bytes, fields: dict[str, Any]) -> None:
    nonce = os.urandom(NONCE_BYTES)
    plaintext: bytes = msgpack.packb(fields)
    write_atomic(path, FORMAT + nonce + AESGCM(key).encrypt(nonce, plaintext, path.name.encode()))


def _read(path: Path, key: bytes) -> dict[str, Any]:
    data = path.read_bytes()[:FILE_BYTES_MAX]
    nonce = data[1 : 1 + NONCE_BYTES]
    try:
        if data[:1] != FORMAT:
            raise InvalidTag
        plaintext = AESGCM(key).decrypt(nonce, data[1 + NONCE_BYTES :], path.name.encode())
    except (InvalidTag, ValueError):
        raise Corrupt(f"{path.name} was altered, or belongs to another key") from None
    fields: dict[str, Any] = msgpack.unpackb(plaintext)
    return fields
