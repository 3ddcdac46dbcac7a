"""A node enters with a one-time token, holds everything, and leaves for good; people open a shamir seal."""

import base64
import hashlib
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.certs import Authority
from support.patience import PATIENCE_S
from support.ports import free_ports
from support.processes import Server, configuration, poll
from support.targets import Bao, Target

from node.cli.local_cluster import LocalCluster
from node.enrol import Ticket

STALE = {"X-Strongroom-Consistency": "stale-ok"}


class Newcomer(Server):
    """A node of its own that can join the cluster."""

    def __init__(self, cluster: LocalCluster, directory: Path, node_id: str) -> None:
        api, raft = free_ports(2)
        config = configuration(
            directory,
            node_id=node_id,
            api_port=api,
            cluster_port=raft,
            seal_key=cluster.directory / "seal.key",
        )
        data = directory / "data"
        super().__init__(
            directory, f"-config={config}", address=f"https://127.0.0.1:{api}", ca=data / "tls" / "ca.pem"
        )
        self.cluster, self.node_id, self.data_dir = cluster, node_id, data

    def join(self, ticket: str, *, at: str = "") -> tuple[int, Any]:
        address = self.cluster.node(at or self.cluster.wait_leader()).api_address
        body = {"leader_api_addr": address, "join_token": ticket}
        answer = self.request("POST", "sys/storage/raft/join", body, timeout=60.0)
        return answer.status, answer.body

    def wait_vote(self) -> None:
        poll(lambda: self.node_id in voters(self.cluster), what=f"a vote for {self.node_id}")

    def wipe(self) -> None:
        """As if the disk had been lost."""
        self.kill()
        shutil.rmtree(self.data_dir)


def voters(cluster: LocalCluster) -> set[str]:
    nodes = cluster.must(cluster.wait_leader(), "GET", "sys/cluster/nodes")["data"]["nodes"]
    return {node["node_id"] for node in nodes if node["voter"]}


def ticket_of(cluster: LocalCluster, ttl: str = "10m") -> str:
    leader = cluster.wait_leader()
    return str(cluster.must(leader, "POST", "sys/cluster/join-token", {"ttl": ttl})["data"]["token"])


@pytest.fixture
def newcomer(cluster: LocalCluster, tmp_path: Path) -> Iterator[Newcomer]:
    """A fourth node, running and not yet a member; whatever the test did, it is none at the end."""
    with Newcomer(cluster, tmp_path / "n4", "n4") as node:
        node.start()
        node.wait_health(501)
        try:
            yield node
        finally:
            cluster.must(cluster.wait_leader(), "PUT", "sys/storage/raft/remove-peer", {"server_id": "n4"})


class Writer:
    """Writes numbered secrets through all nodes in turn until told to stop; every one must be acknowledged."""

    def __init__(self, cluster: LocalCluster, mount: str) -> None:
        self._cluster, self._mount = cluster, mount
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.written: list[int] = []
        self.refused: list[tuple[int, Any]] = []

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            node = self._cluster.nodes[number % 3].id
            path = f"{self._mount}/data/w{number}"
            status, answer, _ = self._cluster.request(
                node, "POST", path, {"data": {"n": number}}, timeout=30.0
            )
            if status == 200:
                self.written.append(number)
            else:
                self.refused.append((status, answer))
            number += 1


def test_a_fourth_node_joins_while_writes_go_on_holds_all_data_and_is_removed(
    cluster: LocalCluster, newcomer: Newcomer, mount: str
) -> None:
    with Writer(cluster, mount) as writer:
        poll(lambda: len(writer.written) > 5, what="a few writes")
        ticket = ticket_of(cluster)
        status, answer = newcomer.join(ticket)
        assert status == 200, answer
        newcomer.wait_health(200, 429)
        newcomer.wait_vote()
        enough = len(writer.written) + 5
        poll(lambda: len(writer.written) > enough, what="writes after the join")
    assert writer.refused == []

    def stale(number: int) -> bool:
        """What the newcomer itself holds."""
        answer = newcomer.request("GET", f"{mount}/data/w{number}", token=cluster.token, headers=STALE)
        return answer.status == 200 and answer.body["data"]["data"] == {"n": number}

    poll(lambda: stale(writer.written[-1]), what="the newest write at the new node")
    assert all(stale(number) for number in writer.written)

    other = next(node.id for node in cluster.nodes)
    cluster.must(other, "PUT", "sys/storage/raft/remove-peer", {"server_id": "n4"})
    assert voters(cluster) == {"n1", "n2", "n3"}
    listed = cluster.must(other, "GET", "sys/storage/raft/configuration")["data"]["config"]["servers"]
    assert {server["node_id"] for server in listed} == {"n1", "n2", "n3"}
    path = f"{mount}/data/after"
    cluster.must(other, "POST", path, {"data": {"n": 1}})
    answer = newcomer.request("GET", path, token=cluster.token)
    assert answer.status == 503, "a removed node cannot tell what is fresh, and says so"


