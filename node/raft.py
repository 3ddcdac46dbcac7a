"""Makes this node's Raft group from its settings, identity and keys."""

import contextlib
import enum
import os
import ssl
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from consensus.api import Member
from consensus.disk import free_bytes
from consensus.group import RaftGroup
from consensus.opening import GroupConfig
from consensus.options import RaftOptions
from consensus.parts import Parts
from node.config import Settings
from node.identity import Identity
from storage.keyring import JOURNAL, JournalCipher, RootKey
from storage.machine import Machine

# Power-loss rehearsals (chaos/) set this: the file whose first bytes always say how far the journal is synced.
DURABLE_FILE_VARIABLE = "STRONGROOM_CHAOS_DURABLE_FILE"
DURABLE_RECORD_BYTES = 256
ELECTION_SPREAD = 2  # election timeouts are drawn between the configured one and this many times it


class Start(enum.Enum):
    """How the group comes into being."""

    CREATE = "create"  # this node alone, behind whatever its state holds
    JOIN = "join"  # an empty learner of a running store
    OPEN = "open"  # what either left on disk


def open_group(
    *,
    start: Start,
    settings: Settings,
    directory: Path,
    identity: Identity,
    root: RootKey,
    machine: Machine,
    members: tuple[Member, ...],
    term: int,
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
    observe_fsync: Callable[[float], None],
) -> RaftGroup:
    """Blocking (reads the whole log). `members` for JOIN, `term` of the state for CREATE.

    Raises consensus.errors.Corrupt if the disk must not be trusted.
    """
    host, _, port = settings.cluster_listen.rpartition(":")
    config = GroupConfig(
        node_id=settings.node_id,
        cluster_id=identity.cluster_id,
        owner=identity.owner,
        directory=directory,
        listen=(host.strip("[]"), int(port)),
        source=settings.cluster_source,
        server_tls=tls[0],
        client_tls=tls[1],
        cipher=JournalCipher(root.derive(JOURNAL)),
        on_durable=_durable_publisher(),
        options=RaftOptions(
            heartbeat_s=settings.heartbeat_s,
            election_min_s=settings.election_timeout_s,
            election_max_s=settings.election_timeout_s * ELECTION_SPREAD,
            read_leases=settings.read_leases,
        ),
    )
    parts = Parts(observe_fsync=observe_fsync, free_elsewhere_bytes=lambda: _least_free(settings.audit_files))
    match start:
        case Start.CREATE:
            address = settings.cluster_address
            return RaftGroup.create(config, machine, address=address, term=term, parts=parts)
        case Start.JOIN:
            return RaftGroup.join(config, machine, members=members, parts=parts)
        case Start.OPEN:
            return RaftGroup.open(config, machine, parts=parts)


def _least_free(files: Iterable[Path]) -> int:
    """The room in bytes beside the file that has the least: a leader without room for audit records answers nobody."""
    least = sys.maxsize
    for file in files:
        with contextlib.suppress(
            OSError
        ):  # its directory has been moved away: whoever writes there will say so
            least = min(least, free_bytes(file.absolute().parent))
    return least


def _durable_publisher() -> Callable[[Path, int], None] | None:
    target = os.environ.get(DURABLE_FILE_VARIABLE)
    if target is None:
        return None
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def publish(segment: Path, offset: int) -> None:
        os.pwrite(fd, f"{segment.name} {offset}\n".encode().ljust(DURABLE_RECORD_BYTES, b"\0"), 0)

    return publish
