"""Changes of membership as operators make them: under load, through a change of leader, and never beyond a quorum."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.clusters import open_cluster
from support.processes import poll
from support.targets import Bao, Target, bao_of
from system.test_membership import Newcomer, Writer, ticket_of, voters

from node.cli.local_cluster import LocalCluster


@pytest.fixture
def own(tmp_path: Path) -> Iterator[LocalCluster]:
    """A cluster for one test: what it does to the members cannot be undone for others."""
    with open_cluster(tmp_path / "cluster") as cluster:
        cluster.must("n1", "POST", "sys/mounts/kv", {"type": "kv", "options": {"version": "2"}})
        yield cluster


def test_the_leader_is_removed_under_load_and_another_node_takes_its_place(
    own: LocalCluster, tmp_path: Path
) -> None:
    """Removed by its own request, while writes go on at all nodes; no acknowledged write is lost."""
    leader = own.wait_leader()
    others = [node.id for node in own.nodes if node.id != leader]
    with Newcomer(own, tmp_path / "n4", "n4") as replacement:
        replacement.start()
        replacement.wait_health(501)
        assert replacement.join(ticket_of(own), at=others[0])[0] == 200
        replacement.wait_vote()
        with Writer(own, "kv") as writer:
            poll(lambda: len(writer.written) > 5, what="a few writes")
            bao_of(own, leader, tmp_path).ok("operator", "raft", "remove-peer", leader)

            def removed() -> bool:
                status, answer, _ = own.request(others[0], "GET", "sys/storage/raft/configuration")
                if status != 200:
                    return False
                return {each["node_id"] for each in answer["data"]["config"]["servers"]} == {*others, "n4"}

            poll(removed, what="the new configuration")
            enough = len(writer.written) + 5
            poll(lambda: len(writer.written) > enough, what="writes after the removal")
        lost = [
            number
            for number in writer.written
            if own.request(others[0], "GET", f"kv/data/w{number}")[0] != 200
        ]
        assert lost == []
        allowed = {503, 504}
        assert {status for status, _ in writer.refused} <= allowed, writer.refused[:3]


def test_a_member_is_added_although_the_leader_dies_in_the_middle(own: LocalCluster, tmp_path: Path) -> None:
    with Newcomer(own, tmp_path / "n4", "n4") as newcomer:
        newcomer.start()
        newcomer.wait_health(501)
        leader = own.wait_leader()
        follower = next(node.id for node in own.nodes if node.id != leader)
        assert newcomer.join(ticket_of(own), at=follower)[0] == 200
        own.kill(leader)
        poll(lambda: "n4" in voters(own), what="a vote for n4, given by the next leader")
        own.start(leader)
        own.wait_caught_up(leader)
        assert voters(own) == {"n1", "n2", "n3", "n4"}


def test_the_clients_of_vault_join_a_node_with_the_token_as_their_one_argument(
    own: LocalCluster, tmp_path: Path
) -> None:
    with Newcomer(own, tmp_path / "n4", "n4") as newcomer:
        newcomer.start()
        newcomer.wait_health(501)
        at_newcomer = Bao(Target(newcomer.address, "", tmp_path, ca=newcomer.ca))
        told = at_newcomer.refused("operator", "raft", "join", own.node("n1").api_address)
        assert "join_token is required" in told
        assert "without a vote" in at_newcomer.refused(
            "operator", "raft", "join", "-non-voter", ticket_of(own)
        )
        for verb in ("promote", "demote"):
            assert "without a vote" in bao_of(own, "n2", tmp_path).refused("operator", "raft", verb, "n1")
        assert "Joined    true" in at_newcomer.ok("operator", "raft", "join", ticket_of(own))
        newcomer.wait_vote()
        peers = bao_of(own, "n2", tmp_path).ok("operator", "raft", "list-peers")
        assert sum("true" in line for line in peers.splitlines()) == 4
        bao_of(own, "n2", tmp_path).ok("operator", "raft", "remove-peer", "n4")
        assert voters(own) == {"n1", "n2", "n3"}
        assert "n4" not in bao_of(own, "n2", tmp_path).ok("operator", "members")


def test_who_cannot_be_spared_is_not_removed(own: LocalCluster, tmp_path: Path) -> None:
    leader = own.wait_leader()
    down, up = (node.id for node in own.nodes if node.id != leader)
    own.kill(down)
    bao = bao_of(own, up, tmp_path)

    def refused() -> bool:
        done = bao("operator", "raft", "remove-peer", up)
        assert done.returncode == 2, "it was removed, and with it the majority"
        return "majority" in done.stderr

    poll(refused, what="a refusal that says why")
    registered = {node["node_id"] for node in own.must(leader, "GET", "sys/cluster/nodes")["data"]["nodes"]}
    assert registered == {"n1", "n2", "n3"}, "a refused removal leaves nothing to be carried out later"
    own.must(up, "POST", "kv/data/a", {"data": {"v": "1"}})
    bao.ok("operator", "raft", "remove-peer", down)
    assert voters(own) == {leader, up}
    own.must(up, "POST", "kv/data/a", {"data": {"v": "2"}})


def test_autopilot_says_how_the_members_fare_and_removes_a_dead_one(
    own: LocalCluster, tmp_path: Path
) -> None:
    """Four voters, of whom one dies. The shortest time to call one dead is a minute, as in Vault."""
    leader = own.wait_leader()
    follower = next(node.id for node in own.nodes if node.id != leader)
    bao = bao_of(own, follower, tmp_path)
    with Newcomer(own, tmp_path / "n4", "n4") as fourth:
        fourth.start()
        fourth.wait_health(501)
        assert fourth.join(ticket_of(own))[0] == 200
        fourth.wait_vote()

        def state() -> dict[str, object]:
            found: dict[str, object] = bao.json("operator", "raft", "autopilot", "state")
            return found

        poll(lambda: state()["Healthy"], what="a healthy cluster")
        told = state()
        assert (told["Leader"], told["FailureTolerance"]) == (own.wait_leader(), 1)
        assert sorted(told["Voters"]) == ["n1", "n2", "n3", "n4"]  # type: ignore[call-overload]
        assert "Healthy:" in bao.ok("operator", "raft", "autopilot", "state")
        shown = bao.ok("operator", "raft", "autopilot", "get-config")
        assert "Dead Server Last Contact Threshold    24h0m0s" in shown
        assert "at least be 3" in bao.refused(
            "operator", "raft", "autopilot", "set-config", "-cleanup-dead-servers=true"
        )
        bao.ok(
            "operator", "raft", "autopilot", "set-config", "-cleanup-dead-servers=true", "-min-quorum=3",
            "-dead-server-last-contact-threshold=1m",
        )  # fmt: skip
        fourth.kill()
        poll(lambda: not state()["Healthy"], what="an unhealthy cluster")
        assert voters(own) == {"n1", "n2", "n3", "n4"}
    poll(lambda: voters(own) == {"n1", "n2", "n3"}, what="the dead one removed", timeout=110.0)
    own.must(follower, "POST", "kv/data/a", {"data": {"v": "1"}})
