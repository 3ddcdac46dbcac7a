"""Events at ten thousand subscribers: `python -m bench.events` (about three minutes), `--quick` (one and a half).

Two regions of three nodes with a network between them. Measured from the moment that a write was acknowledged until a
subscriber has the event: on the node that took the write with ten thousand subscribers, on another node, in the other
region; reads on that node meanwhile; the lag of the other region, by a read there that waits for the write; the memory
of the node; subscribers that are cut off again and again and come back elsewhere with their cursor; and how long a warm
cache of the client library in the other region gives the old value. Ends with 1 if an event was lost, told twice, or
told later than promised.
"""

import argparse
import array
import asyncio
import json
import random
import shutil
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import aiohttp
from strongroom import AsyncClient, AsyncKvV2, Cache, NotFound, Token

from bench.event_scene import GROUPS, MOUNT, Listeners, Scene, everywhere
from bench.listeners import OWN
from node.cli.local_regions import LocalRegions

EVERYBODY_S = 3.0  # between two events that all hear: ten thousand writes each
COSTED = 3  # such events whose processor time is taken
GOAL_SAME_NODE_MS = 50.0
GOAL_EACH_MS = 0.03  # for every subscriber that is told the same at once: a TLS record and a system call each
GOAL_READ_MS = 50.0  # meanwhile
GOAL_REGION_MS = 50.0  # beyond the lag
GOAL_CACHE_MS = 100.0  # beyond the lag
GRACE_S = 15.0


async def _cost_us(scene: Scene, subscribers: int) -> float:
    """Writes the first COSTED events that all hear; what each delivery takes of the node's processor."""
    began = scene.processor_s()
    await asyncio.sleep(EVERYBODY_S)
    idle_s = scene.processor_s() - began
    for number in range(COSTED):
        await scene.write(f"all-{number}", number)
        await asyncio.sleep(EVERYBODY_S)
    taken_s = scene.processor_s() - began - (COSTED + 1) * idle_s
    return taken_s / (COSTED * subscribers) * 1e6


async def _for_everybody(scene: Scene, count: int) -> tuple[list[float], list[float]]:
    """Writes the others that all hear; milliseconds of reads meanwhile and in between."""
    during, between = list[float](), list[float]()
    reader = asyncio.create_task(scene.read(during, between))
    for number in range(COSTED, count):
        await scene.write(f"all-{number}", number)
        await asyncio.sleep(EVERYBODY_S)
    reader.cancel()
    with suppress(asyncio.CancelledError):
        await reader
    return during, between


async def _for_groups(scene: Scene, own: int) -> dict[int, int]:
    """Writes what one in GROUPS hears; returns how many each group has of its own."""
    versions: dict[int, int] = {}
    for number in range(own):
        group = number % GROUPS
        versions[group] = versions.get(group, 0) + 1
        await scene.write(f"own-{group}", OWN * versions[group] + group)
        await asyncio.sleep(0.05)
    await scene.probed()
    return versions


def _lost(listeners: Sequence[Listeners], everybody: int, versions: dict[int, int]) -> int:
    """Events that a subscriber did not hear, or heard twice."""
    lost = 0
    for each in listeners:
        owns = sum(heard[1] for heard in each.counts)
        meant = sum(versions.get((each.first + n) % GROUPS, 0) for n in range(len(each.counts)))
        lost += sum(abs(everybody - heard[0]) for heard in each.counts) + abs(meant - owns)
    return lost


def _latencies_ms(
    listeners: Sequence[Listeners], name: str, since: dict[int, float]
) -> dict[bool, list[float]]:
    """By whether only some heard it; milliseconds from the time of each event on, or 0."""
    found: dict[bool, list[float]] = {False: [], True: []}
    for each in listeners:
        if each.name == name:
            pairs = array.array("d")
            pairs.frombytes(each.times.read_bytes())
            for number, at in zip(pairs[::2], pairs[1::2], strict=True):
                found[number >= OWN].append(max(0.0, at - since[int(number)]) * 1000)
    return found


