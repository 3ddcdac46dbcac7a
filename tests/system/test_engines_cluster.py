"""Wrapping, cubbyholes, leases and engines on three nodes: whichever is asked, and when the leader dies."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.processes import poll
from support.targets import unique

from node.cli.local_cluster import LocalCluster

UNWRAPPERS = 12  # at once, over all nodes


def ask(
    cluster: LocalCluster, node: str, method: str, path: str, body: Any = None, **more: Any
) -> tuple[int, Any]:
    status, answer, _ = cluster.request(node, method, path, body, **more)
    return status, answer


def must(cluster: LocalCluster, node: str, method: str, path: str, body: Any = None, **more: Any) -> Any:
    status, answer = ask(cluster, node, method, path, body, **more)
    assert status in (200, 204), answer
    return answer


@pytest.fixture
def nodes(cluster: LocalCluster) -> list[str]:
    return [node.id for node in cluster.nodes]


def test_of_all_who_unwrap_on_all_nodes_one_gets_it(cluster: LocalCluster, nodes: list[str]) -> None:
    wrap = {"X-Vault-Wrap-TTL": "60s"}
    for _ in range(5):
        wrapped = must(cluster, nodes[0], "POST", "sys/wrapping/wrap", {"x": 1}, headers=wrap)
        body = {"token": wrapped["wrap_info"]["token"]}
        chosen = [nodes[number % len(nodes)] for number in range(UNWRAPPERS)]
        with ThreadPoolExecutor(UNWRAPPERS) as pool:
            tries = pool.map(lambda node: ask(cluster, node, "POST", "sys/wrapping/unwrap", body), chosen)  # noqa: B023
            answers = list(tries)
        assert sorted(status for status, _ in answers) == [200] + [400] * (UNWRAPPERS - 1)
        assert next(answer for status, answer in answers if status == 200)["data"] == {"x": 1}


def test_a_cubbyhole_is_the_tokens_on_every_node(cluster: LocalCluster, nodes: list[str]) -> None:
    made = must(cluster, nodes[0], "POST", "auth/token/create", {"policies": ["default"], "ttl": "1h"})
    token = made["auth"]["client_token"]
    must(cluster, nodes[0], "POST", "cubbyhole/a", {"x": 1}, token=token)
    for node in nodes:
        assert must(cluster, node, "GET", "cubbyhole/a", token=token)["data"] == {"x": 1}
        assert ask(cluster, node, "GET", "cubbyhole/a")[0] == 404, "not even root's"


def test_a_mount_of_version_1_serves_and_becomes_version_2_everywhere(
    cluster: LocalCluster, nodes: list[str]
) -> None:
    path = unique("old")
    must(cluster, nodes[0], "POST", f"sys/mounts/{path}", {"type": "kv"})
    for number, node in enumerate(nodes):
        must(cluster, node, "POST", f"{path}/a", {"by": number})
        assert must(cluster, nodes[0], "GET", f"{path}/a")["data"] == {"by": number}
    must(cluster, nodes[1], "POST", f"sys/mounts/{path}/tune", {"options": {"version": "2"}})
    for node in nodes:
        assert must(cluster, node, "GET", f"{path}/data/a")["data"]["data"] == {"by": len(nodes) - 1}


def test_transit_keys_are_the_same_on_every_node(cluster: LocalCluster, nodes: list[str]) -> None:
    path = unique("transit")
    must(cluster, nodes[0], "POST", f"sys/mounts/{path}", {"type": "transit"})
    with ThreadPoolExecutor(len(nodes)) as pool:  # who encrypts first makes the key, and there is one
        plaintext = {"plaintext": "eA=="}
        made = list(pool.map(lambda node: must(cluster, node, "POST", f"{path}/encrypt/k", plaintext), nodes))
    for node, each in zip(reversed(nodes), made, strict=True):
        body = {"ciphertext": each["data"]["ciphertext"]}
        assert must(cluster, node, "POST", f"{path}/decrypt/k", body)["data"] == plaintext


def test_what_a_dead_leader_had_to_take_back_the_next_one_takes_back(
    cluster: LocalCluster, nodes: list[str]
) -> None:
    path = unique("pki")
    leader = cluster.wait_leader()
    must(cluster, leader, "POST", f"sys/mounts/{path}", {"type": "pki"})
    ec = {"common_name": "root", "key_type": "ec", "ttl": "700h"}
    must(cluster, leader, "POST", f"{path}/root/generate/internal", ec)
    role = {"allow_any_name": True, "key_type": "ec", "ttl": "1h", "generate_lease": True}
    must(cluster, leader, "POST", f"{path}/roles/web", role)
    count = 40
    for number in range(count):
        must(cluster, leader, "POST", f"{path}/issue/web", {"common_name": f"n{number}.test.com"})
    status, answer = ask(cluster, leader, "POST", f"sys/leases/revoke-prefix/{path}", {"sync": False})
    assert status == 202, answer
    cluster.kill(leader)
    other = cluster.wait_leader(other_than=leader)

    def revoked() -> bool:
        status, answer = ask(cluster, other, "LIST", f"{path}/certs/revoked")
        return status == 200 and len(answer["data"]["keys"]) == count

    poll(revoked, timeout=90, what="the revocation of every certificate")
    poll(lambda: ask(cluster, other, "LIST", f"sys/leases/lookup/{path}")[0] == 404, what="no lease left")
