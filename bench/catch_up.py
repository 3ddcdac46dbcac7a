"""A follower that was away is brought up to date: `python -m bench.catch_up`.

Three nodes; one follower is killed, the others take `--entries` writes of `--value-bytes`, so that their logs are
compacted far beyond where it stopped; then it comes back while a trickle of writes goes on. Printed: how long
it took, what the leader's memory did meanwhile, whether the leader changed, and how long a write took at worst.
"""

import argparse
import asyncio
import json
import shutil
import ssl
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from node.cli.local_cluster import LocalCluster

CLIENTS = 64
SAMPLE_S = 0.05
GIVE_UP_S = 900.0
TRICKLE_S = 0.02


@dataclass
class Watch:
    """What the leader was seen to do while the follower caught up."""

    rss_mib: list[float] = field(default_factory=list)
    terms: set[int] = field(default_factory=set)
    slowest_write_s: float = 0.0
    failed_writes: int = 0


class Scene:
    """The cluster, and a client of its leader."""

    def __init__(self, cluster: LocalCluster, session: aiohttp.ClientSession, value_bytes: int) -> None:
        self.cluster, self.session = cluster, session
        self.leader = cluster.wait_leader()
        self.follower = next(node.id for node in cluster.nodes if node.id != self.leader)
        self.address = cluster.node(self.leader).api_address
        self.value = "v" * value_bytes

    async def put(self, key: str) -> bool:
        body = json.dumps({"data": {"v": self.value}})
        async with self.session.post(f"{self.address}/v1/kv/data/{key}", data=body) as answer:
            return answer.status == 200

    async def fill(self, entries: int) -> None:
        numbers = iter(range(entries))

        async def client() -> None:
            for number in numbers:
                if not await self.put(f"k{number}"):
                    raise SystemExit(f"write {number} was refused")

        await asyncio.gather(*(client() for _ in range(CLIENTS)))

    async def node(self, node_id: str) -> dict[str, object]:
        address = self.cluster.node(node_id).api_address
        async with self.session.get(f"{address}/v1/sys/cluster/node") as answer:
            found: dict[str, object] = (await answer.json())["data"]
            return found

    async def applied(self, node_id: str) -> int:
        try:
            told = await self.node(node_id)
        except (aiohttp.ClientError, TimeoutError):
            return 0
        index = told.get("applied_index", 0)
        return index if isinstance(index, int) else 0

    async def watch(self, seen: Watch) -> None:
        """Until cancelled."""
        status = Path(f"/proc/{self.cluster.pid(self.leader)}/status")
        number = 0
        while True:
            seen.rss_mib.append(resident_mib(status))
            term = (await self.node(self.leader)).get("term")
            seen.terms.add(term if isinstance(term, int) else -1)
            began = time.monotonic()
            seen.failed_writes += not await self.put(f"during{number % 10}")
            seen.slowest_write_s = max(seen.slowest_write_s, time.monotonic() - began)
            number += 1
            await asyncio.sleep(TRICKLE_S)


async def mount(scene: Scene) -> None:
    """KV version 2 at kv/."""
    body = json.dumps({"type": "kv", "options": {"version": "2"}})
    async with scene.session.post(f"{scene.address}/v1/sys/mounts/kv", data=body) as answer:
        answer.raise_for_status()


def resident_mib(status: Path) -> float:
    """A process's memory, from /proc/PID/status."""
    line = next(text for text in status.read_text(encoding="ascii").splitlines() if text.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def measure(cluster: LocalCluster, *, entries: int, value_bytes: int) -> int:
    tls = ssl.create_default_context(cafile=str(cluster.ca_path))
    headers = {"X-Vault-Token": cluster.token, "X-Vault-Request": "true"}
    timeout = aiohttp.ClientTimeout(total=60.0)
    connector = aiohttp.TCPConnector(ssl=tls, limit=CLIENTS + 8)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
        scene = Scene(cluster, session, value_bytes)
        await mount(scene)
        before = await scene.applied(scene.follower)
        cluster.kill(scene.follower)
        began = time.monotonic()
        await scene.fill(entries)
        print(f"{entries:,} writes of {value_bytes} bytes in {time.monotonic() - began:.0f} s", flush=True)
        return await _catch_up(scene, before)


async def _catch_up(scene: Scene, before: int) -> int:
    seen = Watch()
    target = await scene.applied(scene.leader)
    watching = asyncio.create_task(scene.watch(seen))
    await asyncio.sleep(1.0)
    idle_mib = max(seen.rss_mib)
    began = time.monotonic()
    scene.cluster.start(scene.follower)
    while await scene.applied(scene.follower) < target and time.monotonic() - began < GIVE_UP_S:  # noqa: ASYNC110
        await asyncio.sleep(SAMPLE_S)
    took_s = time.monotonic() - began
    watching.cancel()
    caught_up = await scene.applied(scene.follower) >= target
    state = scene.cluster.node(scene.leader).config_path.parent
    size_mib = sum(path.stat().st_size for path in state.rglob("state.db*")) / (1 << 20)
    log_mib = sum(path.stat().st_size for path in state.rglob("*.wal")) / (1 << 20)
    grown_mib = max(seen.rss_mib) - idle_mib
    rows = [
        ("entries behind", f"{target - before:,}"),
        ("state", f"{size_mib:.0f} MiB"),
        ("leader's journal on disk", f"{log_mib:.0f} MiB"),
        ("caught up", f"{'yes' if caught_up else 'NO'}, in {took_s:.1f} s from the start of its process"),
        ("changes of leader or term", str(len(seen.terms) - 1)),
        ("leader's memory before", f"{idle_mib:.0f} MiB"),
        ("leader's memory grew by", f"{grown_mib:.0f} MiB at most"),
        ("slowest write meanwhile", f"{seen.slowest_write_s * 1000:.0f} ms"),
        ("failed writes meanwhile", str(seen.failed_writes)),
    ]
    for name, value in rows:
        print(f"{name:28} {value}", flush=True)
    good = caught_up and len(seen.terms) == 1 and not seen.failed_writes and grown_mib < size_mib / 2
    print("good" if good else "NOT GOOD")
    return 0 if good else 1


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.catch_up", description=__doc__.split("\n")[0])
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--value-bytes", type=int, default=1900)
    parser.add_argument("--directory", type=Path, help="where the data goes (default: a temporary directory)")
    options = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="strongroom-catch-up-", dir=options.directory))
    cluster = LocalCluster(directory / "cluster")
    try:
        cluster.create()
        cluster.start_all()
        cluster.bootstrap()
        return asyncio.run(measure(cluster, entries=options.entries, value_bytes=options.value_bytes))
    finally:
        cluster.stop_all()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
