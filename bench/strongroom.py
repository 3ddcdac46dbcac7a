"""Strongroom nodes, three unless told otherwise, as `strongroom local` starts them: TLS, audit file, static seal."""

import os
from pathlib import Path

from bench import vault
from bench.load import Recipe
from bench.processes import SystemFailedError
from bench.web import Web
from chaos.network import Network
from node.cli.local_cluster import LocalCluster, LocalNode


class Strongroom:
    """Our own."""

    name = "strongroom"

    def __init__(self, *, nodes: int = 3, proxied: bool = False, extra_config: str = "") -> None:
        """`proxied`: what nodes say to each other passes through `network`, which can slow it down; `extra_config`:
        more of every node's configuration.
        """
        self._extra_config = extra_config
        self._nodes, self._proxied = nodes, proxied
        self._network: Network | None = None
        self._cluster: LocalCluster | None = None
        self._token = ""

    @staticmethod
    def missing() -> str | None:
        return None

    def start(self, directory: Path) -> None:
        cluster = LocalCluster(
            directory, nodes=self._nodes, doors=self._proxied, extra_config=self._extra_config
        )
        cluster.create()
        if self._proxied:
            self._network = Network(cluster.nodes).__enter__()
        self._cluster = cluster
        cluster.start_all()
        cluster.bootstrap()
        self._web = Web(cluster.ca_path)
        self._token = vault.writer_token(self._web, self.leader(), cluster.token)

    @property
    def config_path(self) -> Path:
        """Of the first node."""
        return self._running().nodes[0].config_path

    def restart(self) -> None:
        """Start again what stop() stopped, and return as soon as a processor might have made it answer."""
        for node in self._running().nodes:
            self._running().start(node.id)

    def stop(self) -> None:
        if self._cluster is not None:
            self._cluster.stop_all()
        if self._network is not None:
            self._network.__exit__(None, None, None)

    def slow_down(self, address: str, delay_s: float) -> None:
        """From now on all that this node says to others, or they to it, takes so much longer each way."""
        if self._network is None:
            raise SystemFailedError("Strongroom was started without a proxy")
        self._network.change(self._network.around(self._node(address).id), delay_s=delay_s)

    def kill(self, address: str) -> None:
        """SIGKILL for the node that answers there."""
        self._running().kill(self._node(address).id)

    def revive(self, address: str) -> None:
        """Start again what kill() killed."""
        self._running().start(self._node(address).id)

    def step_down(self, address: str) -> None:
        """Ask the leader to lead no longer; returns when it has answered."""
        self._running().must(self._node(address).id, "PUT", "sys/step-down")

    def wait_whole(self) -> None:
        """Until all nodes have caught up."""
        for node in self._running().nodes:
            self._running().wait_caught_up(node.id)

    @property
    def pids(self) -> list[int]:
        cluster = self._running()
        return [pid for node in cluster.nodes if (pid := cluster.pid(node.id)) is not None]

    def pid(self, address: str) -> int:
        """Of the node that answers there. Raises SystemFailedError."""
        if (pid := self._running().pid(self._node(address).id)) is None:
            raise SystemFailedError(f"the node at {address} has ended")
        return pid

    def leader(self) -> str:
        cluster = self._running()
        return cluster.node(cluster.wait_leader()).api_address

    def follower(self) -> str:
        """The leader, where it is alone."""
        cluster = self._running()
        leader = cluster.wait_leader()
        others = [node for node in cluster.nodes if node.id != leader]
        return (others or cluster.nodes)[0].api_address

    def all(self) -> list[str]:
        return [node.api_address for node in self._running().nodes]

    def recipe(self) -> Recipe:
        return vault.recipe(self._token)

    def read(self, key: str) -> str | None:
        """From a follower: it promises the same as the leader."""
        return self.read_at(self.follower(), key)

    def read_at(self, address: str, key: str) -> str | None:
        """From this node."""
        return vault.read(self._web, address, self._token, key)

    @property
    def ca_path(self) -> Path:
        """The certificate of the authority that clients trust."""
        return self._running().ca_path

    @property
    def token(self) -> str:
        """Holds one policy, of the keys that the benchmarks use."""
        return self._token

    def forget_audit(self) -> None:
        """Empty the audit files: gigabytes of them are nobody's interest."""
        for node in self._running().nodes:
            for path in node.audit_path.parent.glob(f"{node.audit_path.stem}*"):  # read workers', too
                os.truncate(path, 0)

    def metric(self, name: str) -> float:
        """A gauge of the first node. Raises Unreachable."""
        cluster = self._running()
        url = f"{cluster.nodes[0].api_address}/v1/sys/metrics"
        for line in self._web.text(url, headers={"X-Vault-Token": cluster.token}).splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise SystemFailedError(f"there is no metric {name}")

    def put(self, key: str, value: str) -> None:
        vault.write(self._web, self.leader(), self._token, key, value)

    def _node(self, address: str) -> LocalNode:
        return next(node for node in self._running().nodes if node.api_address == address)

    def _running(self) -> LocalCluster:
        if self._cluster is None:
            raise SystemFailedError("Strongroom is not started")
        return self._cluster
