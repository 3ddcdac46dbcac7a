"""Taking a snapshot of the running store, as the pieces of an archive."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

from node import VERSION, seals
from node.backup import archive
from node.core.core import Core
from node.errors import DiskFull, NotYet, TooBusy

WORK_DIRECTORY = "work"  # in data_dir: what is in it is half done, and goes at the next start


class Taking:
    """One snapshot at a time on this node: each costs the disk the size of the state."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def pieces(self, core: Core) -> AsyncIterator[Iterator[bytes]]:
        """The archive's bytes; reading them blocks: do it in a thread. Raises TooBusy."""
        if self._lock.locked():
            raise TooBusy("another snapshot is being taken at this node")
        async with self._lock:
            with tempfile.TemporaryDirectory(dir=work_directory(core)) as directory:
                state = Path(directory) / archive.STATE
                try:
                    meta = await _copy(core, state)
                except OSError as error:  # most likely a full disk, which is no reason to stop
                    raise DiskFull(f"the state cannot be copied: {error.strerror or error}") from error
                seal = seals.in_force(core.unsealed, core.lifecycle)
                yield archive.pack(state, meta, seal, core.lifecycle.ca_certificate, core.unsealed.root)


async def _copy(core: Core, state: Path) -> archive.Meta:
    store = core.unsealed
    cluster = store.reads.cluster()
    if cluster is None:
        raise NotYet("this node has not caught up with the cluster yet")
    status = store.status()
    index = await store.copies.take(state)
    size_bytes = (await asyncio.to_thread(state.stat)).st_size
    servers = tuple(archive.Server(id=member.id, address=member.address) for member in status.members)
    return archive.Meta(
        version=archive.FORMAT,
        id=f"{cluster[1]}-{status.term}-{index}",
        index=index,
        term=status.term,
        configuration=archive.Configuration(servers=servers),
        size=size_bytes,
        cluster_id=cluster[0],
        cluster_name=cluster[1],
        node_id=core.settings.node_id,
        taken=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        software=VERSION,
        seal_type=core.lifecycle.seal_file.type,
        state_digest=await store.copies.digest(state),
    )


def work_directory(core: Core) -> Path:
    """Where half-done snapshots lie: on the disk of the data, readable by us alone."""
    directory = core.settings.data_dir / WORK_DIRECTORY
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


def clear_work(data_dir: Path) -> None:
    """At a start: what a crash left half done."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(data_dir / WORK_DIRECTORY)


async def stream(core: Core, taking: Taking) -> AsyncGenerator[bytes, None]:
    """The archive, piece by piece."""
    async with taking.pieces(core) as pieces:
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            if piece:  # the compressor keeps some back
                yield piece
