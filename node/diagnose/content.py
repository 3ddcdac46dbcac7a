"""What a stopped node would find on its disk when it starts: who it is, its state, its log."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from consensus.errors import Corrupt
from consensus.opening import JOURNAL_DIR, SNAPSHOT_DIR, check_covers
from consensus.recovery import recover
from node.config import Settings
from node.diagnose import keys
from node.diagnose.disk import in_use
from node.diagnose.finding import Finding, Findings, fail, ok, skipped, warn
from node.identity import Identity, Layout, read_identity
from storage.errors import StorageError
from storage.keyring import DATABASE, JOURNAL, PEER_IDENTITY, JournalCipher, RootKey
from storage.machine import Machine

STATE_BYTES_MAX = JOURNAL_BYTES_MAX = 1 << 30  # larger ones are not read just to look at them
AGAIN = (
    "remove this node from its cluster (operator raft remove-peer), empty the directory, join again;"
    " if it is the only one, begin anew from a snapshot (operator raft snapshot bootstrap)"
)


def check(settings: Settings) -> Findings:
    layout = Layout(settings.data_dir)
    root = keys.root_key(settings, layout)
    if root is None or not layout.identity.exists():
        return  # the checks of the seal and of the files say why
    try:
        identity = read_identity(layout.identity, root.derive(PEER_IDENTITY))
    except StorageError as error:
        yield fail("identity", f"{layout.identity} cannot be read: {error}", AGAIN)
        return
    if in_use(settings.data_dir):
        yield skipped("state and log", "the node runs, and has read them")
        return
    applied_index: int | None = None
    if not layout.database.exists() or layout.database.stat().st_size > STATE_BYTES_MAX:
        yield skipped("state", f"{layout.database} is missing, or too large to try")
    else:
        try:
            with state_copy(layout, root) as machine:
                applied_index = machine.applied_index
            yield ok("state", f"{layout.database} opens; it holds the log up to entry {applied_index}")
        except StorageError as error:
            yield fail("state", f"{layout.database} cannot be opened: {error}", AGAIN)
    yield _log(layout, root, identity, applied_index)


@contextmanager
def state_copy(layout: Layout, root: RootKey) -> Iterator[Machine]:
    """A copy of the state, open: a running node is not disturbed. Raises StorageError."""
    with tempfile.TemporaryDirectory(prefix="strongroom-diagnose-") as directory:
        copy = Path(directory) / layout.database.name
        for suffix in ("-wal", ""):
            source = layout.database.with_name(layout.database.name + suffix)
            if source.exists():
                shutil.copyfile(source, copy.with_name(copy.name + suffix))
        machine = Machine.open(copy, key=root.derive(DATABASE))
        try:
            yield machine
        finally:
            machine.close()


def _log(layout: Layout, root: RootKey, identity: Identity, applied_index: int | None) -> Finding:
    """With the state's `applied_index`, also whether one goes on where the other ends."""
    directory = layout.raft / JOURNAL_DIR
    if sum(path.stat().st_size for path in directory.glob("*")) > JOURNAL_BYTES_MAX:
        return skipped("log", f"{directory} is too large to try")
    try:
        recovered, _ = recover(directory, owner=identity.owner, cipher=JournalCipher(root.derive(JOURNAL)))
        arriving = any((layout.raft / SNAPSHOT_DIR).glob("incoming*"))  # the start takes that in first
        if applied_index is not None and not arriving:
            check_covers(recovered, applied_index)
    except Corrupt as error:
        return fail("log", f"{directory} cannot be used: {error}", AGAIN)
    message = f"{directory} can be read: {len(recovered.entries)} entries"
    if recovered.torn_bytes:
        return warn(
            "log",
            f"{message}, and {recovered.torn_bytes} bytes at its end that are no whole write",
            "a power loss leaves that, and the start cuts it off; if there was none, the disk is not to be trusted",
        )
    return ok("log", message)
