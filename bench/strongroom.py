"""Strongroom nodes, three unless told otherwise, as `strongroom local` starts them: TLS, audit file, static seal."""

from pathlib import Path

from bench import vault
from bench.load import Recipe
from bench.processes import SystemFailedError
from bench.web import Web
from node.cli.local_cluster import LocalCluster


class Strongroom:
    """Our own."""

    name = "strongroom"

    def __init__(self, *, nodes: int = 3) -> None:
        self._nodes = nodes
        self._cluster: LocalCluster | None = None
        self._token = ""

    @staticmethod
    def missing() -> str | None:
        return None

    def start(self, directory: Path) -> None:
        cluster = LocalCluster(directory, nodes=self._nodes)
        cluster.create()
        self._cluster = cluster
        cluster.start_all()
        cluster.bootstrap()
        self._web = Web(cluster.ca_path)
        self._token = vault.writer_token(self._web, self.leader(), cluster.token)

    def stop(self) -> None:
        if self._cluster is not None:
            self._cluster.stop_all()

    @property
    def pids(self) -> list[int]:
        cluster = self._running()
        return [pid for node in cluster.nodes if (pid := cluster.pid(node.id)) is not None]

    def leader(self) -> str:
        cluster = self._running()
        return cluster.node(cluster.wait_leader()).api_address

    def follower(self) -> str:
        cluster = self._running()
        leader = cluster.wait_leader()
        return next(node.api_address for node in cluster.nodes if node.id != leader)

    def all(self) -> list[str]:
        return [node.api_address for node in self._running().nodes]

    def recipe(self) -> Recipe:
        return vault.recipe(self._token)

    def read(self, key: str) -> str | None:
        """From a follower: it promises the same as the leader."""
        return vault.read(self._web, self.follower(), self._token, key)

    @property
    def token(self) -> str:
        """Holds one policy, of the keys that the benchmarks use."""
        return self._token

    def put(self, key: str, value: str) -> None:
        vault.write(self._web, self.leader(), self._token, key, value)

    def _running(self) -> LocalCluster:
        if self._cluster is None:
            raise SystemFailedError("Strongroom is not started")
        return self._cluster
