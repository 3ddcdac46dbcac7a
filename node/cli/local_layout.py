"""The directory of a local cluster: what is where, which ports, and each node's configuration.

cluster.json marks the directory as ours and remembers the ports; seal.key, init.json (with the root token)
and ca.pem stand beside it; each node has its own directory.
"""

import json
import os
import random
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import chain
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
class LocalRegion:
    """A cluster that takes part in regions: its links leave from `host`, and its nodes listen there."""

    name: str
    host: str  # in 127.0.0.0/8; the others are told of the same port at 127.0.0.1, where a door is (node/wan)


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
    link_port: int = 0  # for other regions; 0 without any

    @property
    def ports(self) -> tuple[int, ...]:
        """What others must leave alone."""
        return tuple(port for port in (self.api_port, self.cluster_port, self.link_port) if port)

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
        region: LocalRegion | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.marker_path = self.directory / "cluster.json"
        self.init_path = self.directory / "init.json"
        self.ca_path = self.directory / "ca.pem"
        self.seal_key_path = self.directory / "seal.key"
        self.seal, self.region = seal, region
        self._extra_config = extra_config
        if seal != "static" and nodes > 1:
            raise ClusterError(
                "A local cluster of several nodes needs the static seal: nodes join over TLS only."
            )
        told = read_marker(self.directory)
        each = 2 if region is None else 3
        ports = self._remembered(told, nodes, port_base) if told else _choose_ports(nodes, each, port_base)
        scheme, prefix = "https" if seal == "static" else "http", f"{region.name}-" if region else "n"
        self.nodes = tuple(
            LocalNode(
                f"{prefix}{i}",
                f"{scheme}://127.0.0.1:{api}",
                api,
                raft,
                self.directory / f"{prefix}{i}",
                link_port=link[0] if link else 0,
            )
            for i, (api, raft, *link) in enumerate(ports, 1)
        )
        if doors:
            self.nodes = tuple(
                replace(node, door_port=port, source=f"127.0.0.{SOURCES_FIRST + i}")
                for i, (node, port) in enumerate(
                    zip(self.nodes, free_ports(nodes, but=list(chain.from_iterable(ports))), strict=True)
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
            marker = {"format": FORMAT, "seal": self.seal, "ports": [node.ports for node in self.nodes]}
            if self.region is not None:
                marker["region"] = [self.region.name, self.region.host]
            write_private(self.marker_path, json.dumps(marker))
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
            for port in node.ports:
                if not process.is_free(port):
                    raise ClusterError(
                        f"Port {port}, which node {node.id} needs, is taken by another program; "
                        "choose other ports with -port-base."
                    )

    def _remembered(self, told: dict[str, Any], nodes: int, port_base: int | None) -> list[list[int]]:
        ports: list[list[int]] = told["ports"]
        if len(ports) != nodes or told["seal"] != self.seal or (port_base and ports[0][0] != port_base):
            raise ClusterError(
                f"{self.directory} holds a cluster of {len(ports)} nodes from port {ports[0][0]} "
                f'with seal "{told["seal"]}"; remove it before making another (make clean).'
            )
        return ports

    def _config(self, node: LocalNode) -> str:
        seal = f'seal "static" {{ key_file = {_quoted(self.seal_key_path)} }}'
        return "\n".join(
            [
                "# Written by `strongroom local` at every start.",
                f'node_id      = "{node.id}"',
                *self._region_config(node),
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

    def _region_config(self, node: LocalNode) -> list[str]:
        if self.region is None:
            return ['region       = "local"']
        return [
            f'region       = "{self.region.name}"',
            f'region_addr  = "127.0.0.1:{node.link_port}"',
            f'region_bind_addr   = "{self.region.host}:{node.link_port}"',
            f'region_source_addr = "{self.region.host}"',
        ]


def read_marker(directory: Path) -> dict[str, Any] | None:
    """What cluster.json says, None if the directory is not ours. Raises ClusterError if it is damaged."""
    return read_json(directory / "cluster.json", FORMAT)


def read_json(path: Path, form: str) -> dict[str, Any] | None:
    """What a file of ours says; None if there is none, or it has another format. Raises ClusterError."""
    try:
        told = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as e:
        raise ClusterError(f"{path} is damaged: {e}.") from e
    return told if isinstance(told, dict) and told.get("format") == form else None


def write_private(path: Path, content: str | bytes) -> None:
    """Write a file that nobody else may read, whole or not at all."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)


def _choose_ports(nodes: int, each: int, base: int | None) -> list[list[int]]:
    """API, Raft and perhaps a third for each node: base, base + 1, ... or free ones."""
    chosen = free_ports(each * nodes) if base is None else range(base, base + each * nodes)
    return [list(chosen[i : i + each]) for i in range(0, len(chosen), each)]


def free_ports(count: int, *, but: Collection[int] = ()) -> list[int]:
    """Consecutive loopback ports on which nobody listens now, none of `but`. Raises ClusterError."""
    for _ in range(PORT_TRIES_MAX):
        first = random.randrange(PORTS_FIRST, PORTS_LAST - count)  # noqa: S311 - not a secret
        chosen = range(first, first + count)
        if all(port not in but and process.is_free(port) for port in chosen):
            return list(chosen)
    raise ClusterError("This machine has no free ports for a local cluster.")


def _quoted(path: Path) -> str:
    return json.dumps(str(path))
