"""Three etcd members with TLS, behind etcd's own JSON gateway.

etcd has no policies, no audit and no encryption at rest: it is here as the floor, a replicated log with a map on it.
"""

import base64
import shutil
from pathlib import Path
from typing import Any

from bench import certificates
from bench.load import Recipe
from bench.processes import Processes, SystemFailedError, free_ports, wait_until
from bench.web import Unreachable, Web

MEMBERS = 3


class Etcd:
    """etcd with its default settings."""

    name = "etcd"

    def __init__(self) -> None:
        self._processes = Processes()
        self._addresses: list[str] = []

    @staticmethod
    def missing() -> str | None:
        """How to get what is not installed; None if all is here."""
        return None if shutil.which("etcd") else "etcd is not installed: apt-get install etcd-server"

    def start(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        made = certificates.create(directory / "tls")
        self._web = Web(made.ca)
        ports = free_ports(2 * MEMBERS)
        self._addresses = [f"https://127.0.0.1:{port}" for port in ports[:MEMBERS]]
        peers = [f"https://127.0.0.1:{port}" for port in ports[MEMBERS:]]
        members = ",".join(f"m{number}={peer}" for number, peer in enumerate(peers))
        tls = [f"--cert-file={made.certificate}", f"--key-file={made.key}"]
        tls += [f"--peer-cert-file={made.certificate}", f"--peer-key-file={made.key}"]
        tls += ["--peer-client-cert-auth", f"--peer-trusted-ca-file={made.ca}"]
        for number, (address, peer) in enumerate(zip(self._addresses, peers, strict=True)):
            command = ["etcd", f"--name=m{number}", f"--data-dir={directory / f'm{number}'}", *tls]
            command += [f"--listen-client-urls={address}", f"--advertise-client-urls={address}"]
            command += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
            command += [f"--initial-cluster={members}", "--initial-cluster-state=new", "--log-level=warn"]
            self._processes.start(command, log=directory / f"m{number}.log")
        wait_until(lambda: all(self._healthy(address) for address in self._addresses), "healthy etcd")

    def stop(self) -> None:
        self._processes.stop()

    @property
    def pids(self) -> list[int]:
        return self._processes.pids

    def leader(self) -> str:
        return self._addresses[self._leading()]

    def follower(self) -> str:
        return self._addresses[(self._leading() + 1) % MEMBERS]

    def all(self) -> list[str]:
        return list(self._addresses)

    def recipe(self) -> Recipe:
        return Recipe("POST", "/v3/kv/put", '{"key":"@KEY64@","value":"@VALUE@"}')

    def read(self, key: str) -> str | None:
        question = {"key": base64.b64encode(f"bench/{key}".encode()).decode()}
        _, answer = self._web.ask("POST", f"{self.leader()}/v3/kv/range", question)
        found = (answer or {}).get("kvs", [])
        return base64.b64decode(found[0]["value"]).decode() if found else None

    def _leading(self) -> int:
        for number, address in enumerate(self._addresses):
            status = self._status(address)
            if status and status.get("leader") == status["header"]["member_id"]:
                return number
        raise SystemFailedError("etcd has no leader")

    def _healthy(self, address: str) -> bool:
        status = self._status(address)
        return status is not None and "leader" in status

    def _status(self, address: str) -> Any:
        try:
            status, answer = self._web.ask("POST", f"{address}/v3/maintenance/status", {})
        except Unreachable:
            return None
        return answer if status == 200 else None
