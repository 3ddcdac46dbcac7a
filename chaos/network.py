"""The network between the nodes of one cluster: every link passes through a proxy that can be told to break it.

The proxy is a process of its own (`python -m node.wan`), and tells the nodes apart by the address from which each calls
the others. A cut ends connections ("reset") or leaves them without an answer ("swallow"); what was under way then
arrives late, as it may on a real network.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from chaos.target import Node
from node.wan.orders import Configuration, Door, Refused, Ways, ask

READY_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
POLL_S = 0.02
WHOLE: dict[str, Any] = {"delay_s": 0.0, "jitter_s": 0.0, "cut": ""}

Link = tuple[str, str]  # from a node to a node: one direction


class Network:
    """All links of a cluster that was made with doors. A context manager; everything here blocks."""

    def __init__(self, nodes: Sequence[Node], *, seed: int = 0) -> None:
        self.names = tuple(node.id for node in nodes)
        self._configuration = Configuration(
            regions={node.id: node.source for node in nodes},
            doors=[
                Door(node.id, f"127.0.0.1:{node.door_port}", f"127.0.0.1:{node.cluster_port}")
                for node in nodes
            ],
            seed=seed,
        )
        self._directory = tempfile.TemporaryDirectory(prefix="strongroom-net-")
        self._control = Path(self._directory.name) / "control"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Open all doors. Raises Refused if they do not open."""
        file = Path(self._directory.name) / "network.json"
        file.write_bytes(msgspec.json.encode(self._configuration))
        self._process = subprocess.Popen([sys.executable, "-m", "node.wan", str(file), str(self._control)])
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            try:
                ask(self._control, Ways())
                return self
            except Refused:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self._end()
                    raise
                time.sleep(POLL_S)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def change(self, links: Iterable[Link], **conditions: Any) -> None:
        """From now on these links are so: see node.wan.conditions. Raises Refused."""
        for here, there in links:
            ask(self._control, Ways(here=here, there=there, one_way=True, change=conditions))

    def heal(self) -> None:
        """Every link is whole and quick again. Raises Refused."""
        ask(self._control, Ways(change=WHOLE))

    def around(self, name: str) -> list[Link]:
        """All links of a node, to it first."""
        others = [other for other in self.names if other != name]
        return [(other, name) for other in others] + [(name, other) for other in others]

    def _end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._directory.cleanup()