class Report:
    """Prints figures, and keeps whether all promises were kept."""

    def __init__(self) -> None:
        self.kept = True

    def row(self, what: str, found: list[float], goal_ms: float | None = None) -> None:
        """p50 and p99; the promise is about the p99."""
        if not found:
            return
        cuts = statistics.quantiles(found, n=100, method="inclusive")
        told = ""
        if goal_ms is not None:
            missed = cuts[98] > goal_ms
            self.kept = self.kept and not missed
            told = f"at most {goal_ms:.0f} ms" + (": MISSED" if missed else "")
        print(f"{what:<46} p50 {cuts[49]:7.1f} ms   p99 {cuts[98]:7.1f} ms   {told}", flush=True)

    def none(self, what: str, count: int) -> None:
        """What must not have happened."""
        self.kept = self.kept and not count
        print(f"{what}: {count}{' MISSED' if count else ''}", flush=True)


async def _reconnects(scene: Scene, token: str, times: int, seed: int) -> tuple[int, int]:
    """One subscriber that is cut off at random moments and comes back elsewhere; (events written, events lost)."""
    chance, written, heard = random.Random(seed), 0, set[int]()
    stop = asyncio.Event()

    async def write() -> None:
        nonlocal written
        while not stop.is_set():
            await scene.ask("POST", f"{MOUNT}/data/counted", {"data": {"v": "1"}})
            written += 1

    writer = asyncio.create_task(write())
    addresses, cursor = [node.api_address for node in scene.near.nodes], ""
    headers = {"X-Vault-Token": token, "Accept": "text/event-stream"}
    for number in range(times + 1):
        if number == times:
            stop.set()
            await writer
        url = f"{addresses[number % len(addresses)]}/v1/sys/events/subscribe/kv-v2/data-write"
        sent = headers | ({"Last-Event-ID": cursor} if cursor else {})
        until = time.monotonic() + (GRACE_S if number == times else chance.uniform(0.01, 0.1))
        async with scene.session.get(url, headers=sent) as answer:
            pending = ""
            while time.monotonic() < until and not (number == times and written in heard):
                try:
                    line = (await asyncio.wait_for(answer.content.readline(), 0.2)).decode().strip()
                except TimeoutError:
                    continue
                if line.startswith("id: "):
                    pending = line[4:]
                elif line.startswith("data: ") and "/counted" in line:
                    metadata = json.loads(line[6:])["data"]["event"]["metadata"]
                    heard.add(int(metadata["current_version"]))
                elif not line:
                    cursor = pending or cursor
            answer.close()
    return written, len(set(range(min(heard, default=1), written + 1)) - heard)


async def _cache(scene: Scene, token: str, times: int) -> tuple[list[float], list[float]]:
    """Milliseconds from the acknowledgement here until a warm cache in the other region gives the new value; and how
    many of them are not lag."""
    found, beyond = list[float](), list[float]()
    addresses = [node.api_address for node in scene.far.nodes]
    cache = Cache(push=True, fresh_s=3600, stale_s=3600)
    async with AsyncClient(addresses, Token(token), ca_file=scene.far.ca_path, cache=cache) as client:
        kv = client.kv_v2(MOUNT)
        await scene.ask("POST", f"{MOUNT}/data/cached", {"data": {"v": "-"}})
        async with asyncio.timeout(GRACE_S):
            while not await _is_there(kv):  # noqa: ASYNC110 - it has to travel first
                await asyncio.sleep(0.05)
        for number in range(times):
            while not (await kv.get("cached")).age_s:  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # until it is in the cache, and stays there
            await scene.write("cached", number)
            began = scene.acknowledged[number]
            while (await kv.get("cached"))["v"].reveal() != str(number):
                if time.monotonic() - began > GRACE_S:
                    raise SystemExit("the cache kept the old value")
                await asyncio.sleep(0.001)
            taken = time.monotonic() - began
            await scene.probed()
            found.append(taken * 1000)
            beyond.append(max(0.0, taken - scene.lag_s[number]) * 1000)
    return found, beyond


async def _is_there(kv: AsyncKvV2) -> bool:
    try:
        await kv.get("cached")
    except NotFound:
        return False
    return True


