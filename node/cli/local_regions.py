"""Several regions on this machine: a cluster each, and between them a network that is as slow as the real one.

Nothing is printed here, and every wait has a deadline.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from node.cli import local_layout
from node.cli.local_cluster import ClusterError, LocalCluster, LocalNode, LocalRegion, Unreachable
from node.cli.local_layout import read_json, write_private
from node.cli.local_wan import LocalWan
from node.wan.orders import Door, Ways

FORMAT = "strongroom-local-regions/1"
REGIONS = (
    LocalRegion("eu", "127.0.0.11"),
    LocalRegion("us", "127.0.0.12"),
    LocalRegion("ap", "127.0.0.13"),
)
ROUND_TRIPS_S = {("eu", "us"): 0.07, ("us", "ap"): 0.09, ("eu", "ap"): 0.15}
NODES = 3
PORTS_EACH = 20  # that lie between the first ports of two regions
JOIN_TIMEOUT_S = 60.0
FOLLOW_TIMEOUT_S = 60.0
ASK_TIMEOUT_S = 5.0


class LocalRegions:
    """`regions` clusters of `nodes` in `directory`; `round_trip_s` replaces the usual ones. Raises ClusterError."""

    def __init__(
        self,
        directory: Path,
        *,
        regions: int,
        nodes: int = NODES,
        port_base: int | None = None,
        round_trip_s: float | None = None,
        extra_config: str = "",
    ) -> None:
        self.directory = directory.absolute()
        told = read_marker(self.directory)
        if told is not None and (told["regions"], told["nodes"]) != (regions, nodes):
            raise ClusterError(
                f"{directory} holds {told['regions']} regions of {told['nodes']} nodes;"
                " remove them before making others (make clean)."
            )
        self._nodes, self._round_trip_s = nodes, round_trip_s
        base = None
        if told is None:
            base = port_base or local_layout.free_ports(PORTS_EACH * regions)[0]
        self.clusters = {
            each.name: LocalCluster(
                self.directory / each.name,
                nodes=nodes,
                port_base=base and base + PORTS_EACH * number,
                region=each,
                extra_config=extra_config,
            )
            for number, each in enumerate(REGIONS[:regions])
        }
        self.wan = LocalWan(self.directory)

    @classmethod
    def open(cls, directory: Path) -> "LocalRegions":
        """Those that `directory` holds."""
        if (told := read_marker(directory)) is None:
            raise ClusterError(f"{directory} holds no regions.")
        return cls(directory, regions=told["regions"], nodes=told["nodes"])

    def create(self) -> None:
        """Make directories, keys and configuration files; idempotent, and keeps all data."""
        if read_marker(self.directory) is None:
            if self.directory.is_dir() and any(self.directory.iterdir()):
                raise ClusterError(f"{self.directory} is not empty; choose another -directory.")
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            marker = {"format": FORMAT, "regions": len(self.clusters), "nodes": self._nodes}
            write_private(_marker(self.directory), json.dumps(marker))
        for cluster in self.clusters.values():
            cluster.create()

    def remove(self) -> None:
        """Stop everything and delete the directory, if it is one of ours."""
        if self.directory.is_symlink() or read_marker(self.directory) is None:
            raise ClusterError(f"{self.directory} holds no regions of ours: nothing was removed.")
        self.stop_all()
        shutil.rmtree(self.directory)

    # --- processes ---

    def start_network(self, *more: Door) -> None:
        """Open the doors, and `more`, with every way as long as it should be; what was cut is healed."""
        doors = [
            Door(name, f"127.0.0.1:{node.link_port}", f"{cluster.region.host}:{node.link_port}")
            for name, cluster in self.clusters.items()
            if cluster.region is not None
            for node in cluster.nodes
        ]
        ways = [
            Ways(*pair, change={"delay_s": (self._round_trip_s or round_trip_s) / 2})
            for pair, round_trip_s in ROUND_TRIPS_S.items()
            if set(pair) <= set(self.clusters)
        ]
        hosts = {each.name: each.host for each in REGIONS if each.name in self.clusters}
        self.wan.start(hosts, [*doors, *more], ways)

    def dead(self) -> list[str]:
        """The ids of nodes that do not run."""
        return [node_id for cluster in self.clusters.values() for node_id in cluster.dead()]

    def running(self) -> list[str]:
        return [node_id for cluster in self.clusters.values() for node_id in cluster.running()]

    def start_all(self) -> None:
        """Start every node that does not run, and wait until each answers."""
        for cluster, node in self._everybody():
            cluster.start(node.id)
        for cluster, node in self._everybody():
            cluster.wait_serving(node.id)

    def stop_all(self) -> list[str]:
        """Stop all at once. Returns the ids of nodes that had to be killed."""
        with ThreadPoolExecutor() as pool:
            killed = [pool.submit(cluster.stop_all) for cluster in self.clusters.values()]
        self.wan.stop()
        return [node_id for each in killed for node_id in each.result()]

    def kill(self, name: str) -> None:
        """SIGKILL every node of a region."""
        for node in self.clusters[name].nodes:
            self.clusters[name].kill(node.id)

    def _everybody(self) -> list[tuple[LocalCluster, LocalNode]]:
        return [(cluster, node) for cluster in self.clusters.values() for node in cluster.nodes]

    # --- making regions of them ---

    @property
    def token(self) -> str:
        """The root token, which is good in every region."""
        return next(iter(self.clusters.values())).token

    def found(self) -> None:
        """Make the first cluster the region that orders writes, if there are none yet."""
        name, cluster = next(iter(self.clusters.items()))
        cluster.bootstrap()
        if not self.overview(name)["epoch"]:
            cluster.must(cluster.wait_leader(), "POST", "sys/regions/create")

    def follow(self, name: str) -> None:
        """Let a region follow, if it does not, and wait until it is open."""
        self.clusters[name].bootstrap(begin=partial(self._join, name))

    def _join(self, name: str, node: LocalNode) -> None:
        primary, cluster = self.clusters[self.primary()], self.clusters[name]
        leader = primary.wait_leader()
        if name in (each["name"] for each in self.overview(self.primary())["regions"]):
            primary.must(
                leader, "POST", "sys/regions/remove", {"name": name}
            )  # an attempt that was interrupted
        ticket = primary.must(leader, "POST", "sys/regions/ticket")["data"]["ticket"]
        cluster.adopt_token(self.token)
        status, answer, _ = cluster.request(
            node.id, "POST", "sys/regions/join", {"ticket": ticket}, token="", timeout=JOIN_TIMEOUT_S
        )
        if status != 200:
            raise ClusterError(f"{node.id} could not join as region {name}: {status} {answer}")

    def wait_ready(self) -> None:
        """Until every region has a leader, and each node has caught up with its own."""
        with ThreadPoolExecutor() as pool:
            waits = [pool.submit(cluster.wait_caught_up, node.id) for cluster, node in self._everybody()]
        for wait in waits:
            wait.result()

    # --- what they say of themselves ---

    def entry(self, name: str) -> str:
        """A node of the region that runs: its first one, if it can be."""
        cluster = self.clusters[name]
        running = (node.id for node in cluster.nodes if cluster.alive(node.id))
        return next(running, cluster.nodes[0].id)

    def overview(self, name: str) -> dict[str, Any]:
        """sys/regions of a node of that region."""
        told: dict[str, Any] = self.clusters[name].must(self.entry(name), "GET", "sys/regions")["data"]
        return told

    def primary(self) -> str:
        """The region that orders writes, by the newest epoch that anybody knows."""
        told = []
        for name, cluster in self.clusters.items():
            try:
                status, answer, _ = cluster.request(
                    self.entry(name), "GET", "sys/regions", timeout=ASK_TIMEOUT_S
                )
            except Unreachable:
                continue
            if status == 200:
                told.append((answer["data"]["epoch"], answer["data"]["primary"] or name))
        if not told:
            raise ClusterError("No region answers.")
        return str(max(told)[1])

    def wait_following(self, name: str, primary: str) -> None:
        """Until a region follows `primary`, and holds what that one had when it was asked."""
        position = self.overview(primary)["position"]

        def follows() -> bool:
            told = self.overview(name)
            there: int = told["position"]
            return (told["role"], told["primary"]) == ("secondary", primary) and there >= position

        self.clusters[name].wait(follows, FOLLOW_TIMEOUT_S, f"region {name} that follows {primary}")

    def wait_stuck(self, name: str) -> None:
        """Until a region that follows has noticed that it does not get on."""
        what = f"notice in {name} that its primary region is gone"
        self.clusters[name].wait(lambda: self.overview(name)["stuck"] != "", FOLLOW_TIMEOUT_S, what)


def read_marker(directory: Path) -> dict[str, Any] | None:
    """What regions.json says, None if the directory holds no regions. Raises ClusterError if it is damaged."""
    return read_json(_marker(directory), FORMAT)


def _marker(directory: Path) -> Path:
    return directory / "regions.json"
