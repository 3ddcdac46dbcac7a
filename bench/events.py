"""Events at ten thousand subscribers: `python -m bench.events` (about five minutes), `--quick` (two).

Two regions of three nodes with a network between them. Measured from the moment that a write was acknowledged until a
subscriber has the event: on the node that took the write with ten thousand subscribers, on another node, in the other
region; the memory of the node; subscribers that are cut off again and again and come back elsewhere with their cursor;
and how long a warm cache of the client library in the other region gives the old value. Ends with 1 if any event was
lost.
"""

import argparse
import array
import asyncio
import json
import random
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from strongroom import AsyncClient, Cache, Token

from bench.listeners import OWN
from node.cli.local_regions import LocalRegions

MOUNT = "bench"
EVERYBODY_S = 4.0  # between two events that all hear: ten thousand writes each
GROUPS = 100  # subscribers of a node who share what they want
PROCESSES = 4
ELSEWHERE = 100  # subscribers on each other node
GOAL_SAME_NODE_MS = 50.0
GOAL_REGION_MS = 50.0  # beyond the way there
GOAL_CACHE_MS = 100.0  # beyond the way there
GRACE_S = 15.0

POLICY = f"""
path "{MOUNT}/*" {{ capabilities = ["read"] }}
path "sys/events/subscribe/*" {{ capabilities = ["read"] }}
"""


@dataclass
class Listeners:
    """A process with subscribers of one node."""

    name: str
    process: "subprocess.Popen[str]"
    times: Path
    first: int
    counts: list[list[int]] = field(default_factory=list)

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit("subscribers could not connect")

    def end(self) -> None:
        """They are counted."""
        told, _ = self.process.communicate(timeout=60)
        self.counts = json.loads(told)


