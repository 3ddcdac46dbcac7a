"""All three nodes of a cluster with many secrets are killed and started at once: `python -m bench.restart`.

Printed: how long after the start each node has answered a read of the last secret (with the default consistency, so
that there is a leader), and a write was acknowledged.
"""

import argparse
import asyncio
import shutil
import ssl
import statistics
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from bench.catch_up import Scene, mount
from node.cli.local_cluster import LocalCluster

VALUE_BYTES = 256
POLL_S = 0.02
GIVE_UP_S = 120.0
GOAL_S = 10.0


async def _until(session: aiohttp.ClientSession, method: str, url: str, body: str | None) -> float:
    """Ask until the answer is 200; returns when that was. Raises TimeoutError."""
    async with asyncio.timeout(GIVE_UP_S):
        while True:
            try:
                async with session.request(method, url, data=body) as answer:
                    if answer.status == 200:
                        return time.monotonic()
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(POLL_S)


async def _restart(scene: Scene, last: str) -> tuple[float, float]:
    """Returns the seconds until every node had answered, and until a write was acknowledged."""
    cluster = scene.cluster
    for node in cluster.nodes:
        cluster.kill(node.id)
    began = time.monotonic()
    for node in cluster.nodes:
        cluster.start(node.id)
    addresses = [node.api_address for node in cluster.nodes]
    reads = [_until(scene.session, "GET", f"{each}/v1/kv/data/{last}", None) for each in addresses]
    write = _until(scene.session, "POST", f"{addresses[0]}/v1/kv/data/after", '{"data":{"v":"1"}}')
    written, *read = await asyncio.gather(write, *reads)
    return max(read) - began, written - began


async def measure(cluster: LocalCluster, *, secrets: int, rounds: int) -> int:
    """Returns the exit code."""
    tls = ssl.create_default_context(cafile=str(cluster.ca_path))
    headers = {"X-Vault-Token": cluster.token, "X-Vault-Request": "true"}
    timeout = aiohttp.ClientTimeout(total=30.0)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=tls), headers=headers, timeout=timeout
    ) as session:
        scene = Scene(cluster, session, VALUE_BYTES)
        await mount(scene)
        began = time.monotonic()
        await scene.fill(secrets)
        print(f"{secrets:,} secrets written in {time.monotonic() - began:.0f} s", flush=True)
        found = []
        for number in range(rounds):
            found.append(await _restart(scene, f"k{secrets - 1}"))
            print(
                f"round {number + 1}: all nodes read after {found[-1][0]:.1f} s, write after {found[-1][1]:.1f} s"
            )
    reads, writes = (statistics.median(column) for column in zip(*found, strict=True))
    print(
        f"median: all nodes read after {reads:.1f} s, a write after {writes:.1f} s (to reach: {GOAL_S:.0f} s)"
    )
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code: 1 if a node did not answer within two minutes."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.restart", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--secrets", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="where the data goes (default: a temporary directory)")
    options = parser.parse_args(arguments)
    directory = Path(tempfile.mkdtemp(prefix="strongroom-restart-", dir=options.directory))
    cluster = LocalCluster(directory / "cluster")
    try:
        cluster.create()
        cluster.start_all()
        cluster.bootstrap()
        return asyncio.run(measure(cluster, secrets=options.secrets, rounds=options.rounds))
    except TimeoutError:
        print(f"FAILED: no answer within {GIVE_UP_S:.0f} s")
        return 1
    finally:
        cluster.stop_all()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
