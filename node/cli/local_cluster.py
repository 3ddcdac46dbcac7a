"""A cluster of real server processes on this machine: what `make up`, system tests, chaos/ and bench/ drive.

Nothing is printed here, and every wait has a deadline. Where things are: node/cli/local_layout.py.
"""

import json
import shutil
import signal
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from node.cli import local_process as process
from node.cli.client import payload
from node.cli.http_connection import tls_context
from node.cli.http_exchange import Answer, Unreachable, exchange
from node.cli.local_layout import Layout, LocalNode, LocalRegion, read_marker, write_private
from node.cli.local_process import ClusterError

__all__ = ["ClusterError", "LocalCluster", "LocalNode", "LocalRegion", "Unreachable"]

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
JOIN_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_S = 30.0
ASK_TIMEOUT_S = 2.0
POLL_S = 0.05
NO_TOKEN = ""

OPEN = frozenset({200, 429, 472, 473})  # sys/health of a node that serves, leader or not
UNINITIALIZED, SEALED = 501, 503
NOT_NOW = 503  # of any other request

T = TypeVar("T")


class LocalCluster:
    """`nodes` servers in `directory`, with ports from `port_base` on (None: free ones, remembered there).

    `extra_config` is HCL for every node. seal="static": TLS, opens by itself; "shamir": one node (joining needs
    TLS) in plain HTTP, opened by bootstrap() and unseal(). `doors`: nodes call each other at ports of
    their own (door_port), where somebody must pass on what comes (chaos/network.py); these are not remembered.
    `region`: it is one of several. Methods raise ClusterError; those that send requests raise Unreachable too.
    """

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int = 3,
        port_base: int | None = None,
        extra_config: str = "",
        seal: str = "static",
        doors: bool = False,
        region: LocalRegion | None = None,
    ) -> None:
        self._layout = Layout(
            directory,
            nodes=nodes,
            port_base=port_base,
            seal=seal,
            extra_config=extra_config,
            doors=doors,
            region=region,
        )
        self.region = region
        self.directory = self._layout.directory
        self.nodes = self._layout.nodes
        self.ca_path = self._layout.ca_path
        self._contexts: dict[str, tuple[bytes, ssl.SSLContext]] = {}

    @classmethod
    def open(cls, directory: Path) -> "LocalCluster":
        """The cluster that `directory` holds. Raises ClusterError if it holds none."""
        if (told := read_marker(directory)) is None:
            raise ClusterError(f"{directory} holds no local cluster.")
        region = LocalRegion(*told["region"]) if "region" in told else None
        return cls(directory, nodes=len(told["ports"]), seal=told["seal"], region=region)

    def create(self) -> None:
        """Make directories, keys and configuration files; idempotent, and keeps all data."""
        self._layout.create()

    def remove(self) -> None:
        """Stop everything and delete the directory, if it is one of ours."""
        if self.directory.is_symlink() or read_marker(self.directory) is None:
            raise ClusterError(f"{self.directory} is not a local cluster: nothing was removed.")
        self.stop_all()
        shutil.rmtree(self.directory)

    # --- processes ---

    def node(self, node_id: str) -> LocalNode:
        for node in self.nodes:
            if node.id == node_id:
                return node
        raise ClusterError(f"There is no node {node_id}; there are {', '.join(n.id for n in self.nodes)}.")

    def pid(self, node_id: str) -> int | None:
        """The node's process, looked up in /proc: never a recycled pid."""
        node = self.node(node_id)
        return process.find(node.config_path, pid_file=node.pid_path)

    def alive(self, node_id: str) -> bool:
        return self.pid(node_id) is not None

    def running(self) -> list[str]:
        return [node.id for node in self.nodes if self.alive(node.id)]

    def dead(self) -> list[str]:
        """The ids of nodes that do not run."""
        return [node.id for node in self.nodes if not self.alive(node.id)]

    def start(self, node_id: str, *, env: Mapping[str, str] | None = None) -> None:
        """Start the node if it does not run, with `env` added to ours. It answers later: wait_serving()."""
        if self.alive(node_id):
            return
        node = self.node(node_id)
        for port in (node.api_port, node.cluster_port):  # a door stands open at the third one
            if not process.will_be_free(port):
                raise ClusterError(f"Port {port}, which node {node.id} needs, is taken by another program.")
        process.spawn(node.config_path, log=node.log_path, pid_file=node.pid_path, env=env or {})

    def start_all(self) -> None:
        """Start every node that does not run, and wait until each answers."""
        for node in self.nodes:
            self.start(node.id)
        for node in self.nodes:
            self.wait_serving(node.id)

    def stop(self, node_id: str) -> bool:
        """SIGTERM, then SIGKILL after STOP_TIMEOUT_S. Returns whether the node ended by itself."""
        self._ask_to_stop(node_id)
        return self._wait_or_kill(node_id)

    def stop_all(self) -> list[str]:
        """Stop all at once. Returns the ids of the nodes that had to be killed."""
        for node in self.nodes:
            self._ask_to_stop(node.id)
        return [node.id for node in self.nodes if not self._wait_or_kill(node.id)]

    def _ask_to_stop(self, node_id: str) -> None:
        self._signal(node_id, signal.SIGTERM)
        self._signal(node_id, signal.SIGCONT)  # a paused process cannot obey

    def _wait_or_kill(self, node_id: str) -> bool:
        node = self.node(node_id)
        if process.wait_gone(node.config_path, pid_file=node.pid_path, timeout=STOP_TIMEOUT_S):
            return True
        self.kill(node_id)
        return False

    def kill(self, node_id: str) -> None:
        """SIGKILL, and wait until the process is gone."""
        self._signal(node_id, signal.SIGKILL)
        node = self.node(node_id)
        if not process.wait_gone(node.config_path, pid_file=node.pid_path, timeout=STOP_TIMEOUT_S):
            raise ClusterError(f"Node {node_id} does not end, not even by SIGKILL.")

    def pause(self, node_id: str) -> None:
        self._signal(node_id, signal.SIGSTOP)

    def resume(self, node_id: str) -> None:
        self._signal(node_id, signal.SIGCONT)

    def _signal(self, node_id: str, number: signal.Signals) -> None:
        if (pid := self.pid(node_id)) is not None:
            process.send(pid, number)

    # --- requests ---

    @property
    def token(self) -> str:
        """The root token."""
        return str(self._layout.init_answer()["root_token"])

    def environment(self, node_id: str) -> dict[str, str]:
        """What a Vault client needs to reach this node as root."""
        variables = {"VAULT_ADDR": self.node(node_id).api_address, "VAULT_TOKEN": self.token}
        return variables | {"VAULT_CACERT": str(self.ca_path)} if self._layout.seal == "static" else variables

    def request(
        self,
        node_id: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = REQUEST_TIMEOUT_S,
    ) -> tuple[int, Any, Mapping[str, str]]:
        """One request to one node: (status, JSON or None, headers with lower-case names). Raises Unreachable.

        `path` may leave out /v1/. `token` None: the root token once there is one, "": none. `timeout`: s.
        """
        if token is None:
            token = self.token if self._layout.init_path.exists() else ""
        sent = {"X-Vault-Token": token} if token else {}
        answer = self._exchange(
            node_id, method, path, body, headers=sent | dict(headers or {}), timeout=timeout
        )
        return answer.status, answer.body, answer.headers

    def _exchange(
        self, node_id: str, method: str, path: str, body: Any, *, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        node = self.node(node_id)
        return exchange(
            node.api_address,
            method,
            path if path.startswith("/v1/") else f"/v1/{path}",
            body=body,
            headers=headers,
            timeout=timeout,
            context=self._context(node),
        )

    def _context(self, node: LocalNode) -> ssl.SSLContext | None:
        """By each node's own CA file: the same for all members, a provisional one before a node joins."""
        if self._layout.seal != "static":
            return None
        try:
            certificate = node.ca_path.read_bytes()
        except FileNotFoundError:
            raise Unreachable(f"{node.id} has no CA yet") from None
        if node.id not in self._contexts or self._contexts[node.id][0] != certificate:
            self._contexts[node.id] = (certificate, tls_context(ca_cert=node.ca_path))
        return self._contexts[node.id][1]

    def must(self, node_id: str, method: str, path: str, body: Any = None) -> Any:
        """request() as root that must succeed: its JSON. Raises ClusterError with the server's words.

        A 503, which says that nothing happened, is asked again for REQUEST_TIMEOUT_S: somebody is being elected.
        """
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while True:
            status, answer, _ = self.request(node_id, method, path, body)
            if status != NOT_NOW or time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
        if status >= 300:
            why = Answer(status, answer, {}).errors
            raise ClusterError(f"{node_id} answered {method} {path} with {status}: {why}")
        return answer

    # --- state, and waiting for it ---

    def wait(self, predicate: Callable[[], T], timeout: float, what: str, *, node_id: str | None = None) -> T:
        """Poll until `predicate` answers something true; its Unreachable counts as no.

        Raises ClusterError naming `what` after `timeout` s, or at once if the process of `node_id` has ended.
        """
        deadline = time.monotonic() + timeout
        last = ""
        while True:
            try:
                if answer := predicate():
                    return answer
            except Unreachable as e:
                last = f" ({e})"
            dead = node_id is not None and not self.alive(node_id)
            if dead or time.monotonic() > deadline:
                why = (
                    f"{node_id} ended before there was" if dead else f"After {timeout:g} s there was still no"
                )
                quoted = f"\n{process.last_lines(self.node(node_id).log_path)}" if node_id else ""
                raise ClusterError(f"{why} {what}{last}.{quoted}")
            time.sleep(POLL_S)

    def health(self, node_id: str) -> int:
        """The status code of sys/health. Raises Unreachable."""
        return self.request(node_id, "GET", "sys/health", token=NO_TOKEN, timeout=ASK_TIMEOUT_S)[0]

    def wait_serving(self, node_id: str, timeout: float = START_TIMEOUT_S) -> int:
        """Until the node answers at all; returns its sys/health code."""
        return self.wait(lambda: self.health(node_id), timeout, f"answer from {node_id}", node_id=node_id)

    def wait_unsealed(self, node_id: str, timeout: float = START_TIMEOUT_S) -> None:
        self.wait(lambda: self.health(node_id) in OPEN, timeout, f"unsealed {node_id}", node_id=node_id)

    def account(self, node_id: str) -> dict[str, Any] | None:
        """The node's own account of itself (sys/cluster/node), None if there is none to be had."""
        if not self.alive(node_id):
            return None
        try:
            status, told, _ = self.request(
                node_id, "GET", "sys/cluster/node", token=NO_TOKEN, timeout=ASK_TIMEOUT_S
            )
        except Unreachable:
            return None
        return payload(told) if status == 200 else None

    def leader(self) -> str | None:
        """The node that says it leads, in the newest term heard of."""
        told = [
            (account["term"], node.id)
            for node in self.nodes
            if (account := self.account(node.id)) and account.get("role") == "leader"
        ]
        return max(told)[1] if told else None

    def wait_leader(self, timeout: float = START_TIMEOUT_S, *, other_than: str | None = None) -> str:
        def other() -> str | None:
            found = self.leader()
            return found if found != other_than else None

        found = self.wait(other, timeout, f"leader other than {other_than}" if other_than else "leader")
        assert found is not None
        return found

    def wait_caught_up(self, node_id: str, timeout: float = JOIN_TIMEOUT_S) -> None:
        """Until the node is open and has applied what the leader had committed when asked."""
        goal = self.wait(lambda: self.account(self.wait_leader(timeout)), timeout, "leader")
        assert goal is not None
        index = goal["commit_index"]
        self.wait(
            lambda: ((self.account(node_id) or {}).get("applied_index") or -1) >= index,
            timeout,
            f"index {index} applied by {node_id}",
            node_id=node_id,
        )
        self.wait_unsealed(node_id, timeout)

    # --- making one cluster of them ---

    def bootstrap(self, *, begin: Callable[[LocalNode], None] | None = None) -> None:
        """Initialise, join, mount KV v2 at secret/: whatever is missing. All nodes must run.

        `begin` gives the first node its store where that is not a new one, and calls adopt_token().
        """
        first = self.nodes[0]
        if self.wait_serving(first.id) == UNINITIALIZED:
            (begin or self._initialize)(first)
        new = [node for node in self.nodes[1:] if self.wait_serving(node.id) == UNINITIALIZED]
        for node in self.nodes:
            if node not in new:
                self.open_node(node.id)
        leader = self.wait_leader()
        if self._layout.seal == "static":
            write_private(self.ca_path, first.ca_path.read_bytes())
        for node in new:
            self._join(node)
        if "secret/" not in self.must(leader, "GET", "sys/mounts")["data"]:
            self.must(leader, "POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})

    def adopt_token(self, token: str) -> None:
        """The root token of a store that was made elsewhere."""
        write_private(self._layout.init_path, json.dumps({"root_token": token}))

    def open_node(self, node_id: str) -> None:
        """Wait until the node serves, giving it the keys of its seal if it needs any."""
        if self._layout.seal != "static" and self.wait_serving(node_id) == SEALED:
            self.unseal(node_id)
        self.wait_unsealed(node_id)

    def unseal(self, node_id: str) -> None:
        for key in self._layout.init_answer()["keys"]:
            self.must(node_id, "PUT", "sys/unseal", {"key": key})

    def _initialize(self, node: LocalNode) -> None:
        if self._layout.init_path.exists():
            raise ClusterError(f"{node.id} has lost its data, though there is a {self._layout.init_path}.")
        answer = self.must(node.id, "PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        write_private(self._layout.init_path, json.dumps(answer))

    def _join(self, node: LocalNode) -> None:
        leader = self.wait_leader()
        ticket = self.must(leader, "POST", "sys/cluster/join-token", {"ttl": "10m"})["data"]["token"]
        body = {"leader_api_addr": self.node(leader).api_address, "join_token": ticket}
        self.must(node.id, "POST", "sys/storage/raft/join", body)
        self.open_node(node.id)
        self.wait(lambda: node.id in self._voters(), JOIN_TIMEOUT_S, f"vote for {node.id}", node_id=node.id)

    def _voters(self) -> set[str]:
        nodes = self.must(self.wait_leader(), "GET", "sys/cluster/nodes")["data"]["nodes"]
        return {told["node_id"] for told in nodes if told["voter"]}
