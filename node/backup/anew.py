"""Beginning a store anew from a snapshot: its state, its root key, its seal and its authority in one data directory.

The new files are laid beside the old ones (restoring/, then restored/ by one rename), the old ones moved to
before-restore/, the new ones put in their places. Each step can be repeated, and a start repeats what a crash
interrupted. The first one who opens the directory makes this node the only member (`adopt`).
"""

import contextlib
import shutil
import time

import msgspec

from node import pki
from node.backup.archive import Contents
from node.config import Settings
from node.enrol import CA_CONTEXT
from node.errors import InvalidRequest
from node.genesis import node_record
from node.identity import Identity, Layout, incarnate_first
from node.listener_tls import ListenerTLS
from storage import files
from storage.errors import Corrupt, StorageError
from storage.keyring import DATABASE, Keyring, RootKey
from storage.machine import Machine
from storage.seal.static import read_key_file
from storage.secret import Secret

RESTORING, RESTORED, BEFORE = "restoring", "restored", "before-restore"
_MOVED = "old-moved"  # in restored/: from now on what has the names of the old files is new
BEGINNING = "restored.json"  # in the data directory until the node has opened it


class Beginning(msgspec.Struct, frozen=True):
    """What the log of a restored store begins behind, besides what its state says."""

    term: int
    ca_certificate: bytes


def check(contents: Contents, settings: Settings) -> None:
    """Whether this node's seal can open that snapshot. Raises InvalidRequest.

    With key shares nobody knows before people offer them.
    """
    if contents.seal.type != settings.seal.kind:
        raise InvalidRequest(
            f"the snapshot's seal is {contents.seal.type!r}, this node is configured for {settings.seal.kind!r}"
        )
    if settings.seal.key_file is None:
        return
    try:
        root = contents.seal.unwrap(read_key_file(settings.seal.key_file).reveal())
    except StorageError as error:
        raise InvalidRequest(f"this node's seal key does not open the snapshot's seal: {error}") from None
    check_root(contents, root)


def check_root(contents: Contents, root: RootKey) -> None:
    """Whether everything in the snapshot is of this root key. Raises InvalidRequest."""
    if not contents.is_of(root):
        raise InvalidRequest("the snapshot was altered: its sums are not those that its seal vouches for")
    scratch = contents.state.with_name(contents.state.name + ".opened")
    try:
        files.copy_durable(contents.state, scratch)
        with contextlib.closing(Machine.open(scratch, key=root.derive(DATABASE))) as machine:
            cluster = machine.reads.cluster()
            if cluster is None or cluster[0] != contents.seal.cluster_id:
                raise InvalidRequest("the snapshot's seal belongs to another store than its state")
    except StorageError as error:
        raise InvalidRequest(f"the snapshot's state cannot be opened: {error}") from None
    finally:
        for suffix in ("", "-wal", "-shm"):
            scratch.with_name(scratch.name + suffix).unlink(missing_ok=True)


def lay_out(layout: Layout, contents: Contents) -> None:
    """Blocking: from the moment that this returns, a start of the node finishes the restore."""
    restoring = layout.root / RESTORING
    shutil.rmtree(restoring, ignore_errors=True)
    restoring.mkdir(mode=0o700)
    files.copy_durable(contents.state, restoring / layout.database.name)
    contents.seal.write(restoring / layout.seal.name)
    beginning = Beginning(contents.meta.term, contents.ca_certificate)
    files.write_atomic(restoring / BEGINNING, msgspec.json.encode(beginning))
    files.sync_directory(restoring)
    shutil.rmtree(layout.root / RESTORED, ignore_errors=True)
    files.replace(restoring, layout.root / RESTORED)


def finish(layout: Layout) -> bool:
    """Blocking: put what lay_out() laid ready into its place. Returns whether there was anything."""
    restored = layout.root / RESTORED
    if not restored.exists():
        return False
    if not (restored / _MOVED).exists():
        _move_away(layout)
        files.write_atomic(restored / _MOVED, b"")
    for name in (layout.database.name, BEGINNING, layout.seal.name):
        if (restored / name).exists():  # the seal is last: with it the directory belongs to a store
            files.replace(restored / name, layout.root / name)
    shutil.rmtree(restored)
    files.sync_directory(layout.root)
    return True


def _move_away(layout: Layout) -> None:
    """What was here stays, one generation of it, in before-restore/."""
    before = layout.root / BEFORE
    names = [layout.seal.name, layout.identity.name, layout.raft.name]
    names += [layout.database.name + suffix for suffix in ("", "-wal", "-shm")]
    present = [layout.root / name for name in names if (layout.root / name).exists()]
    if not present:
        return
    if layout.seal.exists():  # the first try: what a restore before this one left is given up
        shutil.rmtree(before, ignore_errors=True)
    before.mkdir(mode=0o700, exist_ok=True)
    for path in present:
        path.rename(before / path.name)
    files.sync_directory(before)
    files.sync_directory(layout.root)


def beginning(layout: Layout) -> Beginning | None:
    """Set until done(): nobody has opened the restored store yet."""
    try:
        return msgspec.json.decode((layout.root / BEGINNING).read_bytes(), type=Beginning)
    except FileNotFoundError:
        return None


def done(layout: Layout) -> None:
    files.remove(layout.root / BEGINNING)


def adopt(
    root: RootKey, beginning: Beginning, settings: Settings, layout: Layout, tls: ListenerTLS
) -> Identity:
    """Blocking: make this node, with certificates of the restored authority, the only one of the restored store.

    May be repeated. Raises WrongKey, Corrupt.
    """
    certificate = beginning.ca_certificate
    with contextlib.closing(Machine.open(layout.database, key=root.derive(DATABASE))) as machine:
        cluster, secret = machine.reads.cluster(), machine.reads.system_secret("ca-key")
        if cluster is None or secret is None:
            raise Corrupt("the restored state lacks the store's name or authority")
        keyring = Keyring(root, cluster[0])
        keyring.load(machine.reads.key_terms())
        authority = pki.Credentials(certificate, Secret(keyring.open(CA_CONTEXT, secret)))
        machine.enter_alone(node_record(settings, time.time_ns()))
    tls.replace(certificate, pki.credentials(authority, pki.listener_names(tls.hosts)))
    tls.forget_authority()
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(layout.raft)
    return incarnate_first(layout, root, node_id=settings.node_id, cluster_id=cluster[0], ca=authority)


def is_empty(layout: Layout) -> bool:
    """Whether no store has been here."""
    return not layout.seal.exists() and not (layout.root / RESTORED).exists()
