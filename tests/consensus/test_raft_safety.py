"""Each fault of stock pysyncobj 0.3.17 that loses or forks a log, against the real adapter (DESIGN.md, P1 to P18)."""

import pickle

import pysyncobj.journal
import pysyncobj.pickle
import pysyncobj.syncobj
import pytest
from support.replicas import Fatal, OneReplica, entries

from consensus import membership, raft, wire
from consensus.api import Member
from consensus.records import Base, HardState


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> OneReplica:
    return OneReplica(monkeypatch)


@pytest.fixture
def five(monkeypatch: pytest.MonkeyPatch) -> OneReplica:
    return OneReplica(monkeypatch, voters=5)


# ---- P1: nothing is said before it is durable ----


def test_entries_are_acknowledged_only_after_fsync(node: OneReplica) -> None:
    node.append("n2", 1, (0, 0), *entries(1, 3, 1), sync=False)
    assert not node.of(wire.Ack)
    node.sync_disk()
    assert node.last(wire.Ack).match == 3


def test_heartbeat_during_a_slow_fsync_is_answered_with_what_is_durable(node: OneReplica) -> None:
    node.append("n2", 1, (0, 0), *entries(1, 2, 1))
    node.append("n2", 1, (2, 1), *entries(3, 4, 1), sync=False, seq=2)
    node.append("n2", 1, (4, 1), sync=False, seq=3)
    assert (node.last(wire.Ack).seq, node.last(wire.Ack).match) == (3, 2)


def test_a_batch_in_flight_does_not_make_entries_durable_that_came_after_a_truncation(
    node: OneReplica,
) -> None:
    node.append("n2", 1, (0, 0), *entries(1, 6, 1), sync=False)
    node.replica.taken()
    ticket = node.journal.take()
    node.append("n3", 2, (3, 1), *entries(4, 6, 2, "y"), sync=False, commit=6)
    node.journal.write(ticket)
    node.replica.durable()
    node.tick()
    assert not [ack for ack in node.of(wire.Ack) if ack.match > 3]
    assert [entry[1] for entry in node.applied] == [1, 2, 3]
    node.sync_disk()
    assert node.last(wire.Ack).match == 6


def test_what_replaced_a_durable_tail_is_not_durable_itself(node: OneReplica) -> None:
    node.append("n2", 1, (0, 0), *entries(1, 6, 1))
    node.append("n3", 2, (3, 1), *entries(4, 6, 2, "y"), sync=False, commit=6)
    assert [entry[1] for entry in node.applied] == [1, 2, 3]
    node.sync_disk()
    assert [entry[1] for entry in node.applied] == [1, 2, 3, 4, 5, 6]


def test_the_leader_counts_itself_only_after_its_own_fsync(node: OneReplica) -> None:
    node.lead()
    node.ack("n2", 1)
    assert node.core.commit_index == 1
    index = node.replica.append(entries(2, 2, 1)[0][0])
    node.tick()
    node.replica.on_frame("n2", wire.Ack(1, node.replica.gate.sequence, index))
    node.tick()
    assert node.core.commit_index == 1
    assert not [entry for entry in node.applied if entry[1] == index]
    node.sync_disk()
    assert node.core.commit_index == index


def test_a_group_of_one_commits_only_after_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    node = OneReplica(monkeypatch, voters=1)
    node.pass_time(0.01)
    assert node.replica.leading
    assert node.core.commit_index == 0
    node.sync_disk()
    assert node.core.commit_index == 1


def test_a_vote_is_on_disk_before_it_is_given(node: OneReplica) -> None:
    node.pass_time(0.6)
    node.frame("n2", wire.VoteRequest(9, 0, 0, False), sync=False)
    assert not node.of(wire.Vote)
    assert node.journal.read()[2] == HardState(0, None)
    node.sync_disk()
    assert node.journal.read()[2] == HardState(9, "n2")
    assert node.last(wire.Vote).term == 9


def test_a_campaign_is_on_disk_before_it_is_announced(node: OneReplica) -> None:
    node.pass_time(1.1)
    assert node.replica.on_frame("n2", wire.PreVote(0, 1, True))
    node.tick()
    assert not node.of(wire.VoteRequest)
    node.sync_disk()
    assert node.journal.read()[2] == HardState(1, "n1")
    assert node.last(wire.VoteRequest).term == 1


