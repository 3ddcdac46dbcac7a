"""What the nodes of a running cluster tell each other of their release."""

from support.processes import poll

from node import VERSION
from node.cli.local_cluster import LocalCluster
from storage.command import LEVEL


def test_every_node_says_what_it_runs_and_the_cluster_is_at_what_all_know(cluster: LocalCluster) -> None:
    def told() -> bool:
        found = cluster.must("n2", "GET", "sys/cluster/nodes")["data"]
        nodes = {node["node_id"]: (node["version"], node["level"]) for node in found["nodes"]}
        return found["level"] == LEVEL and nodes == dict.fromkeys(("n1", "n2", "n3"), (VERSION, LEVEL))

    poll(told, what="all nodes and their release")


def test_a_node_of_an_older_release_is_not_let_in(cluster: LocalCluster) -> None:
    leader = cluster.wait_leader()
    join = {
        "secret": "00" * 24, "node_id": "old", "region": "local", "api_address": "https://127.0.0.1:1",
        "cluster_address": "127.0.0.1:2", "link_address": "", "hosts": ["127.0.0.1"], "peer_request": "",
        "listener_request": "", "software": "0.0.1", "level": LEVEL - 1,
    }  # fmt: skip
    status, answer, _ = cluster.request(leader, "POST", "sys/cluster/join", join, token="")
    assert (status, "needs a newer one" in str(answer)) == (400, True), answer
