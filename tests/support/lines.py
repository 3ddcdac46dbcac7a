"""A kept connection to one node of a cluster of processes."""

import http.client
import json
import ssl
from typing import Any

from node.cli.local_cluster import LocalCluster


class Line:
    """A connection that is kept open: the next request is there before a heartbeat could have passed."""

    def __init__(self, cluster: LocalCluster, node: str, *, timeout_s: float = 30) -> None:
        context = ssl.create_default_context(cafile=str(cluster.ca_path))
        port = cluster.node(node).api_port
        self._connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=timeout_s)
        self._root = cluster.token
        self.index = ""  # of the last answer

    def ask(
        self, method: str, path: str, body: Any = None, *, token: str = "", **headers: str
    ) -> tuple[int, Any]:
        """Status and JSON, if it is; underscores in the names of `headers` stand for hyphens."""
        self.send(method, path, body, token=token, **headers)
        return self.hear()

    def send(self, method: str, path: str, body: Any = None, *, token: str = "", **headers: str) -> None:
        """The first half of ask()."""
        content = None if body is None else json.dumps(body)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(
            method, f"/v1/{path}", content, sent | {"X-Vault-Token": token or self._root}
        )

    def hear(self) -> tuple[int, Any]:
        """The second half of ask()."""
        answer = self._connection.getresponse()
        raw = answer.read()
        self.headers = answer.headers
        self.index = answer.headers["X-Vault-Index"]
        return answer.status, json.loads(raw) if raw.startswith((b"{", b"[")) else None

    def close(self) -> None:
        self._connection.close()
