"""Regions of server processes on this machine, and what an operator does to them. Everything here blocks."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.workload import Endpoint
from node.cli.http_exchange import Unreachable
from node.cli.local_regions import LocalRegions

COMMAND_TIMEOUT_S = 60.0
ASK_TIMEOUT_S = 5.0
DIGEST_TIMEOUT_S = 120.0
POLL_S = 0.05
STALE_OK = {"X-Strongroom-Consistency": "stale-ok"}


class NotInTimeError(Exception):
    """The regions did not come to where they have to come by themselves: a promise is broken, and the run ends."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a command of the operator's printed; `answer` is its JSON, None where it printed none."""

    code: int
    answer: Any
    error: str


class World:
    """The regions of one run by name, in `directory`, which must not exist. `round_trip_s` None: the usual ones."""

    def __init__(
        self, directory: Path, *, regions: int, nodes: int, round_trip_s: float | None = None
    ) -> None:
        self.regions = LocalRegions(directory, regions=regions, nodes=nodes, round_trip_s=round_trip_s)
        self.directory, self.clusters = self.regions.directory, self.regions.clusters
        self.names = tuple(self.clusters)
        self.network, self.dead = self.regions.wan, self.regions.dead

    # --- processes ---

    def create(self) -> None:
        """All regions, from nothing: the first of them orders writes."""
        self.regions.create()
        self.regions.start_network()
        self.regions.start_all()
        self.regions.found()
        for name in self.names[1:]:
            self.regions.follow(name)
        self.regions.wait_ready()
        bundle = b"".join(cluster.ca_path.read_bytes() for cluster in self.clusters.values())
        self.ca_path.write_bytes(bundle)

    @property
    def ca_path(self) -> Path:
        """Whom clients trust: the authorities of all regions."""
        return self.directory / "ca.pem"

    @property
    def token(self) -> str:
        return self.regions.token

    def start(self, name: str) -> None:
        """Start all nodes of a region that do not run; they answer later."""
        for node in self.clusters[name].nodes:
            self.clusters[name].start(node.id)

    def kill(self, name: str) -> None:
        """SIGKILL all nodes of a region at one moment."""
        cluster = self.clusters[name]
        with ThreadPoolExecutor(len(cluster.nodes)) as pool:
            list(pool.map(cluster.kill, [node.id for node in cluster.nodes]))

    def restart(self, name: str, node_id: str) -> None:
        """End one node in good order, start it again, and wait until it serves."""
        cluster = self.clusters[name]
        cluster.stop(node_id)
        cluster.start(node_id)
        cluster.wait_caught_up(node_id)

    def end(self) -> None:
        """No process stays."""
        for name, cluster in self.clusters.items():
            if any(cluster.alive(node.id) for node in cluster.nodes):
                self.kill(name)
        self.network.stop()

    def endpoints(self, names: Iterable[str] | None = None) -> list[Endpoint]:
        return [
            Endpoint(node.id, node.api_address.rstrip("/"))
            for name in (self.names if names is None else names)
            for node in self.clusters[name].nodes
        ]

    # --- what an operator does ---

    def operator(self, name: str, *arguments: str, node_id: str | None = None) -> Told:
        """`strongroom region ARGUMENTS`, asked of a node of a region, as a process of its own."""
        cluster = self.clusters[name]
        done = subprocess.run(
            [sys.executable, "-m", "node.cli", "region", *arguments],
            env=os.environ | cluster.environment(node_id or cluster.nodes[0].id),
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            answer = None
        return Told(done.returncode, answer, done.stderr.strip())

    def ask(
        self,
        name: str,
        method: str,
        path: str,
        *,
        node_id: str | None = None,
        timeout_s: float = ASK_TIMEOUT_S,
    ) -> tuple[int, Any]:
        """(status, JSON) of a request to one node of a region (the first by default), of its own state."""
        cluster = self.clusters[name]
        status, body, _ = cluster.request(
            node_id or cluster.nodes[0].id, method, path, headers=STALE_OK, timeout=timeout_s
        )
        return status, body

    def overview(self, name: str, node_id: str | None = None) -> dict[str, Any]:
        """sys/regions as a node tells it; empty if it does not."""
        try:
            status, body = self.ask(name, "GET", "sys/regions", node_id=node_id)
        except Unreachable:
            return {}
        return dict(body["data"]) if status == 200 else {}

    # --- waiting ---

    def wait_in_step(self, primary: str, timeout: float) -> float:
        """Until every region is where it should be: `primary` orders writes and all others follow closely.

        Closely: each node holds what `primary` had when this was asked. Returns the seconds that it took.
        Raises NotInTimeError.
        """
        began, goal = time.monotonic(), 0
        waiting = [(name, node.id) for name in self.names for node in self.clusters[name].nodes]
        told: dict[str, Any] = {}
        while waiting:
            name, node_id = waiting[0]
            told = self.overview(name, node_id)
            wanted = "primary" if name == primary else "secondary"
            settled = told.get("role") == wanted and told["primary"] == primary and not told["stuck"]
            if settled and not goal:
                goal = self.overview(primary).get("position", 0)
            if settled and goal and told["position"] >= goal:
                waiting.pop(0)
                continue
            if time.monotonic() - began > timeout:
                raise NotInTimeError(f"after {timeout:.0f} s {node_id} is not in step: {_short(told)}")
            time.sleep(POLL_S)
        return time.monotonic() - began

    def history_digest(self, name: str, node_id: str, first: int, last: int) -> dict[str, Any] | None:
        """sys/regions/digest of a node, from position `first` (0: the first one kept) to `last`; None: no answer."""
        try:
            path = f"sys/regions/digest?first={first}&last={last}"
            status, body = self.ask(name, "GET", path, node_id=node_id, timeout_s=DIGEST_TIMEOUT_S)
        except Unreachable:
            return None
        return dict(body["data"]) if status == 200 else None

    def state_digests(self, name: str) -> list[tuple[int, str]]:
        """(position, digest of all that regions share) of every node. Raises NotInTimeError if one does not tell."""
        found = []
        for node in self.clusters[name].nodes:
            status, body, _ = self.clusters[name].request(
                node.id, "GET", "sys/regions/digest?state=true", headers=STALE_OK, timeout=DIGEST_TIMEOUT_S
            )
            if status != 200:
                raise NotInTimeError(f"{node.id} answers sys/regions/digest with {status}: {body}")
            found.append((body["data"]["position"], body["data"]["state"]))
        return found


def _short(told: dict[str, Any]) -> dict[str, Any]:
    return {key: told[key] for key in ("region", "role", "epoch", "position", "stuck") if key in told}
