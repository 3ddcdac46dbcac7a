"""What a node answers that does not lead: by its codes and redirections clients and load balancers know it.

The statuses and shapes are those that three OpenBao servers gave when they were asked the same; where this cluster
does better on purpose (a standby writes), the test says so.
"""

from functools import partial
from typing import Any

import pytest
from support.clusters import under_one_leader
from support.processes import poll
from support.targets import unique

from node.cli.local_cluster import LocalCluster

HEALTH = {
    ("GET", ""): 429,
    ("HEAD", ""): 429,
    ("GET", "?standbyok=true"): 200,
    ("GET", "?standbyok=false"): 429,
    ("GET", "?perfstandbyok=true"): 429,
    ("GET", "?standbycode=299"): 299,
    ("HEAD", "?standbycode=299"): 299,
    ("GET", "?activecode=298&sealedcode=297&uninitcode=296"): 429,
    ("GET", "?standbycode=x"): 400,
    ("GET", "?standbycode=99"): 400,
}


@pytest.mark.parametrize(("method", "query"), HEALTH)
def test_health_tells_a_standby_by_its_code(
    cluster: LocalCluster, follower: str, method: str, query: str
) -> None:
    status, answer, _ = cluster.request(follower, method, f"sys/health{query}", token="")
    assert status == HEALTH[method, query]
    if method == "GET" and status != 400:
        assert (answer["initialized"], answer["sealed"], answer["standby"]) == (True, False, True)


def test_a_standby_names_the_leader_and_describes_itself(cluster: LocalCluster) -> None:
    under_one_leader(cluster, partial(_is_told_of, cluster))


def _is_told_of(cluster: LocalCluster, leading: str) -> None:
    leader = cluster.node(leading)
    follower = next(node.id for node in cluster.nodes if node.id != leading)
    told = cluster.request(follower, "GET", "sys/leader", token="")[1]
    assert (told["ha_enabled"], told["is_self"]) == (True, False)
    assert told["leader_address"] == leader.api_address
    assert told["leader_cluster_address"] == f"https://127.0.0.1:{leader.cluster_port}"
    assert 0 < told["raft_applied_index"] <= told["raft_committed_index"]
    assert "active_time" not in told, "it does not lead"
    assert cluster.request(leader.id, "GET", "sys/leader", token="")[1]["is_self"]
    status = cluster.request(follower, "GET", "sys/seal-status", token="")[1]
    assert (status["initialized"], status["sealed"], status["storage_type"]) == (True, False, "raft")
    nodes = cluster.request(follower, "GET", "sys/ha-status")[1]["data"]["nodes"]
    assert {each["api_address"]: each["active_node"] for each in nodes} == {
        node.api_address: node.id == leader.id for node in cluster.nodes
    }


@pytest.mark.parametrize(
    "headers", [{}, {"X-Vault-No-Request-Forwarding": "true"}, {"X-Vault-Forward": "active-node"}]
)
def test_a_standby_reads_and_writes_by_itself_and_forwards_nothing(
    cluster: LocalCluster, follower: str, mount: str, headers: dict[str, str]
) -> None:
    """OpenBao's standby redirects a write that may not be forwarded; here there is nothing to forward."""
    path = f"{mount}/data/{unique('standby')}"
    status, written, sent = cluster.request(follower, "POST", path, {"data": {"x": 1}}, headers=headers)
    assert (status, written["data"]["version"]) == (200, 1)
    assert sent["x-vault-index"]
    status, read, sent = cluster.request(follower, "GET", path, headers=headers)
    assert (status, read["data"]["data"]) == (200, {"x": 1}), "and reads what it wrote, at once"
    assert sent["x-vault-index"]
    assert cluster.request(follower, "GET", path, token="bad", headers=headers)[0] == 403
    assert cluster.request(follower, "GET", f"{path}-none", headers=headers)[:2] == (404, {"errors": []})


def ask(cluster: LocalCluster, node: str, method: str, path: str, body: Any = None) -> tuple[int, str]:
    """Status and Location."""
    status, _, headers = cluster.request(node, method, path, body)
    return status, headers.get("location", "")


def test_what_only_the_leader_knows_is_asked_of_it(cluster: LocalCluster) -> None:
    """With a redirection that Vault's clients follow once, with their token, and with their query."""
    under_one_leader(cluster, partial(_is_redirected_to, cluster))


def _is_redirected_to(cluster: LocalCluster, leading: str) -> None:
    leader = cluster.node(leading)
    follower = next(node.id for node in cluster.nodes if node.id != leading)
    for method, path, query in (
        ("GET", "sys/storage/raft/autopilot/state", ""),
        ("GET", "sys/rekey/init", "?nonce=n"),
        ("PUT", "sys/step-down", ""),
    ):
        body = {} if method == "PUT" else None
        assert ask(cluster, follower, method, path + query, body) == (
            307,
            f"{leader.api_address}/v1/{path}{query}",
        )


def test_the_state_of_the_members_has_what_the_clients_show(cluster: LocalCluster) -> None:
    under_one_leader(cluster, partial(_shows_members, cluster))


def _shows_members(cluster: LocalCluster, leader: str) -> None:
    ids = {node.id for node in cluster.nodes}
    told = cluster.must(leader, "GET", "sys/storage/raft/autopilot/state")["data"]
    assert set(told["voters"]) == set(told["servers"]) == ids
    assert (told["leader"], told["servers"][leader]["status"]) == (leader, "leader")
    for each in told["servers"].values():
        assert set(each) >= {
            "id",
            "name",
            "address",
            "node_status",
            "last_contact",
            "last_term",
            "last_index",
        }
        assert set(each) >= {"healthy", "stable_since", "status", "version", "node_type"}
    poll(
        lambda: cluster.must(leader, "GET", "sys/storage/raft/autopilot/state")["data"]["healthy"],
        what="three healthy members",
    )
    configuration = cluster.must(leader, "GET", "sys/storage/raft/configuration")["data"]
    servers = {each.pop("node_id"): each for each in configuration["config"]["servers"]}
    assert configuration["config"]["index"] == 0
    assert servers == {
        node.id: {
            "address": f"127.0.0.1:{node.cluster_port}",
            "leader": node.id == leader,
            "protocol_version": "3",
            "voter": True,
        }
        for node in cluster.nodes
    }


def test_removing_a_peer_that_is_not_there_changes_nothing(cluster: LocalCluster, follower: str) -> None:
    for node in (follower, cluster.wait_leader()):
        status, _ = ask(cluster, node, "PUT", "sys/storage/raft/remove-peer", {"server_id": "nosuch"})
        assert status == 204
        assert ask(cluster, node, "PUT", "sys/storage/raft/remove-peer", {})[0] == 400
    assert cluster.request(follower, "GET", "sys/storage/raft/join")[0] == 405
    assert ask(cluster, follower, "POST", "sys/storage/raft/join", {"leader_api_addr": ""})[0] == 400