async def measure(regions: LocalRegions, directory: Path, options: argparse.Namespace) -> int:
    """Returns the exit code."""
    tls = ssl.create_default_context()
    for cluster in regions.clusters.values():
        tls.load_verify_locations(cluster.ca_path)
    headers = {"X-Vault-Token": regions.token, "X-Vault-Request": "true"}
    connector = aiohttp.TCPConnector(ssl=tls)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        scene = Scene(regions, session, directory)
        token = await scene.prepare()
        await asyncio.sleep(3)  # the other region has the token
        before = scene.memory_kib()
        began = time.monotonic()
        with everywhere(scene, token, options.subscribers) as listeners:
            print(
                f"{options.subscribers:,} subscribers on one node after {time.monotonic() - began:.0f} s",
                flush=True,
            )
            each_kib = (scene.memory_kib() - before) / options.subscribers
            cost_us = await _cost_us(scene, options.subscribers)
            during, between = await _for_everybody(scene, options.events)
            versions = await _for_groups(scene, options.own)
            await asyncio.sleep(GRACE_S / 3)
        report = Report()
        _tell(report, scene, listeners, options.subscribers)
        report.row("reads on the same node, while all are told", during, GOAL_READ_MS)
        report.row("... and in between", between)
        print(f"processor time of the node for each of {options.subscribers:,}: {cost_us:.0f} microseconds")
        print(f"memory of the node for a subscriber: {each_kib:.1f} KiB, its TLS connection included")
        report.none("events lost or told twice", _lost(listeners, options.events, versions))
        written, missing = await _reconnects(scene, token, options.reconnects, options.seed)
        report.none(f"lost in {options.reconnects} reconnects on all nodes during {written} writes", missing)
        whole, beyond = await _cache(scene, token, options.cached)
        report.row("a warm cache in the other region is new", whole)
        report.row("... beyond the lag", beyond, GOAL_CACHE_MS)
    return 0 if report.kept else 1


def _tell(report: Report, scene: Scene, listeners: Sequence[Listeners], subscribers: int) -> None:
    """When subscribers heard of what was written."""
    goals = {"same node": (GOAL_SAME_NODE_MS + GOAL_EACH_MS * subscribers, GOAL_SAME_NODE_MS)}
    for name in ("same node", "other node", "other region"):
        found = _latencies_ms(listeners, name, scene.acknowledged)
        whole = _latencies_ms(listeners, name, scene.begun)
        for few, who in ((False, "all hear it"), (True, f"one in {GROUPS} hears it")):
            report.row(f"{name}, {who}", found[few], goals[name][few] if name in goals else None)
            report.row("... since the write was asked for", whole[few])
    report.row("lag of the other region", [each * 1000 for each in scene.lag_s.values()])
    there = {number: at + scene.lag_s[number] for number, at in scene.acknowledged.items()}
    beyond = _latencies_ms(listeners, "other region", there)
    report.row("other region beyond the lag, all hear it", beyond[False], GOAL_REGION_MS)
    report.row(f"other region beyond the lag, one in {GROUPS}", beyond[True], GOAL_REGION_MS)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.events", description=__doc__)
    parser.add_argument("--subscribers", type=int, default=10_000)
    parser.add_argument(
        "--events", type=int, default=12, help="that every subscriber hears, one in three seconds"
    )
    parser.add_argument(
        "--own", type=int, default=600, help="that one subscriber in a hundred hears, 20 a second"
    )
    parser.add_argument("--reconnects", type=int, default=100)
    parser.add_argument("--cached", type=int, default=60, help="changes of a cached value")
    parser.add_argument("--round-trip-ms", type=float, default=70.0, help="between the regions")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--quick", action="store_true", help="a tenth of the subscribers, fewer events")
    options = parser.parse_args()
    if options.quick:
        options.subscribers, options.events, options.own = 1000, 5, 100
        options.cached = 20
    print(f"seed {options.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="strongroom-bench-events-"))
    regions = LocalRegions(directory / "regions", regions=2, round_trip_s=options.round_trip_ms / 1000)
    try:
        regions.create()
        regions.start_network()
        regions.start_all()
        regions.found()
        regions.follow("us")
        regions.wait_ready()
        return asyncio.run(measure(regions, directory, options))
    finally:
        regions.stop_all()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