def test_a_new_term_is_on_disk_before_any_answer_shows_it(node: OneReplica) -> None:
    node.append("n2", 4, (0, 0), sync=False)
    node.append("n3", 3, (0, 0), sync=False)
    node.append("n2", 4, (9, 4), sync=False)
    assert node.sent == []
    node.sync_disk()
    assert {type(frame).__name__ for _, frame in node.sent} == {"Ack", "Reject", "LeaseAsk"}


def test_nothing_is_applied_before_it_is_durable_here(node: OneReplica) -> None:
    node.append("n2", 1, (0, 0), *entries(1, 3, 1), commit=3, sync=False)
    node.append("n2", 1, (3, 1), commit=3, seq=2, sync=False)
    assert node.applied == []
    node.sync_disk()
    assert [entry[1] for entry in node.applied] == [1, 2, 3]


# ---- P5, P10, P11: votes ----


def test_no_second_vote_in_a_term_even_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    first = OneReplica(monkeypatch)
    first.pass_time(0.6)
    first.frame("n2", wire.VoteRequest(9, 0, 0, False))
    again = OneReplica(monkeypatch, disk=first.journal.disk)
    again.pass_time(0.6)
    again.frame("n3", wire.VoteRequest(9, 50, 8, True))
    assert again.core.term == 9
    assert not again.of(wire.Vote)


def test_one_peer_that_votes_four_times_elects_nobody(five: OneReplica) -> None:
    five.pass_time(1.1)
    for peer in ("n2", "n3"):
        five.frame(peer, wire.PreVote(0, 1, True))
    for _ in range(4):
        five.frame("n2", wire.Vote(1))
    assert not five.replica.leading
    five.frame("n3", wire.Vote(1))
    assert five.replica.leading


def test_a_vote_from_a_node_that_is_no_member_does_not_count(node: OneReplica) -> None:
    node.pass_time(1.1)
    node.frame("n2", wire.PreVote(0, 1, True))
    node.frame("zz", wire.Vote(1))
    assert not node.replica.leading


def test_a_pre_vote_from_a_node_that_is_no_member_does_not_count(node: OneReplica) -> None:
    node.pass_time(1.1)
    node.frame("zz", wire.PreVote(0, 1, True))
    assert node.core.term == 0


def test_no_campaign_without_a_majority_of_pre_votes(five: OneReplica) -> None:
    five.pass_time(1.1)
    five.frame("n2", wire.PreVote(0, 1, True))
    five.frame("n2", wire.PreVote(0, 1, True))
    assert (five.core.term, five.of(wire.VoteRequest)) == (0, [])


def test_a_pre_vote_request_changes_nothing_and_is_refused_while_a_leader_is_heard(node: OneReplica) -> None:
    node.append("n2", 1, (0, 0), *entries(1, 1, 1))
    node.frame("n3", wire.PreVoteRequest(7, 99, 6))
    assert (node.core.term, node.last(wire.PreVote).granted) == (1, False)
    node.pass_time(0.6)
    node.frame("n3", wire.PreVoteRequest(7, 99, 6))
    assert (node.core.term, node.last(wire.PreVote).granted) == (1, True)
    node.frame("n3", wire.PreVoteRequest(7, 0, 0))
    assert not node.last(wire.PreVote).granted, "its log is behind"


def test_while_a_leader_is_heard_nobody_else_gets_a_vote_but_its_chosen_successor(node: OneReplica) -> None:
    node.append("n2", 1, (0, 0))
    node.frame("n3", wire.VoteRequest(9, 99, 8, False))
    assert (node.core.term, node.of(wire.Vote)) == (1, [])
    node.frame("n3", wire.VoteRequest(9, 99, 8, True))
    assert node.last(wire.Vote).term == 9


def test_a_restarted_voter_waits_as_long_as_a_promise_lasts(node: OneReplica) -> None:
    node.pass_time(0.25)
    node.frame("n3", wire.VoteRequest(9, 99, 8, False))
    assert not node.of(wire.Vote)
    node.pass_time(0.2)
    node.frame("n3", wire.VoteRequest(9, 99, 8, False))
    assert node.of(wire.Vote)


def test_a_leader_inside_its_lease_does_not_vote(node: OneReplica) -> None:
    node.lead()
    node.ack("n2", 1)
    node.frame("n3", wire.VoteRequest(9, 99, 8, False))
    assert node.replica.leading


