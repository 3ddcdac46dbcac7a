"""How long a cluster goes without a write when its leader dies: `python -m bench.failover --kills 30`.

Three nodes; a client writes to the two others without a pause. The leader is killed; what counts is the time until a
write that began after the kill was acknowledged. Then the dead one comes back, everybody catches up, and so on.
With `--hand-over` the leader is asked to hand over instead of being killed.
"""

import argparse
import json
import ssl
import statistics
import sys
import tempfile
import threading
import time
from http.client import HTTPException, HTTPSConnection
from pathlib import Path

from node.cli.local_cluster import LocalCluster

GIVE_UP_S = 30.0
REQUEST_TIMEOUT_S = 20.0
CALM_S = 1.0


class Writer:
    """Writes to one node until told to stop, and remembers when the first write was answered."""

    def __init__(self, cluster: LocalCluster, node: str) -> None:
        self._port, self._token = cluster.node(node).api_port, cluster.token
        self._context = ssl.create_default_context(cafile=str(cluster.ca_path))
        self._stop = threading.Event()
        self.answered: float | None = None
        self.refused = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        connection: HTTPSConnection | None = None
        while not self._stop.is_set() and self.answered is None:
            try:
                if connection is None:
                    connection = HTTPSConnection(
                        "127.0.0.1", self._port, context=self._context, timeout=REQUEST_TIMEOUT_S
                    )
                body = json.dumps({"data": {"t": time.monotonic()}})
                connection.request("POST", "/v1/secret/data/failover", body, {"X-Vault-Token": self._token})
                status = connection.getresponse()
                status.read()
                if status.status == 200:
                    self.answered = time.monotonic()
                else:
                    self.refused += 1
            except (OSError, HTTPException):
                connection = None
                time.sleep(0.01)
        if connection is not None:
            connection.close()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(REQUEST_TIMEOUT_S)


def once(cluster: LocalCluster, *, hand_over: bool) -> float:
    """Seconds from the death (or the order to hand over) to the first acknowledged write."""
    leader = cluster.wait_leader()
    time.sleep(CALM_S)
    others = [node.id for node in cluster.nodes if node.id != leader]
    if hand_over:
        started = time.monotonic()
        order = threading.Thread(target=cluster.must, args=(leader, "PUT", "sys/step-down"))
        order.start()
        time.sleep(0.005)
    else:
        cluster.kill(leader)
        started = time.monotonic()
    writers = [Writer(cluster, node) for node in others]
    while not any(writer.answered for writer in writers):
        if time.monotonic() - started > GIVE_UP_S:
            raise SystemExit("no write was acknowledged")
        time.sleep(0.001)
    gap = min(writer.answered for writer in writers if writer.answered) - started
    for writer in writers:
        writer.stop()
    if hand_over:
        order.join()
    else:
        cluster.start(leader)
    for node in cluster.nodes:
        cluster.wait_caught_up(node.id)
    return gap


def main() -> None:
    """Print every gap, and what they come to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--hand-over", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        cluster = LocalCluster(Path(directory) / "cluster")
        cluster.create()
        try:
            cluster.start_all()
            cluster.bootstrap()
            gaps = [once(cluster, hand_over=options.hand_over) for _ in range(options.kills)]
        finally:
            cluster.stop_all()
    gaps.sort()
    p99 = gaps[min(len(gaps) - 1, round(0.99 * len(gaps)))]
    sys.stdout.write(" ".join(f"{gap:.3f}" for gap in gaps) + "\n")
    sys.stdout.write(
        f"n {len(gaps)}  p50 {statistics.median(gaps):.3f} s  p99 {p99:.3f} s  max {gaps[-1]:.3f} s\n"
    )


if __name__ == "__main__":
    main()
