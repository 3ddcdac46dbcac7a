"""Adding and removing members, on running groups; and the rules as a pure function."""

import asyncio
import shutil
from pathlib import Path

import pytest
from support.groups import Cluster
from support.machines import DictMachine
from support.patience import PATIENCE_S, eventually

from consensus import membership
from consensus.api import Member, Role
from consensus.errors import Corrupt, MembershipRefused
from consensus.group import RaftGroup
from consensus.membership import LEARNERS_MAX, VOTERS_MAX, Change


async def test_a_joiner_is_a_learner_until_it_is_added(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    await cluster.boot()
    await cluster.led()
    await cluster.write("n1", "a=1")
    joiner = await cluster.join("n2")
    assert joiner.status().role is Role.LEARNER
    await cluster.groups["n1"].add_member(cluster.member("n2"), PATIENCE_S)
    await eventually(lambda: joiner.status().role is Role.FOLLOWER, "the joiner votes")
    assert [m.id for m in cluster.groups["n1"].status().members] == ["n1", "n2"]
    await cluster.close()


async def test_changes_can_be_asked_of_any_node_and_asked_again(three: Cluster) -> None:
    follower = three.followers()[0]
    await three.join("n4")
    for _ in range(2):
        await three.groups[follower].add_member(three.member("n4"), PATIENCE_S)
        assert "n4" in {m.id for m in three.groups[follower].status().members}
    await three.write("n4", "a=1")
    for _ in range(2):
        await three.groups[follower].remove_member("n4", PATIENCE_S)
    await eventually(lambda: three.groups["n4"].status().role is Role.LEARNER, "the removed one knows")
    await three.stop("n4")
    await three.write(follower, "b=1")


async def test_a_leader_that_removes_itself_hands_over_first(three: Cluster) -> None:
    old = await three.led()
    await three.groups[old].remove_member(old, PATIENCE_S)
    await three.stop(old)
    new = await three.led()
    assert old not in {m.id for m in three.groups[new].status().members}
    await three.write(new, "a=1")


async def test_the_last_voter_stays(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    group = await cluster.boot()
    await cluster.led()
    with pytest.raises(MembershipRefused, match="last voter"):
        await group.remove_member("n1", PATIENCE_S)
    await cluster.close()


async def test_a_joiner_that_never_comes_is_not_added_and_blocks_nothing(three: Cluster) -> None:
    leader = await three.led()
    with pytest.raises(MembershipRefused):
        await three.groups[leader].add_member(three.member("n8"), 0.3)
    assert len(three.groups[leader].status().members) == 3
    await three.write(leader, "a=1")


async def test_a_node_does_not_join_a_cluster_under_the_id_of_a_member(
    three: Cluster, tmp_path: Path
) -> None:
    """As one would whose disk was lost: it has forgotten what it voted for."""
    await three.stop("n3")
    shutil.rmtree(tmp_path / "n3")
    members = tuple(three.member(node_id) for node_id in ("n1", "n2", "n3"))
    with pytest.raises(MembershipRefused):
        RaftGroup.join(three.config("n3"), DictMachine(tmp_path / "n3" / "state"), members=members)


async def test_members_survive_a_restart(three: Cluster) -> None:
    await three.stop("n1")
    group = await three.reopen("n1")
    assert [m.id for m in group.status().members] == ["n1", "n2", "n3"]


async def test_a_learner_does_not_vote_before_it_may_and_holds_up_no_other_change(three: Cluster) -> None:
    leader, gone = await three.led(), three.followers()[0]
    await three.join("n4")
    allowed = False
    adding = asyncio.create_task(
        three.groups[leader].add_member(three.member("n4"), PATIENCE_S, may_vote=lambda: allowed)
    )
    index = await three.write(leader, "a=1")
    await eventually(lambda: three.machines["n4"].applied_index >= index, "the learner has caught up")
    await three.groups[leader].remove_member(gone, PATIENCE_S)
    assert set(three.members(leader)) == {"n1", "n2", "n3"} - {gone}
    assert not adding.done()
    allowed = True
    await adding
    assert "n4" in three.members(leader)


async def test_only_the_leader_waits_until_a_learner_may_vote(three: Cluster) -> None:
    follower = (await three.led(), three.followers()[0])[1]
    await three.join("n4")
    with pytest.raises(MembershipRefused, match="not the leader"):
        await three.groups[follower].add_member(three.member("n4"), PATIENCE_S, may_vote=lambda: True)


async def test_of_several_that_join_at_once_each_becomes_a_voter(three: Cluster) -> None:
    leader = await three.led()
    for node_id in ("n4", "n5"):
        await three.join(node_id)
    await asyncio.gather(
        *(
            three.groups[leader].add_member(three.member(node_id), PATIENCE_S)
            for node_id in ("n4", "n5", "n4")
        )
    )
    assert three.members(leader) == ["n1", "n2", "n3", "n4", "n5"]
    assert not three.groups[leader].status().learners


A, B = Member("a", "h:1"), Member("b", "h:2")


def test_payloads_read_back_as_what_was_written() -> None:
    assert membership.change_of(membership.payload_of(B, adding=True), 7) == Change(7, True, B)
    assert membership.change_of(membership.payload_of(B, adding=False), 8) == Change(
        8, False, Member("b", "")
    )


@pytest.mark.parametrize(
    "payload", [b"\x02", b"\x02\xc1", b"\x02\x91\xa3add", b"\x02\x93\xa3add\xa0\xa1x", b"\x02\x01"]
)
def test_a_damaged_change_is_corrupt(payload: bytes) -> None:
    with pytest.raises(Corrupt):
        membership.change_of(payload, 1)


def test_one_change_at_a_time_and_only_after_an_entry_of_the_leaders_term() -> None:
    pending = [Change(5, True, B)]
    with pytest.raises(MembershipRefused, match="pending"):
        membership.check_safe(changes=pending, applied_index=4, noop_index=3)
    with pytest.raises(MembershipRefused, match="own term"):
        membership.check_safe(changes=[], applied_index=2, noop_index=3)
    membership.check_safe(changes=pending, applied_index=5, noop_index=3)


def test_additions_that_would_mislead_are_refused() -> None:
    with pytest.raises(MembershipRefused, match="address"):
        membership.check_add({"a": A}, Member("b", "h:1"))
    with pytest.raises(MembershipRefused):
        membership.check_add({"a": A}, Member("b", ""))
    with pytest.raises(MembershipRefused, match="no such"):
        membership.check_remove({"a": A, "b": B}, "c")


def test_a_group_has_so_many_voters_and_joiners_at_a_time_and_no_more() -> None:
    """Each voter is one more whom a commit may have to wait for; each joiner gets the whole state."""
    many = {f"n{i}": Member(f"n{i}", f"h:{i}") for i in range(max(VOTERS_MAX, LEARNERS_MAX))}
    voters, learners = (dict(list(many.items())[:limit]) for limit in (VOTERS_MAX, LEARNERS_MAX))
    new = Member("new", "h:new")
    membership.check_add(dict(list(voters.items())[1:]), new)
    with pytest.raises(MembershipRefused, match=f"at most {VOTERS_MAX} voters"):
        membership.check_add(voters, new)
    membership.check_learner(dict(list(learners.items())[1:]), new)
    membership.check_learner(learners, learners["n0"])
    with pytest.raises(MembershipRefused, match=f"at most {LEARNERS_MAX} nodes can join"):
        membership.check_learner(learners, new)


async def test_a_removal_that_would_leave_no_majority_is_refused_on_every_node(three: Cluster) -> None:
    """One voter is down: of the other two, neither can be spared."""
    leader = await three.led()
    down, up = three.followers()
    await three.stop(down)
    gone = three.groups[leader]._engine.replica
    await eventually(lambda: down not in gone.answering, "the leader knows that it is down")
    for asked in (leader, up):
        for victim in (up, leader):
            if (asked, victim) == (leader, leader):
                continue  # it would hand over first
            with pytest.raises(MembershipRefused, match="majority"):
                await three.groups[asked].check_removal(victim, PATIENCE_S)
    with pytest.raises(MembershipRefused, match="majority"):
        await three.groups[leader].remove_member(up, PATIENCE_S)
    assert len(three.groups[leader].status().members) == 3
    await three.write(up, "a=1")
    await three.groups[up].check_removal(down, PATIENCE_S)
    await three.groups[up].remove_member(down, PATIENCE_S)
    await three.write(leader, "b=1")
    assert {m.id for m in three.groups[leader].status().members} == {leader, up}


def test_who_answers_decides_whether_a_member_can_be_spared() -> None:
    members = {name: Member(name, f"{name}:1") for name in "abcde"}
    membership.check_keeps_quorum(members, "e", {"a", "b", "c"})
    with pytest.raises(MembershipRefused):
        membership.check_keeps_quorum(members, "c", {"a", "b", "c"})
    membership.check_keeps_quorum({"a": A, "b": B}, "b", {"a"})