def test_acknowledgements_of_an_older_term_do_not_count(five: OneReplica) -> None:
    term = five.lead()
    for peer in ("n2", "n3"):
        five.ack(peer, 1, term=term - 1)
    assert five.core.commit_index == 0
    for peer in ("n2", "n3"):
        five.ack(peer, 1)
    assert five.core.commit_index == 1


def test_acknowledgements_of_a_learner_do_not_count(node: OneReplica) -> None:
    node.lead()
    node.replica.set_learners({"n9": Member("n9", "h9:1")})
    node.ack("n9", 1)
    assert node.core.commit_index == 0


# ---- P9: leaders that are none any more ----


def test_an_answer_with_a_higher_term_deposes_the_leader(node: OneReplica) -> None:
    node.lead()
    node.frame("n2", wire.Reject(8, 1, 0))
    assert (node.replica.leading, node.core.term) == (False, 8)


def test_a_stale_leader_is_told_the_newer_term(node: OneReplica) -> None:
    node.append("n2", 5, (0, 0), *entries(1, 1, 5))
    node.append("n3", 4, (0, 0))
    assert node.last(wire.Reject).term == 5


def test_a_leader_without_a_quorum_gives_up_at_the_election_timeout(node: OneReplica) -> None:
    node.lead()
    node.ack("n2", 1)
    node.pass_time(1.1)
    assert not node.replica.leading


def test_two_leaders_in_one_term_stop_the_node(node: OneReplica) -> None:
    term = node.lead()
    with pytest.raises(Fatal, match="two leaders"):
        node.append("n2", term, (0, 0))


# ---- P12: truncation ----


def test_a_retransmitted_prefix_does_not_shorten_the_log(node: OneReplica) -> None:
    node.append("n2", 1, (0, 0), *entries(1, 20, 1))
    node.append("n2", 1, (0, 0), *entries(1, 5, 1), seq=2)
    assert node.log.last_index == 20
    assert node.last(wire.Ack).match == 5
    assert len(node.journal.read()[1]) == 20


def test_a_heartbeat_in_the_middle_commits_only_what_it_verifies(node: OneReplica) -> None:
    node.append("n2", 1, (0, 0), *entries(1, 20, 1))
    node.append("n2", 1, (7, 1), commit=20, seq=2)
    assert node.core.commit_index == 7


def test_a_true_conflict_truncates(node: OneReplica) -> None:
    node.append("n2", 1, (0, 0), *entries(1, 20, 1))
    node.append("n3", 2, (6, 1), *entries(7, 8, 2, "y"))
    assert (node.log.last_index, node.log.last_term) == (8, 2)
    assert [entry[2] for entry in node.journal.read()[1]] == [1] * 6 + [2] * 2


def test_committed_entries_are_never_overwritten(node: OneReplica) -> None:
    node.append("n2", 1, (0, 0), *entries(1, 5, 1), commit=5)
    with pytest.raises(Fatal, match="overwrite"):
        node.append("n3", 2, (3, 1), *entries(4, 5, 2, "y"))


def test_a_conflicting_term_is_skipped_in_one_round_trip(node: OneReplica) -> None:
    node.append("n2", 1, (0, 0), *entries(1, 3, 1))
    node.append("n2", 2, (3, 1), *entries(4, 90, 2))
    node.append("n3", 3, (90, 3), seq=7)
    assert (node.last(wire.Reject).hint, node.log.last_index) == (4, 90)


def test_acknowledgements_do_not_rewind_the_pipeline(node: OneReplica) -> None:
    node.lead()
    for index in range(2, 12):
        node.replica.append(entries(index, index, 1)[0][0])
        node.tick()
    sent = sum(len(frame.entries) for frame in node.of(wire.Append))
    node.ack("n2", 1)
    node.ack("n2", 2)
    assert sum(len(frame.entries) for frame in node.of(wire.Append)) == sent


def test_entries_before_the_base_are_known_to_be_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    members = tuple(Member(f"n{i}", f"h{i}:1") for i in (1, 2, 3))
    disk = [("reset", Base(50, 2, members)), *(("entry", entry) for entry in entries(51, 55, 3))]
    node = OneReplica(monkeypatch, disk=disk, applied=50)
    node.append("n2", 3, (40, 2), *entries(41, 50, 2), *entries(51, 53, 3))
    assert (node.last(wire.Ack).match, node.log.last_index) == (53, 55)


# ---- P14, P15: snapshots ----


