"""Read leases of followers, rule by rule: each of these fails when its rule is taken out of leases.py or leasing.py."""

import pytest
from support.replicas import OneReplica, entries

from consensus import membership, wire
from consensus.api import Member
from consensus.options import RaftOptions

OPTIONS = RaftOptions(heartbeat_s=0.1, election_min_s=1.0, election_max_s=2.0)
PROMISE_S, LEADER_LEASE_S, LEASE_S = OPTIONS.promise_s, OPTIONS.lease_s, OPTIONS.read_lease_s
FULL = int(LEASE_S * 1e6)
PROMISE = int(PROMISE_S * 1e6)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> OneReplica:
    return OneReplica(monkeypatch, options=OPTIONS)


def fresh(node: OneReplica) -> bool:
    alone = node.replica.leasing.fresh
    assert (node.now < node.replica.leasing.fresh_until) == alone, (
        "who reads beside the node must be told the same"
    )
    return alone


def follow(node: OneReplica) -> wire.LeaseAsk:
    """n2 leads, three entries are committed and applied, somebody reads here: the question that follows."""
    assert not fresh(node)
    node.append("n2", 1, (0, 0), *entries(1, 3, 1), commit=3)
    return node.last(wire.LeaseAsk)


def hold(node: OneReplica) -> None:
    ask = follow(node)
    node.frame("n2", wire.LeaseAnswer(1, ask.number, FULL, 3))
    assert fresh(node)


def grant(node: OneReplica, peer: str, number: int = 1) -> int:
    """The leader n1 has just heard `peer`, which holds everything. The lease that it gives, in microseconds."""
    node.ack(peer, node.log.last_index)
    node.frame(peer, wire.LeaseAsk(node.core.term, number, True, PROMISE))
    return node.last(wire.LeaseAnswer).micros


def lead(node: OneReplica) -> None:
    node.lead()
    for peer in ("n2", "n3"):
        node.ack(peer, 1)
    assert node.replica.leased


def write(node: OneReplica) -> int:
    index = node.replica.append(entries(1, 1, 1)[0][0])
    node.tick()
    node.sync_disk()
    return index


# ---- the follower ----


def test_a_follower_with_a_lease_answers_alone(node: OneReplica) -> None:
    hold(node)
    node.pass_time(LEASE_S * 0.8)
    assert fresh(node)


def test_a_lease_counts_from_the_asking_not_from_the_answer(node: OneReplica) -> None:
    ask = follow(node)
    node.now += LEASE_S * 0.8
    node.frame("n2", wire.LeaseAnswer(1, ask.number, FULL, 3))
    assert fresh(node)
    node.now += LEASE_S * 0.15
    assert not fresh(node)


def test_a_node_that_slept_through_its_lease_does_not_answer(node: OneReplica) -> None:
    """Nothing runs while it is stopped: the first look at the clock must be enough."""
    hold(node)
    node.now += LEASE_S
    assert not fresh(node)


def test_entries_that_are_received_and_not_applied_make_reads_wait(node: OneReplica) -> None:
    hold(node)
    node.append("n2", 1, (3, 1), *entries(4, 4, 1), commit=3)
    assert not fresh(node)
    assert node.replica.leasing.holds()
    node.append("n2", 1, (4, 1), commit=4)
    assert fresh(node)


def test_another_term_or_leader_ends_a_lease_at_once(node: OneReplica) -> None:
    hold(node)
    node.append("n3", 2, (3, 1), commit=3)
    assert not fresh(node)


def test_a_vote_for_another_ends_it_too(node: OneReplica) -> None:
    hold(node)
    node.frame("n3", wire.VoteRequest(2, 99, 1, True))
    assert node.last(wire.Vote).term == 2
    assert not fresh(node)


def test_an_answer_from_an_earlier_term_or_to_no_question_grants_nothing(node: OneReplica) -> None:
    ask = follow(node)
    node.frame("n2", wire.LeaseAnswer(1, ask.number + 7, FULL, 3))
    assert not fresh(node)
    node.append("n3", 2, (3, 1), commit=3)
    node.frame("n2", wire.LeaseAnswer(1, ask.number, FULL, 3))
    assert not fresh(node)


