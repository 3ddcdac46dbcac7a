"""A snapshot is saved and restored beside running writes: `python -m bench.backup`.

Three nodes with a state of `--entries` values of `--value-bytes`. The snapshot is saved at a follower and restored at
the leader, while one client goes on writing. Printed for both: how long it took, how much memory any node needed for
it, whether the leader changed, and how long the slowest write took (while the state is replaced, writes wait).
"""

import argparse
import asyncio
import shutil
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from bench.catch_up import CLIENTS, SAMPLE_S, Scene, mount, resident_mib
from node.cli.local_cluster import LocalCluster

PIECE_BYTES = 1 << 20
TIMEOUT_S = 900.0


class Meter:
    """What is seen of the cluster while something goes on."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._pids = {node.id: scene.cluster.pid(node.id) for node in scene.cluster.nodes}
        self.before = self._memory()
        self.peak = dict(self.before)
        self.terms: set[object] = set()
        self.slowest_s = 0.0
        self.failed = 0

    def _memory(self) -> dict[str, float]:
        return {name: resident_mib(Path(f"/proc/{pid}/status")) for name, pid in self._pids.items()}

    async def sample(self) -> None:
        """Until cancelled."""
        while True:
            for name, mib in self._memory().items():
                self.peak[name] = max(self.peak[name], mib)
            self.terms.add((await self._scene.node(self._scene.leader)).get("term"))
            await asyncio.sleep(SAMPLE_S)

    async def write(self) -> None:
        """Until cancelled."""
        number = 0
        while True:
            began = time.monotonic()
            self.failed += not await self._scene.put(f"during{number % 10}")
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            number += 1
            await asyncio.sleep(SAMPLE_S)


@asynccontextmanager
async def metered(scene: Scene, what: str, size: str) -> AsyncIterator[None]:
    meter = Meter(scene)
    tasks = [asyncio.create_task(meter.sample()), asyncio.create_task(meter.write())]
    await asyncio.sleep(1.0)
    began = time.monotonic()
    yield
    took_s = time.monotonic() - began
    await asyncio.sleep(1.0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    grown = max(meter.peak[name] - meter.before[name] for name in meter.before)
    print(
        f"{what}: {size} in {took_s:.1f} s, memory grew by {grown:.0f} MiB at most on any node, "
        f"{len(meter.terms) - 1} changes of term, slowest write {meter.slowest_s:.2f} s, failed {meter.failed}",
        flush=True,
    )


async def save(scene: Scene, node_id: str, file: Path) -> None:
    url = f"{scene.cluster.node(node_id).api_address}/v1/sys/storage/raft/snapshot"
    async with scene.session.get(url) as answer:
        answer.raise_for_status()
        with file.open("wb") as target:
            async for piece in answer.content.iter_chunked(PIECE_BYTES):
                await asyncio.to_thread(target.write, piece)


async def restore(scene: Scene, node_id: str, file: Path) -> None:
    url = f"{scene.cluster.node(node_id).api_address}/v1/sys/storage/raft/snapshot"

    async def pieces() -> AsyncIterator[bytes]:
        with file.open("rb") as source:
            while piece := await asyncio.to_thread(source.read, PIECE_BYTES):
                yield piece

    async with scene.session.post(url, data=pieces()) as answer:
        if answer.status != 204:
            raise SystemExit(f"the restore was answered {answer.status}: {await answer.text()}")


async def measure(cluster: LocalCluster, file: Path, *, entries: int, value_bytes: int) -> None:
    tls = ssl.create_default_context(cafile=str(cluster.ca_path))
    headers = {"X-Vault-Token": cluster.token, "X-Vault-Request": "true"}
    connector = aiohttp.TCPConnector(ssl=tls, limit=CLIENTS + 8)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
        scene = Scene(cluster, session, value_bytes)
        await mount(scene)
        began = time.monotonic()
        await scene.fill(entries)
        print(f"{entries:,} writes of {value_bytes} bytes in {time.monotonic() - began:.0f} s", flush=True)
        async with metered(scene, "saved at a follower", "the snapshot"):
            await save(scene, scene.follower, file)
        size = f"{(await asyncio.to_thread(file.stat)).st_size >> 20} MiB"
        async with metered(scene, "restored at the leader", size):
            await restore(scene, scene.leader, file)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.backup", description=__doc__.split("\n")[0])
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--value-bytes", type=int, default=1900)
    parser.add_argument("--directory", type=Path, help="where the data goes (default: a temporary directory)")
    options = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="strongroom-backup-", dir=options.directory))
    cluster = LocalCluster(directory / "cluster")
    try:
        cluster.create()
        cluster.start_all()
        cluster.bootstrap()
        asyncio.run(
            measure(
                cluster, directory / "store.snap", entries=options.entries, value_bytes=options.value_bytes
            )
        )
    finally:
        cluster.stop_all()
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
