"""Server processes of a test: started from a configuration, ended by their own pid, their output kept."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from support.patience import PATIENCE_S

from node.cli.http_connection import tls_context
from node.cli.http_exchange import Answer, Unreachable, exchange, request
from node.cli.local_process import ClusterError, last_lines

POLL_S = 0.05
HEALTH_TIMEOUT_S = 30.0

T = TypeVar("T")


def poll(probe: Callable[[], T], *, timeout: float = PATIENCE_S, what: str = "it") -> T:
    """Ask until the answer is true. That nobody answers, or refuses, counts as no."""
    deadline = time.monotonic() + timeout
    last = ""
    while True:
        try:
            if answer := probe():
                return answer
        except (Unreachable, ClusterError) as error:
            last = f": {error}"
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout:g} s{last}"
        time.sleep(POLL_S)


def records(path: Path, *, after: int = 0) -> list[dict[str, Any]]:
    """The whole lines, from a byte offset on, of a file of JSON that its process may be writing to."""
    whole, _, _ = path.read_bytes()[after:].rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()]


class Server:
    """One `strongroom server` with its own directory; a context manager that leaves nothing running."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        address: str = "",
        ca: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        self.log = directory / "server.log"
        self.output = directory / "server.out"
        self.address, self.ca = address, ca
        self.program: tuple[str, ...] = ("-m", "node.cli")
        self._arguments = arguments
        self._env = dict(os.environ) | {"PYTHONUNBUFFERED": "1"} | dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.kill()
        if error is not None:
            error.add_note(last_lines(self.log))

    def start(self) -> None:
        assert self._process is None
        with self.log.open("ab") as log, self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, *self.program, "server", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                env=self._env,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """The exit code of a process that ends by itself."""
        assert self._process is not None
        code = self._process.wait(PATIENCE_S)
        self._process = None
        return code

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)
            self._process = None

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str = "",
        headers: Mapping[str, str] | None = None,
        timeout: float = PATIENCE_S,
    ) -> Answer:
        """One request to /v1/`path`."""
        return exchange(
            self.address,
            method,
            f"/v1/{path}",
            body=body,
            headers=({"X-Vault-Token": token} if token else {}) | dict(headers or {}),
            timeout=timeout,
            context=self._context(),
        )

    def text(self, path: str, *, token: str) -> bytes:
        """What a GET of /v1/`path` answers, if it is not JSON."""
        answer = request(
            self.address, "GET", f"/v1/{path}", headers={"X-Vault-Token": token}, context=self._context()
        )
        return answer.content

    def _context(self) -> ssl.SSLContext | None:
        if not self.address.startswith("https"):
            return None
        if self.ca is None or not self.ca.exists():
            raise Unreachable("there is no CA certificate yet")
        return tls_context(ca_cert=self.ca)

    def health(self) -> int:
        return self.request("GET", "sys/health", timeout=HEALTH_TIMEOUT_S).status

    def wait_health(self, *codes: int) -> None:
        """Until sys/health answers with one of these codes; at once an error if the process has ended."""

        def probe() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, f"the server ended\n{last_lines(self.log)}"
            return self.health() in codes

        poll(probe, what=f"health {codes}")

    def wait_logged(self, text: str) -> None:
        """Until the log says `text`: a client may hear of a failure before the server has written about it."""
        poll(lambda: text in self.log.read_text(), what=f"{text!r} in {self.log}")


def configuration(
    directory: Path,
    *,
    node_id: str,
    api_port: int,
    cluster_port: int,
    seal_key: Path | None = None,
    audit: Path | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    region: str = "",
    region_port: int = 0,
    more: Mapping[str, object] | None = None,
) -> Path:
    """Write a node's configuration file; no seal key means shamir, which needs TLS files of the operator."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    listener: dict[str, object] = {"address": f"127.0.0.1:{api_port}"}
    if tls_cert is not None and tls_key is not None:
        listener |= {"tls_cert_file": str(tls_cert), "tls_key_file": str(tls_key)}
    settings = {
        "node_id": node_id,
        "data_dir": str(directory / "data"),
        "api_addr": f"https://127.0.0.1:{api_port}",
        "cluster_addr": f"127.0.0.1:{cluster_port}",
        "listener": [{"tcp": listener}],
        "seal": [{"static": {"key_file": str(seal_key)}} if seal_key else {"shamir": {}}],
        "audit": [{"file": {"path": str(audit or directory / "audit.jsonl")}}],
    }
    if region:
        settings |= {"region": region, "region_addr": f"127.0.0.1:{region_port}"}
        settings["snapshot_dir"] = str(directory / "snapshots")
    settings |= more or {}
    path = directory / "strongroom.json"
    path.write_text(json.dumps(settings))
    return path