def test_a_join_token_admits_once(cluster: LocalCluster, newcomer: Newcomer, tmp_path: Path) -> None:
    ticket = ticket_of(cluster)
    assert newcomer.join(ticket)[0] == 200
    with Newcomer(cluster, tmp_path / "n5", "n5") as second:
        second.start()
        second.wait_health(501)
        status, answer = second.join(ticket)
        assert (status, "invalid, expired or used up" in str(answer)) == (400, True), answer
        assert second.health() == 501
    assert "n5" not in {
        node["node_id"] for node in cluster.must("n1", "GET", "sys/cluster/nodes")["data"]["nodes"]
    }


def test_a_forged_authority_is_not_believed(cluster: LocalCluster, newcomer: Newcomer) -> None:
    """A ticket that pins another CA: the newcomer does not even show its secret."""
    ticket = ticket_of(cluster)
    other = hashlib.sha256(b"another authority").hexdigest()
    forged = msgspec.structs.replace(Ticket.parse(ticket), ca_fingerprint=other)
    status, answer = newcomer.join(forged.text())
    assert (status, "authority" in str(answer)) == (400, True), answer
    assert newcomer.health() == 501
    assert newcomer.join(ticket)[0] == 200, "the secret was not spent"


def test_wrong_and_expired_tickets_admit_nobody(cluster: LocalCluster, newcomer: Newcomer) -> None:
    ticket = ticket_of(cluster, ttl="1s")
    expired = time.monotonic() + 1.1
    wrong = msgspec.structs.replace(Ticket.parse(ticket), secret=bytes(24))
    status, answer = newcomer.join(wrong.text())
    assert (status, "invalid, expired or used up" in str(answer)) == (400, True), answer
    assert newcomer.join("no ticket at all")[0] == 400
    poll(lambda: time.monotonic() > expired, what="the end of the ticket's second")
    status, answer = newcomer.join(ticket)
    assert status == 400
    assert "invalid, expired or used up" in str(answer)
    assert newcomer.health() == 501
    assert "n4" not in voters(cluster)


def test_a_wiped_node_cannot_return_under_its_id_until_it_was_removed(
    cluster: LocalCluster, newcomer: Newcomer
) -> None:
    """It has forgotten what it voted for: letting it vote again could lose a write."""
    assert newcomer.join(ticket_of(cluster))[0] == 200
    newcomer.wait_vote()
    newcomer.wipe()
    newcomer.start()
    newcomer.wait_health(501)
    status, answer = newcomer.join(ticket_of(cluster))
    assert (status, "remove it first" in str(answer)) == (400, True), answer
    assert newcomer.health() == 501
    cluster.must(cluster.wait_leader(), "PUT", "sys/storage/raft/remove-peer", {"server_id": "n4"})
    assert newcomer.join(ticket_of(cluster))[0] == 200
    newcomer.wait_vote()


def test_a_removed_node_cannot_return_with_the_ticket_that_it_spent(
    cluster: LocalCluster, newcomer: Newcomer
) -> None:
    ticket = ticket_of(cluster)
    assert newcomer.join(ticket)[0] == 200
    newcomer.wait_vote()
    cluster.must(cluster.wait_leader(), "PUT", "sys/storage/raft/remove-peer", {"server_id": "n4"})
    newcomer.wipe()
    newcomer.start()
    newcomer.wait_health(501)
    status, answer = newcomer.join(ticket)
    assert (status, "invalid, expired or used up" in str(answer)) == (400, True), answer
    assert "n4" not in voters(cluster)


def test_the_last_word_on_membership_is_with_root(cluster: LocalCluster) -> None:
    body = {"policies": ["default"]}
    weak = cluster.must("n1", "POST", "auth/token/create", body)["auth"]["client_token"]
    for token in (weak, ""):
        assert cluster.request("n1", "POST", "sys/cluster/join-token", {}, token=token)[0] == 403
        asked = {"server_id": "n2"}
        assert cluster.request("n1", "PUT", "sys/storage/raft/remove-peer", asked, token=token)[0] == 403
    assert voters(cluster) == {"n1", "n2", "n3"}


# --- a seal that people open ---


@pytest.fixture
def shamir(tmp_path: Path) -> Iterator[tuple[Bao, Server]]:
    """A single node with the operator's own TLS files, not initialised."""
    authority = Authority(tmp_path / "ca")
    leaf = authority.issue("listener", ["localhost"])
    api, raft = free_ports(2)
    directory = tmp_path / "solo"
    config = configuration(
        directory, node_id="solo", api_port=api, cluster_port=raft, tls_cert=leaf, tls_key=leaf
    )
    address = f"https://localhost:{api}"
    with Server(directory, f"-config={config}", address=address, ca=authority.ca) as server:
        server.start()
        server.wait_health(501)
        yield Bao(Target(address, "", tmp_path, ca=authority.ca)), server


