"""The directory of a local cluster: what is where, which ports, and each node's configuration.

cluster.json marks the directory as ours and remembers the ports; seal.key, init.json (with the root token)
and ca.pem stand beside it; each node has its own directory.
"""

import json
import os
import random
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from node.cli import local_process as process
from node.cli.local_process import ClusterError

FORMAT = "strongroom-local-cluster/1"
# Below the range that the kernel takes client ports from: a stopped node's port must be free when it returns.
PORTS_FIRST, PORTS_LAST = 12_000, 32_000
PORT_TRIES_MAX = 1000
SOURCES_FIRST = 11  # the last byte of the first node's address, where each has one of its own


@dataclass(frozen=True, slots=True)
class LocalNode:
    """Where one node of the cluster is."""

    id: str
    api_address: str
    api_port: int
    cluster_port: int
    directory: Path
    door_port: int = 0  # where other nodes reach its Raft listener, if not there
    source: str = ""  # the loopback address from which it calls them, if not any

    @property
    def config_path(self) -> Path:
        return self.directory / "strongroom.hcl"

    @property
    def log_path(self) -> Path:
        return self.directory / "server.log"

    @property
    def audit_path(self) -> Path:
        return self.directory / "audit.jsonl"

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    @property
    def ca_path(self) -> Path:
        return self.data_dir / "tls" / "ca.pem"

    @property
    def pid_path(self) -> Path:
        return self.directory / "server.pid"


class Layout:
    """The files of one local cluster. Nothing is written before create()."""

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int,
        port_base: int | None,
        seal: str,
        extra_config: str,
        doors: bool = False,
    ) -> None:
        self.directory = directory.absolute()
        self.marker_path = self.directory / "cluster.json"
        self.init_path = self.directory / "init.json"
        self.ca_path = self.directory / "ca.pem"
        self.seal_key_path = self.directory / "seal.key"
        self.seal = seal
        self._extra_config = extra_config
        if seal != "static" and nodes > 1:
            raise ClusterError(
                "A local cluster of several nodes needs the static seal: nodes join over TLS only."
            )
        told = read_marker(self.directory)
        ports = _choose_ports(nodes, port_base) if told is None else self._remembered(told, nodes, port_base)
        scheme = "https" if seal == "static" else "http"
        self.nodes = tuple(
            LocalNode(f"n{i}", f"{scheme}://127.0.0.1:{api}", api, raft, self.directory / f"n{i}")
            for i, (api, raft) in enumerate(ports, 1)
        )
        if doors:
            self.nodes = tuple(
                replace(node, door_port=port, source=f"127.0.0.{SOURCES_FIRST + i}")
                for i, (node, port) in enumerate(
                    zip(self.nodes, free_ports(nodes, but=sum(ports, ())), strict=True)
                )
            )

    def create(self) -> None:
        """Make what is missing; configuration files are written anew each time. Raises ClusterError."""
        made = read_marker(self.directory) is not None
        if not made and self.directory.is_dir() and any(self.directory.iterdir()):
            raise ClusterError(
                f"{self.directory} is not empty and not a local cluster; choose another -directory."
            )
        if not made:
            self._insist_on_free_ports()  # before they are remembered for good
        for path in (self.directory, *(node.directory for node in self.nodes)):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not made:
            ports = [[node.api_port, node.cluster_port] for node in self.nodes]
            write_private(self.marker_path, json.dumps({"format": FORMAT, "seal": self.seal, "ports": ports}))
        if not self.seal_key_path.exists():
            write_private(self.seal_key_path, os.urandom(32))
        for node in self.nodes:
            write_private(node.config_path, self._config(node))

    def init_answer(self) -> dict[str, Any]:
        """What sys/init answered: the root token, the keys. Raises ClusterError."""
        try:
            answer: dict[str, Any] = json.loads(self.init_path.read_bytes())
        except FileNotFoundError:
            raise ClusterError(f"There is no {self.init_path}, so nobody knows the root token.") from None
        return answer

    def _insist_on_free_ports(self) -> None:
        for node in self.nodes:
            for port in (node.api_port, node.cluster_port):
                if not process.is_free(port):
                    raise ClusterError(
                        f"Port {port}, which node {node.id} needs, is taken by another program; "
                        "choose other ports with -port-base."
                    )

    def _remembered(self, told: dict[str, Any], nodes: int, port_base: int | None) -> list[tuple[int, int]]:
        ports = [(api, raft) for api, raft in told["ports"]]
        if len(ports) != nodes or told["seal"] != self.seal or (port_base and ports[0][0] != port_base):
            raise ClusterError(
                f"{self.directory} holds a cluster of {len(ports)} nodes from port {ports[0][0]} "
                f'with seal "{told["seal"]}"; remove it before making another (strongroom local clean).'
            )
        return ports

    def _config(self, node: LocalNode) -> str:
        seal = f'seal "static" {{ key_file = {_quoted(self.seal_key_path)} }}'
        return "\n".join(
            [
                "# Written by `strongroom local` at every start.",
                f'node_id      = "{node.id}"',
                'region       = "local"',
                f"data_dir     = {_quoted(node.data_dir)}",
                f'api_addr     = "{node.api_address}"',
                f'cluster_addr = "127.0.0.1:{node.door_port or node.cluster_port}"',
                f'cluster_source_addr = "{node.source}"',
                'listener "tcp" {',
                f'  address     = "127.0.0.1:{node.api_port}"',
                f'  cluster_address = "127.0.0.1:{node.cluster_port}"',
                f"  tls_disable = {'false' if self.seal == 'static' else 'true'}",
                "}",
                seal if self.seal == "static" else 'seal "shamir" {}',
                f'audit "file" {{ path = {_quoted(node.audit_path)} }}',
                self._extra_config,
                "",
            ]
        )


def read_marker(directory: Path) -> dict[str, Any] | None:
    """What cluster.json says, None if the directory is not ours. Raises ClusterError if it is damaged."""
    path = directory / "cluster.json"
    try:
        told = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as e:
        raise ClusterError(f"{path} is damaged: {e}.") from e
    return told if isinstance(told, dict) and told.get("format") == FORMAT else None


def write_private(path: Path, content: str | bytes) -> None:
    """Write a file that nobody else may read, whole or not at all."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)


def _choose_ports(nodes: int, base: int | None) -> list[tuple[int, int]]:
    """Pairs (API, Raft): base, base + 1, ... or free ones."""
    if base is not None:
        return [(base + 2 * i, base + 2 * i + 1) for i in range(nodes)]
    chosen = free_ports(2 * nodes)
    return list(zip(chosen[::2], chosen[1::2], strict=True))


def free_ports(count: int, *, but: Collection[int] = ()) -> list[int]:
    """Loopback ports on which nobody listens now, none of `but`. Raises ClusterError."""
    chosen: list[int] = []
    for _ in range(PORT_TRIES_MAX):
        port = random.randrange(PORTS_FIRST, PORTS_LAST)  # noqa: S311 - not a secret
        if port not in chosen and port not in but and process.is_free(port):
            chosen.append(port)
        if len(chosen) == count:
            return chosen
    raise ClusterError("This machine has no free ports for a local cluster.")


def _quoted(path: Path) -> str:
    return json.dumps(str(path))
