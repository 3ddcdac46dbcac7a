"""Registers over the API of three nodes that are killed and paused: no answer is ever older than an earlier one."""

import itertools
import random
import threading
import time
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

import pytest
from support.lines import Line
from support.patience import PATIENCE_S
from support.processes import poll

from chaos.registers import Op, violations
from node.cli.local_cluster import LocalCluster

SECONDS, SECONDS_MAX = 20.0, 120.0
KEYS = ("a", "b")
FAULT_GAP_S = (0.1, 1.2)
PAUSES_S = ((0.05, 0.4), (0.4, 2.5))  # within a lease, and beyond it
READS_MIN = 300
NUMBERS = itertools.count()


class Client:
    """One process of the history: its own connections, its own thread."""

    def __init__(self, cluster: LocalCluster, mount: str, history: list[Op], rng: random.Random) -> None:
        self.cluster, self.mount, self.history, self.rng = cluster, mount, history, rng
        self.lines: dict[str, Line] = {}

    def ask(self, node: str, method: str, key: str, body: Any = None) -> tuple[int, Any] | None:
        """None: the connection broke, so nobody knows."""
        try:
            if node not in self.lines:
                self.lines[node] = Line(self.cluster, node, timeout_s=6)
            return self.lines[node].ask(method, f"{self.mount}/data/{key}", body)
        except (OSError, HTTPException):
            if (line := self.lines.pop(node, None)) is not None:
                line.close()
            time.sleep(0.05)
            return None

    def read(self, node: str, key: str) -> Op | None:
        began = time.monotonic()
        answer = self.ask(node, "GET", key)
        if answer is None or answer[0] not in (200, 404):
            return None
        version, value = 0, None
        if answer[0] == 200:
            data = answer[1]["data"]
            version, value = data["metadata"]["version"], data["data"]["v"]
        op = Op("read", key, node, began, time.monotonic(), version, value)
        self.history.append(op)
        return op

    def write(self, node: str, key: str, *, expect: int | None = None) -> None:
        value = f"v{next(NUMBERS)}"
        body: dict[str, Any] = {"data": {"v": value}}
        if expect is not None:
            body["options"] = {"cas": expect}
        began = time.monotonic()
        answer = self.ask(node, "POST", key, body)
        ended = time.monotonic()
        if answer is not None and answer[0] == 200:
            version = answer[1]["data"]["version"]
            self.history.append(Op("write", key, node, began, ended, version, value, expect))
        elif answer is not None and answer[0] == 400:
            self.history.append(Op("refused", key, node, began, ended, None, value, expect))
        elif answer is None or answer[0] == 504:
            self.history.append(Op("write", key, node, began, None, None, value, expect))

    def close(self) -> None:
        for line in self.lines.values():
            line.close()

    def node(self) -> str:
        return self.rng.choice([node.id for node in self.cluster.nodes])


def reader(client: Client, goes_on: Callable[[], bool], node: str) -> None:
    while goes_on():
        if client.read(node, client.rng.choice(KEYS)) is None:
            time.sleep(0.02)


def writer(client: Client, goes_on: Callable[[], bool], key: str) -> None:
    while goes_on():
        client.write(client.node(), key)
        time.sleep(client.rng.uniform(0, 0.05))


def swapper(client: Client, goes_on: Callable[[], bool], key: str) -> None:
    while goes_on():
        seen = client.read(client.node(), key)
        if seen is not None:
            client.write(client.node(), key, expect=seen.version)
        time.sleep(client.rng.uniform(0, 0.05))


def nemesis(cluster: LocalCluster, rng: random.Random, goes_on: Callable[[], bool]) -> int:
    faults = 0
    while goes_on():
        time.sleep(rng.uniform(*FAULT_GAP_S))
        victim = rng.choice(cluster.nodes).id
        if rng.random() < 0.7:
            cluster.pause(victim)
            time.sleep(rng.uniform(*rng.choice(PAUSES_S)))
            cluster.resume(victim)
        else:
            cluster.kill(victim)
            time.sleep(rng.uniform(0, 0.5))
            cluster.start(victim)
        faults += 1
    return faults


def reads_of(history: list[Op]) -> int:
    return sum(op.kind == "read" for op in history)


@pytest.mark.timeout(400)
def test_no_node_answers_with_less_than_was_acknowledged_whoever_is_killed_or_paused(
    cluster: LocalCluster, mount: str
) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    history: list[Op] = []
    clients: list[Client] = []
    began = time.monotonic()

    def goes_on() -> bool:
        """For a while; where the machine has much else to do, until enough was read."""
        passed = time.monotonic() - began
        return passed < SECONDS or (passed < SECONDS_MAX and reads_of(history[:]) <= READS_MIN)

    def run(work: Callable[..., None], *more: Any) -> threading.Thread:
        client = Client(cluster, mount, history, random.Random(rng.random()))
        clients.append(client)
        thread = threading.Thread(target=work, args=(client, goes_on, *more), daemon=True)
        thread.start()
        return thread

    threads = [run(reader, node.id) for node in cluster.nodes for _ in range(2)]
    threads += [run(work, key) for key in KEYS for work in (writer, swapper)]
    assert nemesis(cluster, rng, goes_on) > 3
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    for client in clients:
        client.close()
    found = violations(history)
    assert not found, "\n".join(found[:5])
    assert reads_of(history) > READS_MIN


def test_an_answer_that_may_be_old_says_how_old_and_keeps_to_its_bound(
    cluster: LocalCluster, follower: str, mount: str
) -> None:
    path, others = f"{mount}/data/bounded", [node.id for node in cluster.nodes if node.id != follower]
    line = Line(cluster, follower)

    def ask(consistency: str) -> tuple[int, str | None]:
        status, _ = line.ask("GET", path, X_Strongroom_Consistency=consistency)
        return status, line.headers["X-Strongroom-Staleness-Ms"]

    def settled() -> bool:
        status, age = ask("stale-ok")
        return status == 200 and age not in (None, "unknown")

    assert line.ask("POST", path, {"data": {"n": 1}})[0] == 200
    assert ask("fresh") == (200, None)
    assert ask("linearizable") == (200, None)
    poll(settled, what="an answer that knows how old it is")
    for other in others:
        cluster.pause(other)
    try:
        time.sleep(1.0)
        status, age = ask("max-staleness=1m")
        assert status == 200
        assert age is not None
        assert 500 < int(age) < 60_000
        assert ask("stale-ok")[0] == 200
        assert ask("max-staleness=200ms")[0] == 503
        assert ask("linearizable")[0] == 503
    finally:
        for other in others:
            cluster.resume(other)
    line.close()