def test_three_of_five_people_open_the_store(shamir: tuple[Bao, Server]) -> None:
    bao, server = shamir
    assert bao("operator", "init", "-status").returncode == 2
    made = bao.json("operator", "init", "-key-shares=5", "-key-threshold=3")
    keys, root = made["unseal_keys_b64"], made["root_token"]
    assert len(keys) == 5
    assert (made["unseal_shares"], made["unseal_threshold"]) == (5, 3)
    assert "Vault is already initialized" in bao.refused("operator", "init")

    def unseal(key: str) -> Any:
        return bao.json("operator", "unseal", key)

    first = unseal(keys[4])
    assert (first["sealed"], first["progress"], first["t"], first["n"]) == (True, 1, 3, 5)
    assert unseal(keys[4])["progress"] == 1, "the same share again is no progress"
    assert unseal(made["unseal_keys_hex"][0])["progress"] == 2
    done = bao("status")
    assert done.returncode == 2
    assert "2/3" in done.stdout
    assert bao.json("operator", "unseal", "-reset")["progress"] == 0

    for key in (keys[0], keys[1]):
        unseal(key)
    share = base64.b64decode(keys[2])
    wrong = base64.b64encode(bytes([share[0] ^ 1]) + share[1:]).decode()
    assert "Code: 400" in bao.refused("operator", "unseal", wrong)
    assert server.health() == 503
    assert bao.json("operator", "unseal", keys[0])["progress"] == 1, "a wrong set starts over"
    unseal(keys[3])
    assert unseal(keys[2])["sealed"] is False
    poll(lambda: server.health() == 200, what="an active node")

    bao.ok("secrets", "enable", "-path=kv", "kv-v2", token=root)
    bao.ok("kv", "put", "kv/a", "v=1", token=root)
    bao.ok("operator", "seal", token=root)
    assert "Vault is sealed" in bao.refused("kv", "get", "kv/a", token=root)
    assert server.stop() == 0
    server.start()
    server.wait_health(503)
    for key in keys[:3]:
        unseal(key)
    poll(lambda: server.health() == 200, what="an active node")
    assert bao.ok("kv", "get", "-field=v", "kv/a", token=root) == "1"


def test_a_node_joins_a_cluster_that_people_open(shamir: tuple[Bao, Server], tmp_path: Path) -> None:
    """With key shares and the operator's own certificates: admitted, opened by hand, a member, with all data."""
    bao, first = shamir
    made = bao.json("operator", "init", "-key-shares=3", "-key-threshold=2")
    keys, root = made["unseal_keys_b64"], made["root_token"]
    for key in keys[:2]:
        bao.ok("operator", "unseal", key)
    poll(lambda: first.health() == 200, what="an active node")
    bao.ok("secrets", "enable", "-path=kv", "kv-v2", token=root)
    bao.ok("kv", "put", "kv/a", "v=1", token=root)
    ticket = first.request("POST", "sys/cluster/join-token", {}, token=root).body["data"]["token"]

    authority = Authority(tmp_path / "another-ca")
    leaf = authority.issue("listener", ["localhost"])
    api, raft = free_ports(2)
    directory = tmp_path / "second"
    config = configuration(
        directory, node_id="second", api_port=api, cluster_port=raft, tls_cert=leaf, tls_key=leaf
    )
    with Server(
        directory, f"-config={config}", address=f"https://localhost:{api}", ca=authority.ca
    ) as second:
        second.start()
        second.wait_health(501)
        joined = second.request("POST", "sys/storage/raft/join", {"join_token": ticket}, timeout=60.0)
        assert (joined.status, joined.body["data"]) == (200, {"joined": True})
        assert second.health() == 503, "it holds the sealed key, and nobody has opened it"
        for key in keys[1:]:
            second.request("PUT", "sys/unseal", {"key": key})
        poll(lambda: second.health() in (200, 429), what="an open node")

        def holds_the_secret() -> bool:
            return second.request("GET", "kv/data/a", token=root).status == 200

        poll(holds_the_secret, what="the data on the new node")
        assert second.stop() == 0
        second.start()
        second.wait_health(503)
        for key in keys[:2]:
            second.request("PUT", "sys/unseal", {"key": key})
        poll(holds_the_secret, what="the data after a restart")


def test_thresholds_that_make_no_sense_are_refused(shamir: tuple[Bao, Server]) -> None:
    bao, server = shamir
    told = bao.refused("operator", "init", "-key-shares=3", "-key-threshold=4")
    assert "threshold cannot be larger than shares" in told
    assert "greater than one" in bao.refused("operator", "init", "-key-shares=3", "-key-threshold=1")
    assert "Code: 400" in bao.refused("operator", "unseal", base64.b64encode(bytes(32)).decode())
    assert server.health() == 501


def test_tls_is_1_3_only(cluster: LocalCluster) -> None:
    context = ssl.create_default_context(cafile=str(cluster.ca_path))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", cluster.nodes[0].api_port), PATIENCE_S) as raw,
        pytest.raises((ssl.SSLError, ConnectionError)),
        context.wrap_socket(raw, server_hostname="localhost"),
    ):
        pass
