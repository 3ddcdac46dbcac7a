"""When a member campaigns, and what makes a leader give up: a healthy leader stays, a dead one is replaced soon."""

import pytest
from support.replicas import OneReplica, entries

from consensus import wire
from consensus.options import RaftOptions

OPTIONS = RaftOptions(heartbeat_s=0.1, election_min_s=1.0, election_max_s=2.0)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> OneReplica:
    return OneReplica(monkeypatch, options=OPTIONS)


def follow(node: OneReplica) -> None:
    node.append("n2", 1, (0, 0), *entries(1, 3, 1), commit=3)


def pass_ticks(node: OneReplica, seconds: float) -> None:
    for _ in range(round(seconds / 0.01)):
        node.pass_time(0.01)


def test_a_lost_link_to_the_leader_starts_a_pre_vote_when_promises_have_run_out(node: OneReplica) -> None:
    follow(node)
    node.replica.link("n2", up=False)
    pass_ticks(node, OPTIONS.promise_s - 0.02)
    assert not node.of(wire.PreVoteRequest)
    pass_ticks(node, 2 * OPTIONS.heartbeat_s + 0.04)
    assert node.last(wire.PreVoteRequest).term == 2


def test_a_lost_link_to_another_follower_starts_nothing(node: OneReplica) -> None:
    follow(node)
    node.replica.link("n3", up=False)
    pass_ticks(node, OPTIONS.election_min_s - 0.1)
    assert not node.of(wire.PreVoteRequest)


def test_a_leader_that_is_heard_again_gets_its_whole_time(node: OneReplica) -> None:
    follow(node)
    node.replica.link("n2", up=False)
    pass_ticks(node, 0.3)
    node.replica.link("n2", up=True)
    node.append("n2", 1, (3, 1), commit=3)
    pass_ticks(node, OPTIONS.election_min_s - 0.05)
    assert not node.of(wire.PreVoteRequest)


def test_a_member_that_alone_lost_the_leader_changes_nothing(node: OneReplica) -> None:
    """The others hear it, so they refuse; the term stays, and the leader is not deposed when the link returns."""
    follow(node)
    node.replica.link("n2", up=False)
    pass_ticks(node, 5.0)
    node.frame("n3", wire.PreVote(1, 2, False))
    assert len(node.of(wire.PreVoteRequest)) > 1
    assert not node.of(wire.VoteRequest)
    assert node.core.term == 1
    node.replica.link("n2", up=True)
    node.append("n2", 1, (3, 1), *entries(4, 4, 1), commit=4)
    assert node.core.leader_id == "n2"
    assert node.core.commit_index == 4


def test_a_voter_that_hears_the_leader_refuses_one_that_does_not(node: OneReplica) -> None:
    follow(node)
    node.frame("n3", wire.PreVoteRequest(2, 3, 1))
    assert not node.last(wire.PreVote).granted


def test_after_a_split_vote_the_next_attempt_comes_soon(node: OneReplica) -> None:
    follow(node)
    node.replica.link("n2", up=False)
    pass_ticks(node, OPTIONS.promise_s + 2 * OPTIONS.heartbeat_s + 0.02)
    node.frame("n3", wire.PreVote(1, 2, True))
    assert node.last(wire.VoteRequest).term == 2
    asked = len(node.of(wire.PreVoteRequest))
    pass_ticks(node, 6 * OPTIONS.heartbeat_s + 0.02)
    assert len(node.of(wire.PreVoteRequest)) > asked
    assert node.last(wire.PreVoteRequest).term == 3