def offer(term: int, index: int, index_term: int) -> wire.SnapshotOffer:
    members = [("n1", "h1:1"), ("n2", "h2:1"), ("n3", "h3:1")]
    return wire.SnapshotOffer(term, 1, index, index_term, members, 4, bytes(32))


def install(node: OneReplica, index: int, index_term: int) -> bool:
    """What intake.py does when the file is here and verified; the disk syncs in between."""
    begun = node.replica.follower.begin_install(Base(index, index_term, node.members))
    if begun:
        node.sync_disk()
        node.replica.follower.installed(index)
    return begun


def test_an_offered_snapshot_commits_nothing_of_the_log(node: OneReplica) -> None:
    node.append("n2", 1, (0, 0), *entries(1, 10, 1))
    node.frame("n3", offer(5, 1000, 4))
    assert (node.core.commit_index, node.applied) == (0, [])
    assert node.last(wire.Ack).match == 0
    assert [asked.index for asked in node.offers] == [1000]


def test_an_installed_snapshot_replaces_the_log_and_acknowledges_its_own_index(node: OneReplica) -> None:
    node.append("n2", 1, (0, 0), *entries(1, 10, 1))
    node.frame("n3", offer(5, 1000, 4))
    assert install(node, 1000, 4)
    node.frame("n3", offer(5, 1000, 4))
    assert (node.log.last_index, node.core.commit_index, node.core.applied_index) == (1000, 1000, 1000)
    assert node.last(wire.Ack).match == 1000


def test_an_installed_snapshot_brings_its_members_along(node: OneReplica) -> None:
    """A node that was away does not go on with those who were members when it went."""
    node.append("n2", 1, (0, 0), *entries(1, 10, 1))
    node.frame("n3", offer(5, 1000, 4))
    assert node.replica.follower.begin_install(Base(1000, 4, (*node.members[:2], Member("n9", "h9:1"))))
    assert set(node.replica.members) == {"n1", "n2", "n9"}
    assert set(node.replica.others) == {"n2", "n9"}


def test_a_new_beginning_of_the_log_is_not_acknowledged_before_it_is_on_disk(node: OneReplica) -> None:
    node.append("n2", 1, (0, 0), *entries(1, 10, 1))
    assert node.replica.follower.begin_install(Base(1000, 4, node.members))
    node.frame("n3", offer(5, 1000, 4), sync=False)
    assert 1000 not in [ack.match for ack in node.of(wire.Ack)]
    node.sync_disk()
    node.frame("n3", offer(5, 1000, 4))
    assert node.last(wire.Ack).match == 1000


def test_nothing_is_applied_and_nobody_campaigns_between_the_log_and_the_state(node: OneReplica) -> None:
    """The log begins at the snapshot, the state machine does not hold it yet."""
    node.append("n2", 1, (0, 0), *entries(1, 10, 1))
    assert node.replica.follower.begin_install(Base(1000, 4, node.members))
    node.append("n3", 5, (1000, 4), *entries(1001, 1005, 5), commit=1005)
    assert node.applied == []
    node.pass_time(10 * node.options.election_max_s)
    node.frame("n3", wire.TimeoutNow(5))
    assert (node.of(wire.PreVoteRequest), node.of(wire.VoteRequest)) == ([], [])
    node.replica.follower.installed(1000)
    node.tick()
    assert [entry[1] for entry in node.applied] == [1001, 1002, 1003, 1004, 1005]


def test_a_snapshot_that_the_log_has_outgrown_changes_nothing(node: OneReplica) -> None:
    node.append("n2", 1, (0, 0), *entries(1, 100, 1))
    node.frame("n2", offer(1, 90, 1))
    assert (node.offers, node.log.last_index, node.last(wire.Ack).match) == ([], 100, 90)
    assert not install(node, 90, 1)
    assert node.log.last_index == 100


def test_a_leader_installs_nothing(node: OneReplica) -> None:
    node.lead()
    assert not install(node, 1000, 4)


def test_an_older_snapshot_than_the_state_is_not_asked_for(node: OneReplica) -> None:
    node.frame("n3", offer(5, 1000, 4))
    assert install(node, 1000, 4)
    node.frame("n3", offer(5, 900, 4))
    assert [asked.index for asked in node.offers] == [1000]
    assert not install(node, 900, 4)


# ---- P17: membership ----