def test_a_recall_ends_the_lease_and_voids_answers_on_their_way(node: OneReplica) -> None:
    hold(node)
    node.now += OPTIONS.heartbeat_s
    node.append("n2", 1, (3, 1), commit=3)
    asked = node.last(wire.LeaseAsk)
    node.frame("n2", wire.LeaseRecall(1, 5))
    assert node.last(wire.LeaseReturned).number == 5
    assert not fresh(node)
    node.frame("n2", wire.LeaseAnswer(1, asked.number, FULL, 3))
    assert not fresh(node)


def test_nobody_asks_for_a_lease_where_nobody_reads(node: OneReplica) -> None:
    node.append("n2", 1, (0, 0), *entries(1, 3, 1), commit=3)
    assert not node.last(wire.LeaseAsk).wanted
    assert not fresh(node)
    node.now += OPTIONS.heartbeat_s
    node.append("n2", 1, (3, 1), commit=3)
    assert node.last(wire.LeaseAsk).wanted


def test_the_age_of_a_state_counts_from_the_question_and_only_once_it_is_applied(node: OneReplica) -> None:
    assert node.replica.leasing.age_s() is None
    ask = follow(node)
    node.now += 0.3
    node.frame("n2", wire.LeaseAnswer(1, ask.number, 0, 4))
    assert node.replica.leasing.age_s() is None
    node.append("n2", 1, (3, 1), *entries(4, 4, 1), commit=4)
    assert node.replica.leasing.age_s() == pytest.approx(0.3)
    node.now += 5
    assert node.replica.leasing.age_s() == pytest.approx(5.3)


# ---- the leader ----


def test_a_new_leader_does_not_call_its_state_young_before_its_own_entry_is_applied(node: OneReplica) -> None:
    """Its predecessors may have committed more than it knows to be committed."""
    node.lead()
    node.ack("n2", 0)
    assert node.replica.leasing.age_s() is None
    node.ack("n2", node.log.last_index)
    assert node.replica.leasing.age_s() == 0.0


def test_a_commit_waits_for_every_follower_that_reads_alone(node: OneReplica) -> None:
    lead(node)
    assert grant(node, "n2") == FULL
    index = write(node)
    node.ack("n3", index)
    assert node.core.commit_index == index - 1
    node.ack("n2", index)
    assert node.core.commit_index == index


def test_a_dead_follower_delays_a_commit_until_its_lease_has_run_out_and_no_longer(node: OneReplica) -> None:
    lead(node)
    grant(node, "n2")
    index = write(node)
    node.ack("n3", index)
    node.pass_time(LEASE_S * 0.95)
    assert node.core.commit_index == index - 1
    node.pass_time(LEASE_S * 0.05)
    assert node.core.commit_index == index


def test_a_lease_ends_no_later_than_the_leaders_own(node: OneReplica) -> None:
    lead(node)
    sent = node.now
    node.ack("n2", 1)
    node.now += LEADER_LEASE_S - 0.2
    node.frame("n2", wire.LeaseAsk(1, 1, True, PROMISE))
    assert 0 < node.last(wire.LeaseAnswer).micros <= (sent + LEADER_LEASE_S - node.now) * 1e6


def test_outside_its_own_lease_the_leader_grants_and_says_nothing(node: OneReplica) -> None:
    lead(node)
    node.now += LEADER_LEASE_S
    node.frame("n2", wire.LeaseAsk(1, 1, True, PROMISE))
    assert not node.of(wire.LeaseAnswer)


def test_a_new_leader_grants_nothing_before_its_own_entry_is_committed(node: OneReplica) -> None:
    node.lead()
    node.ack("n2", 0)
    node.frame("n2", wire.LeaseAsk(1, 1, True, PROMISE))
    assert not node.of(wire.LeaseAnswer)


def test_a_follower_that_lacks_committed_entries_gets_no_lease(node: OneReplica) -> None:
    lead(node)
    index = write(node)
    node.ack("n3", index)
    node.frame("n2", wire.LeaseAsk(1, 1, True, PROMISE))
    answer = node.last(wire.LeaseAnswer)
    assert (answer.micros, answer.commit) == (0, index)


def test_a_learner_gets_no_lease(node: OneReplica) -> None:
    lead(node)
    node.replica.set_learners({"n9": Member("n9", "h9:1")})
    node.replica.link("n9", up=True)
    assert grant(node, "n9") == 0


