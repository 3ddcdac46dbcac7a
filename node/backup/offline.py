"""A snapshot without a server: look at it, prove that it restores, begin a store with it. Everything here blocks."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from node.backup import anew, archive
from node.config import Settings
from node.errors import InvalidRequest
from node.identity import Layout
from storage.errors import StorageError
from storage.keyring import DATABASE, RootKey
from storage.machine import Machine
from storage.seal import SealFile, Unsealer
from storage.seal.static import read_key_file


class Failed(Exception):
    """A sentence for the operator: what is wrong with the snapshot, or with this attempt."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What verify() found out."""

    digest: str
    keys: int  # KV keys in the restored state
    index: int


@contextlib.contextmanager
def unpacked(file: Path, where: Path | None = None) -> Iterator[archive.Contents]:
    """The parts of a snapshot, whole, in a directory in `where` that goes afterwards. Raises Failed."""
    with tempfile.TemporaryDirectory(prefix="strongroom-snapshot-", dir=where) as directory:
        try:
            yield archive.unpack(file, Path(directory))
        except archive.BadArchive as error:
            raise Failed(f"{file}: {error}") from None


def root_of_key_file(seal: SealFile, key_file: Path) -> RootKey:
    """The root key of a snapshot with the static seal. Raises Failed."""
    try:
        return seal.unwrap(read_key_file(key_file).reveal())
    except StorageError as error:
        raise Failed(f"{key_file} does not open the snapshot's seal: {error}") from None


def root_of_shares(seal: SealFile, shares: Iterator[str]) -> RootKey:
    """The root key of a snapshot that people open; takes as many shares as it needs. Raises Failed."""
    unsealer = Unsealer(seal)
    try:
        for share in shares:
            if (root := unsealer.offer(share)) is not None:
                return root
    except StorageError as error:
        raise Failed(f"the shares do not open the snapshot's seal: {error}") from None
    raise Failed(f"{seal.threshold} different shares are needed")


def verify(contents: archive.Contents, root: RootKey) -> Proof:
    """Restore into a scratch node and compare digests. Raises Failed."""
    try:
        anew.check_root(contents, root)
    except InvalidRequest as error:
        raise Failed(error.message) from None
    scratch = contents.state.with_name("scratch.db")
    try:
        with contextlib.closing(Machine.open(scratch, key=root.derive(DATABASE))) as machine:
            machine.restore(contents.state)
            digest, index = machine.state_digest(), machine.applied_index
            keys = sum(len(machine.reads.kv_scan(mount.mount_id, "")) for mount in machine.reads.mounts())
    except StorageError as error:
        raise Failed(f"the snapshot does not restore: {error}") from None
    if digest != contents.meta.state_digest or index != contents.meta.index:
        raise Failed("the restored state is not the one that was saved: its digest differs")
    return Proof(digest, keys, index)


def bootstrap(contents: archive.Contents, settings: Settings) -> None:
    """Begin a store in an empty data directory; the next start of the node opens it. Raises Failed."""
    layout = Layout(settings.data_dir)
    layout.prepare()
    with _alone(settings.data_dir):
        if not anew.is_empty(layout):
            raise Failed(f"{settings.data_dir} holds a store already: this is for an empty data directory")
        try:
            anew.check(contents, settings)
        except InvalidRequest as error:
            raise Failed(error.message) from None
        anew.lay_out(layout, contents)
        anew.finish(layout)


@contextlib.contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    fd = os.open(data_dir / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Failed(f"{data_dir} is in use: stop the node first") from None
    finally:
        os.close(fd)