class Scene:
    """The regions, and who writes in the first one."""

    def __init__(self, regions: LocalRegions, session: aiohttp.ClientSession, directory: Path) -> None:
        self.regions, self.session, self.directory = regions, session, directory
        self.near, self.far = list(regions.clusters.values())
        leader = self.near.wait_leader()
        self.node = next(each for each in self.near.nodes if each.id == leader)
        self.other = next(each for each in self.near.nodes if each.id != leader)
        self.begun: dict[int, float] = {}
        self.acknowledged: dict[int, float] = {}

    async def ask(self, method: str, path: str, body: object) -> dict[str, object]:
        url = f"{self.node.api_address}/v1/{path}"
        async with self.session.request(method, url, json=body) as answer:
            if answer.status >= 300:
                raise SystemExit(f"{path}: {answer.status} {await answer.text()}")
            return dict(await answer.json()) if answer.status == 200 else {}

    async def prepare(self) -> str:
        """A token for subscribers."""
        await self.ask("POST", f"sys/mounts/{MOUNT}", {"type": "kv", "options": {"version": "2"}})
        await self.ask("PUT", "sys/policies/acl/bench-events", {"policy": POLICY})
        made = await self.ask("POST", "auth/token/create", {"policies": ["bench-events"]})
        auth = made["auth"]
        assert isinstance(auth, dict)
        return str(auth["client_token"])

    def listen(self, name: str, address: str, ca: Path, token: str, count: int, first: int) -> Listeners:
        times = self.directory / f"{name}-{first}.times"
        command = [sys.executable, "-m", "bench.listeners"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        order = {"address": address, "ca": str(ca), "token": token, "count": count, "first": first,
                 "groups": GROUPS, "mount": MOUNT, "times": str(times)}  # fmt: skip
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        return Listeners(name, process, times, first)

    async def write(self, name: str, number: int) -> None:
        """One event, and when it was asked for and acknowledged."""
        self.begun[number] = time.monotonic()
        await self.ask("POST", f"{MOUNT}/data/{name}", {"data": {"v": str(number)}})
        self.acknowledged[number] = time.monotonic()

    def memory_kib(self) -> int:
        status = Path(f"/proc/{self.near.pid(self.node.id)}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


@contextmanager
def _everywhere(scene: Scene, token: str, subscribers: int) -> Iterator[list[Listeners]]:
    """All subscribers; counted at the end of the block."""
    share = subscribers // PROCESSES
    far = scene.far.nodes[0]
    begun = [
        *(
            scene.listen("same node", scene.node.api_address, scene.near.ca_path, token, share, n * share)
            for n in range(PROCESSES)
        ),
        scene.listen("other node", scene.other.api_address, scene.near.ca_path, token, ELSEWHERE, 0),
        scene.listen("other region", far.api_address, scene.far.ca_path, token, ELSEWHERE, 0),
    ]
    try:
        for each in begun:
            each.wait_ready()
        yield begun
        for each in begun:
            each.end()
    finally:
        for each in begun:
            each.process.kill()


async def _events(scene: Scene, *, everybody: int, own: int) -> dict[int, int]:
    """Writes some that all hear and some that one in GROUPS does; returns how many each group has of its own."""
    for number in range(everybody):
        await scene.write(f"all-{number}", number)
        await asyncio.sleep(EVERYBODY_S)
    versions: dict[int, int] = {}
    for number in range(own):
        group = number % GROUPS
        versions[group] = versions.get(group, 0) + 1
        await scene.write(f"own-{group}", OWN * versions[group] + group)
        await asyncio.sleep(0.05)
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
    listeners: Sequence[Listeners], name: str, acknowledged: dict[int, float]
) -> dict[bool, list[float]]:
    """By whether only some heard it."""
    found: dict[bool, list[float]] = {False: [], True: []}
    for each in listeners:
        if each.name == name:
            pairs = array.array("d")
            pairs.frombytes(each.times.read_bytes())
            for number, at in zip(pairs[::2], pairs[1::2], strict=True):
                found[number >= OWN].append(max(0.0, at - acknowledged[int(number)]) * 1000)
    return found


def _row(what: str, found: list[float], goal: str = "") -> None:
    if found:
        cuts = statistics.quantiles(found, n=100)
        print(f"{what:<44} p50 {cuts[49]:7.1f} ms   p99 {cuts[98]:7.1f} ms   {goal}", flush=True)


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


async def _cache(scene: Scene, token: str, times: int) -> list[float]:
    """Milliseconds from the acknowledgement here until a warm cache in the other region gives the new value."""
    found = []
    addresses = [node.api_address for node in scene.far.nodes]
    cache = Cache(push=True, fresh_s=3600, stale_s=3600)
    async with AsyncClient(addresses, Token(token), ca_file=scene.far.ca_path, cache=cache) as client:
        kv = client.kv_v2(MOUNT)
        await scene.ask("POST", f"{MOUNT}/data/cached", {"data": {"v": "-"}})
        for number in range(times):
            while not (await kv.get("cached")).age_s:  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # until it is in the cache, and stays there
            await scene.ask("POST", f"{MOUNT}/data/cached", {"data": {"v": str(number)}})
            began = time.monotonic()
            while (await kv.get("cached"))["v"].reveal() != str(number):
                if time.monotonic() - began > GRACE_S:
                    raise SystemExit("the cache kept the old value")
                await asyncio.sleep(0.001)
            found.append((time.monotonic() - began) * 1000)
    return found


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
        with _everywhere(scene, token, options.subscribers) as listeners:
            print(
                f"{options.subscribers:,} subscribers on one node after {time.monotonic() - began:.0f} s",
                flush=True,
            )
            each_kib = (scene.memory_kib() - before) / options.subscribers
            versions = await _events(scene, everybody=options.events, own=options.own)
            await asyncio.sleep(GRACE_S / 3)
        lost = _lost(listeners, options.events, versions)
        way_ms = options.round_trip_ms / 2
        for name, goal in (
            ("same node", f"to reach: {GOAL_SAME_NODE_MS:.0f} ms"),
            ("other node", ""),
            ("other region", f"to reach: {way_ms:.0f} ms there + {GOAL_REGION_MS:.0f} ms"),
        ):
            found = _latencies_ms(listeners, name, scene.acknowledged)
            whole = _latencies_ms(listeners, name, scene.begun)
            for few, who in ((False, "all hear it"), (True, f"one in {GROUPS} hears it")):
                _row(f"{name}, {who}", found[few], goal)
                _row("... since the write was asked for", whole[few])
        print(f"memory of the node for a subscriber: {each_kib:.1f} KiB, its TLS connection included")
        print(f"events lost or told twice: {lost}", flush=True)
        written, missing = await _reconnects(scene, token, options.reconnects, options.seed)
        print(
            f"{options.reconnects} reconnects on all nodes during {written} writes: {missing} lost",
            flush=True,
        )
        _row(
            "a warm cache in the other region is new",
            await _cache(scene, token, options.cached),
            f"to reach: {way_ms:.0f} ms there + {GOAL_CACHE_MS:.0f} ms",
        )
    return 1 if lost or missing else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.events", description=__doc__)
    parser.add_argument("--subscribers", type=int, default=10_000)
    parser.add_argument(
        "--events", type=int, default=15, help="that every subscriber hears, one in four seconds"
    )
    parser.add_argument(
        "--own", type=int, default=800, help="that one subscriber in a hundred hears, 20 a second"
    )
    parser.add_argument("--reconnects", type=int, default=100)
    parser.add_argument("--cached", type=int, default=30, help="changes of a cached value")
    parser.add_argument("--round-trip-ms", type=float, default=70.0, help="between the regions")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    options = parser.parse_args()
    if options.quick:
        options.subscribers, options.events, options.own = 1000, 5, 100
        options.cached = 10
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
