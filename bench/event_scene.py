"""The stage of bench/events.py: two regions, who writes in the first one, and processes full of subscribers."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from bench import cores
from bench.listeners import OWN
from node.cli.local_regions import LocalRegions

MOUNT = "bench"
FANOUT_S = 0.4  # reads that begin so soon after an event that all hear meet it
GROUPS = 100  # subscribers of a node who share what they want
PROCESSES = 4
ELSEWHERE = 100  # subscribers on each other node

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
        self.lag_s: dict[int, float] = {}
        self._probes: set[asyncio.Task[None]] = set()

    async def ask(self, method: str, path: str, body: object) -> dict[str, object]:
        _, told = await self._ask(method, path, body)
        return told

    async def _ask(self, method: str, path: str, body: object) -> tuple[str, dict[str, object]]:
        """The index and the body of an answer."""
        url = f"{self.node.api_address}/v1/{path}"
        async with self.session.request(method, url, json=body) as answer:
            if answer.status >= 300:
                raise SystemExit(f"{path}: {answer.status} {await answer.text()}")
            told = dict(await answer.json()) if answer.status == 200 else {}
            return answer.headers.get("X-Vault-Index", ""), told

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
        with cores.on(cores.LOAD):  # what they take, nobody takes from the nodes
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        order = {"address": address, "ca": str(ca), "token": token, "count": count, "first": first,
                 "groups": GROUPS, "mount": MOUNT, "times": str(times)}  # fmt: skip
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        return Listeners(name, process, times, first)

    async def write(self, name: str, number: int) -> None:
        """One event, and when it was asked for and acknowledged; the other region is watched until it has it."""
        self.begun[number] = time.monotonic()
        index, _ = await self._ask("POST", f"{MOUNT}/data/{name}", {"data": {"v": str(number)}})
        self.acknowledged[number] = time.monotonic()
        probe = asyncio.create_task(self._probe(name, number, index))
        self._probes.add(probe)
        probe.add_done_callback(self._probes.discard)

    async def _probe(self, name: str, number: int, index: str) -> None:
        """How long after its acknowledgement a write can be read in the other region."""
        url = f"{self.far.nodes[0].api_address}/v1/{MOUNT}/data/{name}"
        headers = {"X-Vault-Index": index}
        async with self.session.get(url, headers=headers) as answer:
            if answer.status != 200:
                raise SystemExit(f"the other region has no {name}: {answer.status}")
        self.lag_s[number] = time.monotonic() - self.acknowledged[number]

    async def probed(self) -> None:
        """The other region has everything that was written. Raises SystemExit if it has not."""
        await asyncio.gather(*tuple(self._probes))

    async def read(self, during: list[float], between: list[float]) -> None:
        """Read at that node without pause; milliseconds that reads take while many are told, and otherwise."""
        url = f"{self.node.api_address}/v1/{MOUNT}/data/all-0"
        while True:
            began = time.monotonic()
            async with self.session.get(url) as answer:
                await answer.read()
            told_at = max((at for n, at in self.begun.items() if n < OWN), default=0.0)
            met = during if began < told_at + FANOUT_S else between
            met.append((time.monotonic() - began) * 1000)
            await asyncio.sleep(0.005)

    def processor_s(self) -> float:
        """What that node has taken of processors so far, in its main thread."""
        return int(Path(f"/proc/{self.near.pid(self.node.id)}/schedstat").read_text().split()[0]) / 1e9

    def memory_kib(self) -> int:
        status = Path(f"/proc/{self.near.pid(self.node.id)}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


@contextmanager
def everywhere(scene: Scene, token: str, subscribers: int) -> Iterator[list[Listeners]]:
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
