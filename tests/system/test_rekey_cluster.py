"""A rekey reaches every node: those that run at once, one that is down when it comes back."""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from support.certs import Authority
from support.ports import free_ports
from support.processes import Server, configuration, poll

from node.cli.http_exchange import Answer, Unreachable

ELSEWHERE = (307, 503)


class Node(Server):
    """One node of a cluster that people open, with a certificate of the test's authority."""

    def __init__(self, directory: Path, node_id: str, authority: Authority) -> None:
        api, raft = free_ports(2)
        leaf = authority.issue(node_id, ["localhost"])
        config = configuration(
            directory, node_id=node_id, api_port=api, cluster_port=raft, tls_cert=leaf, tls_key=leaf
        )
        super().__init__(directory, f"-config={config}", address=f"https://localhost:{api}", ca=authority.ca)
        self.seal_path = directory / "data" / "seal.json"
        self.round = 0  # the generation that the test knows of

    def generation(self) -> int:
        return int(json.loads(self.seal_path.read_text())["generation"])

    def unseal(self, keys: list[str]) -> bool:
        """Whether these shares, and no others, open it."""
        self.request("PUT", "sys/unseal", {"reset": True})
        for key in keys:
            answer = self.request("PUT", "sys/unseal", {"key": key})
        return bool(answer.status == 200 and not answer.body["sealed"])

    def restart(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()
        self.start()
        self.wait_health(503)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    authority = Authority(tmp_path / "ca")
    made = [Node(tmp_path / name, name, authority) for name in ("n1", "n2", "n3")]
    with made[0], made[1], made[2]:
        for node in made:
            node.start()
        for node in made:
            node.wait_health(501)
        yield made


class Cluster:
    """Three open nodes."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes, first = nodes, nodes[0]
        made = first.request("PUT", "sys/init", {"secret_shares": 3, "secret_threshold": 2}).body
        self.keys: list[str] = made["keys"]
        self.token: str = made["root_token"]
        assert first.unseal(self.keys[:2])
        first.wait_health(200)
        for node in nodes[1:]:
            ticket = first.request("POST", "sys/cluster/join-token", {}, token=self.token).body["data"][
                "token"
            ]
            joined = node.request("POST", "sys/storage/raft/join", {"join_token": ticket}, timeout=60.0)
            assert joined.status == 200, joined.body
            node.unseal(self.keys[1:])
        poll(lambda: len(self.voters()) == 3, what="three voters")

    def voters(self) -> list[str]:
        answer = self.nodes[0].request("GET", "sys/cluster/nodes", token=self.token)
        if answer.status != 200:
            return []
        return [node["node_id"] for node in answer.body["data"]["nodes"] if node["voter"]]

    def leader(self, *among: Node) -> Node:
        def found() -> Node | None:
            return next((node for node in among or self.nodes if node.health() == 200), None)

        leading = poll(found, what="a leader")
        assert leading is not None
        return leading

    def ask_leader(self, path: str, body: dict[str, Any]) -> Answer:
        """What whoever leads says: not that it leads no longer, or not yet."""

        def answered() -> Answer | None:
            answer = self.leader().request("PUT", path, body, token=self.token)
            return None if answer.status in ELSEWHERE else answer

        found = poll(answered, what=path)
        assert found is not None
        return found

    def ask_again(self, keys: list[str], nonce: str) -> list[str]:
        """The answer that was lost, from whoever leads now."""

        def asked() -> list[str] | None:
            told: Any = None
            for key in keys[:2]:
                told = self.leader().request("PUT", "sys/rekey/update", {"key": key, "nonce": nonce})
            return told.body["keys"] if told.status == 200 and told.body.get("complete") else None

        found = poll(asked, what="the answer again")
        assert found is not None
        return found

    def begin(self, *among: Node, **asked: int) -> tuple[Node, str]:
        """A rekey at whoever leads, and its nonce."""

        def begun() -> tuple[Node, str] | None:
            leader = self.leader(*among)
            answer = leader.request("PUT", "sys/rekey/init", asked, token=self.token)
            assert answer.status in (200, *ELSEWHERE), answer.body
            return (leader, answer.body["nonce"]) if answer.status == 200 else None

        found = poll(begun, what="a rekey that has begun")
        assert found is not None
        return found

    def rekey(self, keys: list[str], *among: Node) -> list[str]:
        """Begun again if its node leads no longer before the last share is in."""

        def done() -> list[str] | None:
            leader, nonce = self.begin(*among, secret_shares=5, secret_threshold=3)
            told: Any = None
            for key in keys:
                told = leader.request("PUT", "sys/rekey/update", {"key": key, "nonce": nonce})
                if told.status in ELSEWHERE:
                    return None
            return list(told.body["keys"])

        found = poll(done, what="a rekey")
        assert found is not None
        return found


def test_every_node_comes_to_know_the_new_shares(nodes: list[Node]) -> None:
    cluster = Cluster(nodes)
    first, second, third = nodes
    assert third.stop() == 0
    new = cluster.rekey(cluster.keys[:2], first, second)
    assert len(new) == 5
    for node in (first, second):
        poll(lambda node=node: node.generation() == 1, what="the new seal on disk")  # type: ignore[misc]
    first.restart()
    second.restart()
    assert second.unseal(cluster.keys[:2]), "after a crash so soon, the new shares may be in nobody's hands"
    assert first.unseal(new[1:4])
    first.restart()
    assert not first.unseal(cluster.keys), "but once the new ones opened it, they alone do"
    assert first.unseal(new[:3])

    third.start()
    third.wait_health(503)
    assert not third.unseal(new[:3]), "it was down, and has the shares of before"
    assert third.unseal(cluster.keys[1:])
    poll(lambda: third.generation() == 1, what="the new seal on the node that was down")
    third.restart()
    assert third.unseal(new[2:])
    poll(lambda: third.health() in (200, 429), what="an open node")


def test_a_crash_at_any_point_leaves_a_store_that_opens(nodes: list[Node]) -> None:
    """All nodes at once, around the moment when the last share is in: no shares are ever lost."""
    cluster = Cluster(nodes)
    keys, random = cluster.keys, Random()
    seed = random.randrange(10**9)
    print("seed", seed)
    random.seed(seed)
    for _ in range(4):
        threshold = 2
        leader, nonce = cluster.begin(secret_shares=3, secret_threshold=threshold)
        leader.request("PUT", "sys/rekey/update", {"key": keys[0], "nonce": nonce})
        answered: list[list[str]] = []
        last = threading.Thread(target=_offer_last, args=(leader, keys[1], nonce, answered))
        last.start()
        time.sleep(random.uniform(0, 0.04))
        for node in nodes:
            os.kill(node.pid, signal.SIGKILL)
        last.join()
        for node in nodes:
            node.wait()
            node.start()
        for node in nodes:
            node.wait_health(503)
            assert node.unseal(keys[1:]), "the shares of before, whatever became of the rekey"
        committed = cluster.ask_leader("sys/rekey/update", {"key": keys[0], "nonce": nonce})
        if committed.status != 200:
            assert not answered, "what was answered is in force"
            continue
        new = cluster.ask_again(keys, nonce)
        assert not answered or answered == [new]
        for node in nodes:
            node.round += 1
            poll(lambda node=node: node.generation() == node.round, what="the new seal")  # type: ignore[misc]
        nodes[0].restart()
        assert nodes[0].unseal(new[:threshold])
        keys = new


def _offer_last(leader: Node, key: str, nonce: str, answered: list[list[str]]) -> None:
    with contextlib.suppress(Unreachable):
        told = leader.request("PUT", "sys/rekey/update", {"key": key, "nonce": nonce})
        if told.status == 200:
            answered.append(told.body["keys"])


def test_another_node_sends_the_client_to_the_leader(nodes: list[Node]) -> None:
    cluster = Cluster(nodes)
    leader = cluster.leader()
    follower = next(node for node in nodes if node is not leader)
    answer = follower.request("GET", "sys/rekey/init", token=cluster.token)
    assert answer.status == 307
    assert (
        answer.headers["location"] == f"{leader.address.replace('localhost', '127.0.0.1')}/v1/sys/rekey/init"
    )


def test_old_shares_are_refused_by_an_attempt_that_began_with_them(nodes: list[Node]) -> None:
    """Two attempts at once, of which the first to finish replaces the shares that the second collects."""
    cluster = Cluster(nodes)
    leader = cluster.leader()
    begun = leader.request("PUT", "sys/generate-root/attempt", {}, token=cluster.token).body
    half = {"key": cluster.keys[0], "nonce": begun["nonce"]}
    assert leader.request("PUT", "sys/generate-root/update", half).body["progress"] == 1
    cluster.rekey(cluster.keys[1:])
    rest = {"key": cluster.keys[1], "nonce": begun["nonce"]}
    refused = leader.request("PUT", "sys/generate-root/update", rest)
    assert refused.status == 400
    assert "replaced meanwhile" in str(refused.body)
