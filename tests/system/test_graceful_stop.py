"""A leader that is told to stop hands over: no acknowledged write is lost, and one retry is enough."""

import itertools
import threading
import uuid
from typing import Any

from support.processes import poll

from node.cli.http_exchange import Unreachable
from node.cli.local_cluster import LocalCluster

WRITERS = 4


class RetryingWriter:
    """A client that asks its own node, and one other node if that fails, under the same request id."""

    def __init__(self, cluster: LocalCluster, mount: str, number: int) -> None:
        self._cluster, self._mount, self._number = cluster, mount, number
        self._nodes = [cluster.nodes[(number + i) % 3].id for i in range(3)]
        self.stop = threading.Event()
        self.acknowledged: list[str] = []
        self.failed: list[Any] = []
        self.retries = 0
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        for count in itertools.count():
            if self.stop.is_set():
                return
            name, once = f"w{self._number}-{count}", {"X-Strongroom-Request-Id": uuid.uuid4().hex}
            outcome = self._attempt(self._nodes[0], name, once)
            if outcome is not None:
                self.retries += 1
                outcome = self._attempt(self._nodes[1], name, once)
            if outcome is None:
                self.acknowledged.append(name)
            else:
                self.failed.append(outcome)

    def _attempt(self, node: str, name: str, once: dict[str, str]) -> object:
        """None if it was acknowledged."""
        path = f"{self._mount}/data/{name}"
        try:
            status, answer, _ = self._cluster.request(
                node, "POST", path, {"data": {"name": name}}, headers=once, timeout=30.0
            )
        except Unreachable as error:
            return node, str(error)
        return None if status == 200 else (node, status, answer)


def test_sigterm_of_the_leader_under_writes_loses_nothing(cluster: LocalCluster, mount: str) -> None:
    leader = cluster.wait_leader()
    writers = [RetryingWriter(cluster, mount, number) for number in range(WRITERS)]
    for writer in writers:
        writer.thread.start()
    try:
        poll(lambda: all(len(writer.acknowledged) > 5 for writer in writers), what="writes before")
        assert cluster.stop(leader), "it ended by itself, in time"
        assert cluster.wait_leader(other_than=leader) != leader
        reached = [len(writer.acknowledged) + 10 for writer in writers]
        poll(lambda: _all_beyond(writers, reached), what="writes after")
    finally:
        for writer in writers:
            writer.stop.set()
        for writer in writers:
            writer.thread.join()
    assert [failure for writer in writers for failure in writer.failed] == []
    cluster.start(leader)
    cluster.wait_caught_up(leader)
    for node, writer in itertools.product(cluster.nodes, writers):
        for name in writer.acknowledged:
            status, answer, _ = cluster.request(node.id, "GET", f"{mount}/data/{name}")
            assert (status, (answer["data"] or {}).get("data")) == (200, {"name": name}), (node.id, name)
            assert answer["data"]["metadata"]["version"] == 1, "written once, whatever was retried"


def _all_beyond(writers: list[RetryingWriter], reached: list[int]) -> bool:
    return all(len(w.acknowledged) > count for w, count in zip(writers, reached, strict=True))