def test_an_uncommitted_membership_entry_is_in_force_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    first = OneReplica(monkeypatch)
    added = membership.payload_of(Member("n9", "h9:1"), adding=True)
    first.append("n2", 1, (0, 0), (added, 1, 1))
    assert "n9" in first.replica.members
    again = OneReplica(monkeypatch, disk=first.journal.disk)
    assert sorted(again.replica.members) == ["n1", "n2", "n3", "n9"]
    again.append("n3", 2, (0, 0), *entries(1, 1, 2))
    assert sorted(again.replica.members) == ["n1", "n2", "n3"], "truncated, so rolled back"


def test_only_a_member_that_hears_no_leader_takes_strangers_for_members(node: OneReplica) -> None:
    """Its configuration may lack today's leader; as long as one is heard, it does not."""
    node.append("n2", 1, (0, 0), *entries(1, 1, 1))
    assert not node.replica.orphaned
    node.pass_time(2.1)
    assert node.replica.orphaned


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> OneReplica:
    others = (Member("n2", "h2:1"), Member("n3", "h3:1"))
    return OneReplica(monkeypatch, disk=[("reset", Base(0, 0, others))])


def test_a_learner_does_not_campaign(learner: OneReplica) -> None:
    learner.pass_time(5)
    assert not learner.of(wire.PreVoteRequest)
    learner.append("n2", 1, (0, 0), *entries(1, 3, 1))
    assert learner.last(wire.Ack).match == 3
    learner.frame("n2", wire.TimeoutNow(1))
    assert not learner.of(wire.VoteRequest)


def test_a_learner_votes_for_who_may_know_that_it_is_a_member(learner: OneReplica) -> None:
    """The entry that made it one is durable at its leader, which was killed before it could send it, and asks."""
    learner.append("n2", 1, (0, 0), *entries(1, 3, 1))
    learner.frame("n2", wire.PreVoteRequest(2, 4, 1))
    assert not learner.last(wire.PreVote).granted, "a leader was heard just now"
    learner.pass_time(5)
    learner.frame("n3", wire.PreVoteRequest(2, 2, 1))
    assert not learner.last(wire.PreVote).granted, "it lacks what is here"
    learner.frame("n2", wire.PreVoteRequest(2, 4, 1))
    assert learner.last(wire.PreVote).granted
    learner.frame("n2", wire.VoteRequest(2, 4, 1, False))
    assert learner.last(wire.Vote).term == 2
    learner.frame("n3", wire.VoteRequest(2, 4, 1, False))
    assert len(learner.of(wire.Vote)) == 1


# ---- P7, P13, P16: what must never happen at all ----


def test_pickle_is_gone_from_pysyncobj() -> None:
    for module in (pysyncobj.pickle, pysyncobj.journal):
        with pytest.raises(RuntimeError, match="pickle"):
            module.loads(pickle.dumps(1))
    with pytest.raises(RuntimeError, match="pickle"):
        pysyncobj.pickle.dumps(1)


def test_another_pysyncobj_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft, "SOURCE_SHA256", "0" * 64)
    with pytest.raises(RuntimeError, match="audited"):
        raft._pin()


def test_pysyncobj_without_an_expected_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft, "_METHODS", "setState noSuchMethod")
    with pytest.raises(RuntimeError, match="noSuchMethod"):
        raft._pin()


@pytest.mark.parametrize("size", [131_032, 131_052, 131_071, 131_072, 131_172, 1 << 20])
def test_entries_of_every_size_replicate(node: OneReplica, size: int) -> None:
    """Stock pysyncobj stops for ever at the first four of these sizes (P16)."""
    node.lead()
    node.replica.append(bytes(size - 4096 if size == 1 << 20 else size))
    node.tick()
    assert len(node.last(wire.Append).entries[-1][0]) >= size - 4096


def test_an_acknowledgement_beyond_the_log_stops_the_node(node: OneReplica) -> None:
    node.lead()
    with pytest.raises(Fatal, match="beyond"):
        node.ack("n2", 50)


# ---- P18: the commit index is never trusted from a disk ----


def test_a_restart_commits_nothing_beyond_what_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    first = OneReplica(monkeypatch)
    first.append("n2", 1, (0, 0), *entries(1, 9, 1), commit=9)
    again = OneReplica(monkeypatch, disk=first.journal.disk, applied=4)
    assert (again.core.commit_index, again.log.last_index) == (4, 9)
    again.append("n3", 2, (9, 1), *entries(10, 12, 2), commit=4)
    assert again.applied == []
