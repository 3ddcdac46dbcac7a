"""What the harness needs of a cluster; node.cli.local_cluster.LocalCluster has it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol


class Node(Protocol):
    """One node: its name, where it answers, where its files are."""

    @property
    def id(self) -> str: ...
    @property
    def api_address(self) -> str: ...
    @property
    def directory(self) -> Path: ...


class Cluster(Protocol):
    """A cluster of processes on this machine. Every method may block; none needs the event loop."""

    @property
    def nodes(self) -> Sequence[Node]: ...
    @property
    def token(self) -> str: ...
    @property
    def ca_path(self) -> Path: ...

    def bootstrap(self) -> None:
        """Initialise, join all nodes, mount KV v2 at secret/; all nodes are started."""

    def start(self, node_id: str, *, env: Mapping[str, str] = ...) -> None: ...
    def kill(self, node_id: str) -> None: ...
    def alive(self, node_id: str) -> bool: ...
    def leader(self) -> str | None: ...