def test_the_lease_of_a_removed_member_is_waited_for(node: OneReplica) -> None:
    lead(node)
    grant(node, "n2")
    index = node.replica.append(membership.payload_of(Member("n2", ""), adding=False))
    node.tick()
    node.sync_disk()
    node.ack("n3", index)
    assert node.core.commit_index == index - 1
    node.pass_time(LEASE_S)
    assert node.core.commit_index == index


def test_a_transfer_recalls_every_lease_first(node: OneReplica) -> None:
    lead(node)
    grant(node, "n2")
    assert not node.replica.handover.to("n3")
    assert not node.of(wire.TimeoutNow)
    node.frame("n2", wire.LeaseReturned(1, node.last(wire.LeaseRecall).number))
    assert node.replica.handover.to("n3")


def test_a_transfer_outlasts_the_lease_of_who_does_not_give_it_back(node: OneReplica) -> None:
    lead(node)
    grant(node, "n2")
    assert not node.replica.handover.to("n3")
    node.pass_time(LEASE_S * 0.9)
    assert not node.replica.handover.to("n3")
    node.pass_time(LEASE_S * 0.1)
    assert node.replica.handover.to("n3")


def test_a_transfer_under_way_grants_nothing(node: OneReplica) -> None:
    lead(node)
    node.replica.handover.transferring = True
    assert grant(node, "n2") == 0


def test_an_old_recall_does_not_take_a_newer_lease(node: OneReplica) -> None:
    """The transfer was given up, the follower asked again; then its answer to the recall arrives."""
    lead(node)
    grant(node, "n2", 1)
    assert not node.replica.handover.to("n3")
    recall = node.last(wire.LeaseRecall).number
    grant(node, "n2", 2)
    node.frame("n2", wire.LeaseReturned(1, recall))
    index = write(node)
    node.ack("n3", index)
    assert node.core.commit_index == index - 1


def test_a_leader_that_steps_down_votes_for_nobody_until_its_grants_have_run_out(node: OneReplica) -> None:
    lead(node)
    grant(node, "n2")
    node.frame("n3", wire.Reject(7, node.replica.gate.sequence, 0))
    assert not node.replica.leading
    for wait, votes in ((LEASE_S * 0.9, 0), (LEASE_S * 0.2, 1)):
        node.pass_time(wait)
        node.frame("n3", wire.VoteRequest(8, 99, 7, False))
        assert len(node.of(wire.Vote)) == votes


def test_nor_does_it_campaign(node: OneReplica) -> None:
    lead(node)
    grant(node, "n2")
    node.frame("n3", wire.Reject(7, node.replica.gate.sequence, 0))
    for wait, campaigns in ((LEASE_S * 0.9, 0), (LEASE_S * 0.2, 1)):
        node.now += wait
        node.core.deadline = node.now - 1
        node.tick()
        node.frame("n3", wire.PreVote(7, 8, True))
        node.tick()
        assert len({frame.term for frame in node.of(wire.VoteRequest) if frame.term == 8}) == campaigns


def test_a_follower_that_holds_back_commits_for_long_gets_no_lease_for_a_while(node: OneReplica) -> None:
    lead(node)
    grant(node, "n2")
    index = write(node)
    node.ack("n3", index)
    node.pass_time(OPTIONS.heartbeat_s)
    node.ack("n3", index)
    assert grant(node, "n2") == 0


def test_a_follower_that_holds_back_commits_often_gets_none_either(node: OneReplica) -> None:
    """Never for long at once, but for most of a second."""
    lead(node)
    for number in range(40):
        grant(node, "n2", number + 1)
        index = write(node)
        node.ack("n3", index)
        node.pass_time(OPTIONS.heartbeat_s * 0.3)
        node.ack("n2", index)
        assert node.core.commit_index == index
    assert grant(node, "n2", 99) == 0
    assert grant(node, "n3", 99) > 0


def test_without_read_leases_nobody_reads_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    options = RaftOptions(heartbeat_s=0.1, election_min_s=1.0, election_max_s=2.0, read_leases=False)
    node = OneReplica(monkeypatch, options=options)
    node.lead()
    for peer in ("n2", "n3"):
        node.ack(peer, 1)
    assert not fresh(node)
    assert grant(node, "n2") == 0
