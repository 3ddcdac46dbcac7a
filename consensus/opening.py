"""How a group comes into being on a disk, and how it is found there again. Blocking; before the loop runs.

Three ways, never mixed: a new cluster of one (create), an empty learner that a running cluster will feed
(join), and what either left behind (open). A directory under an old id can only be opened, so nobody votes
twice because a disk was lost: whoever lost its disk joins again under a new incarnation.
"""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from consensus.api import Cipher, Member, StateMachine
from consensus.errors import Corrupt
from consensus.journal import Journal, OnDurable, Recovered
from consensus.options import RaftOptions
from consensus.records import Base, HardState
from consensus.snapshot import SnapshotFiles

JOURNAL_DIR = "log"
SNAPSHOT_DIR = "snapshots"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupConfig:
    """What a node's group needs to be told. `owner` names cluster, node and incarnation in every segment."""

    node_id: str
    cluster_id: str
    owner: str
    directory: Path
    listen: tuple[str, int]
    server_tls: ssl.SSLContext | None
    client_tls: ssl.SSLContext | None
    cipher: Cipher
    insecure: bool = False  # no TLS: tests only
    source: str = ""  # the address of this machine from which peers are called; "": any
    options: RaftOptions = field(default_factory=RaftOptions)
    on_durable: OnDurable | None = None  # told how far the journal is synced, before anyone is answered


@dataclass(slots=True)
class Disk:
    """A group's files, open."""

    journal: Journal
    recovered: Recovered
    snapshots: SnapshotFiles


def create(config: GroupConfig, members: tuple[Member, ...], *, index: int = 0, term: int = 0) -> None:
    """An empty log in which `members` are the voters, behind a state at `index` that nobody else goes on from.

    Raises FileExistsError if there is one.
    """
    base = Base(index, term, members)
    Journal.create(
        config.directory / JOURNAL_DIR,
        owner=config.owner,
        cipher=config.cipher,
        base=base,
        hard=HardState(term, None),
    ).close()


def exists(directory: Path) -> bool:
    """Whether create() or join() has been here."""
    return (directory / JOURNAL_DIR).exists()


def open_disk(config: GroupConfig, machine: StateMachine) -> Disk:
    """The journal and snapshots, with an interrupted install finished. Raises Corrupt."""
    journal, recovered = Journal.open(
        config.directory / JOURNAL_DIR,
        owner=config.owner,
        cipher=config.cipher,
        on_durable=config.on_durable,
    )
    try:
        snapshots = SnapshotFiles(config.directory / SNAPSHOT_DIR, machine)
        recovered = finish_install(journal, recovered, snapshots, machine)
        check_covers(recovered, machine.applied_index)
    except BaseException:
        journal.close()
        raise
    return Disk(journal, recovered, snapshots)


def finish_install(
    journal: Journal, recovered: Recovered, snapshots: SnapshotFiles, machine: StateMachine
) -> Recovered:
    """The order is: file durable, journal reset, machine restored, file forgotten. Go on where it stopped."""
    pending = snapshots.pending_install()
    if pending is None:
        return recovered
    path, meta = pending
    applied = machine.applied_index
    if applied < meta.index and applied < recovered.base.index:
        if recovered.base.index != meta.index:
            base = Base(meta.index, meta.term, meta.members)
            journal.reset(base)
            journal.sync()
            recovered = Recovered(base, [], recovered.hard, recovered.torn_bytes)
        machine.restore(path)
    # Otherwise the journal was not reset yet, so log and state still agree: the leader will send it again.
    snapshots.done_install()
    return recovered


def check_covers(recovered: Recovered, applied_index: int) -> None:
    """The log goes on where the state ends, or something was lost. Raises Corrupt."""
    last = recovered.entries[-1][1] if recovered.entries else recovered.base.index
    if not recovered.base.index <= applied_index <= last:
        raise Corrupt(
            f"the state is at {applied_index}, the log reaches from {recovered.base.index} to {last}: "
            "one of them was lost or replaced"
        )
