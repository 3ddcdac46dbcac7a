"""When a member campaigns, and what makes a leader give up: a healthy leader stays, a dead one is replaced soon."""

import asyncio
import dataclasses
import errno
import os
import threading
from pathlib import Path

import pytest
from support.groups import FAST, Cluster, request_id
from support.patience import PATIENCE_S, eventually
from support.replicas import OneReplica, entries

from consensus import files, syncing, wire
from consensus.errors import DiskFull
from consensus.handover import FULL_RETRY_S
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


# ---- the leader's disk ----


def lead(node: OneReplica) -> None:
    node.lead()
    for peer in ("n2", "n3"):
        node.ack(peer, 1)


def test_a_leader_whose_disk_hangs_hands_over_to_who_has_its_whole_log(node: OneReplica) -> None:
    lead(node)
    index = node.replica.append(entries(1, 1, 1)[0][0])
    node.tick()
    node.disk_hangs = True
    node.replica.handover.look()
    assert not node.of(wire.TimeoutNow)
    node.replica.on_frame("n3", wire.Ack(1, node.replica.gate.sequence, index))
    node.replica.handover.look()
    assert [peer for peer, frame in node.sent if isinstance(frame, wire.TimeoutNow)] == ["n3"]


def test_if_nobody_takes_over_it_leads_no_longer_and_does_not_campaign(node: OneReplica) -> None:
    lead(node)
    node.replica.append(entries(1, 1, 1)[0][0])
    node.disk_hangs = True
    for _ in range(12):
        node.replica.handover.look()
        node.now += 0.1
    assert not node.replica.leading
    voted = len(node.of(wire.VoteRequest))
    pass_ticks(node, 2 * OPTIONS.election_max_s)
    assert len(node.of(wire.VoteRequest)) == voted
    assert not [frame for frame in node.of(wire.PreVoteRequest) if frame.term > 1]
    node.append("n2", 2, (1, 1), sync=False)
    assert node.core.leader_id == "n2"


def test_a_resigned_leader_does_not_vote_again_in_its_own_term(node: OneReplica) -> None:
    lead(node)
    term = node.core.term
    node.core.resign()
    node.now += OPTIONS.promise_s
    node.frame("n3", wire.VoteRequest(term, 99, term, False))
    assert not node.of(wire.Vote)


def test_a_disk_that_answers_again_in_time_costs_nothing(node: OneReplica) -> None:
    lead(node)
    node.replica.append(entries(1, 1, 1)[0][0])
    node.disk_hangs = True
    node.replica.handover.look()
    assert node.replica.transferring
    node.disk_hangs = False
    node.replica.handover.look()
    assert node.replica.leading
    assert not node.replica.transferring


async def test_a_failed_fsync_ends_the_process_and_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(tmp_path)
    await cluster.boot()
    await cluster.led()
    calls = []

    def fails(fd: int) -> None:
        calls.append(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files, "sync_data", fails)
    write = cluster.groups["n1"].propose(b"k=1", request_id=request_id(), timeout=0.5)
    with pytest.raises(Exception):
        await write
    await eventually(lambda: cluster.fatal, "the end of the process")
    assert len(calls) == 1
    with pytest.raises(OSError, match="Input/output"):
        await cluster.groups.pop("n1").stop()
    assert len(calls) == 1
    cluster.fatal.clear()


async def test_a_running_leader_whose_disk_hangs_is_replaced_and_comes_back_as_a_follower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(tmp_path, dataclasses.replace(FAST, disk_stall_s=0.2))
    await cluster.boot()
    await cluster.led()
    await cluster.grow("n2", "n3")
    old = await cluster.led()
    real, answers = files.sync_data, threading.Event()

    def hangs(fd: int) -> None:
        if f"/{old}/" in os.readlink(f"/proc/self/fd/{fd}"):
            answers.wait(60.0)
        real(fd)

    # The three share one loop here, which a sync on it would stop for all of them.
    monkeypatch.setattr(syncing, "INLINE_BYTES_MAX", -1)
    try:
        monkeypatch.setattr(files, "sync_data", hangs)
        write = asyncio.create_task(cluster.write(old, "k=1"))
        await eventually(lambda: set(cluster.leaders()) - {old}, "another leader")
        (other,) = (node_id for node_id in cluster.followers() if node_id not in (old, *cluster.leaders()))
        await cluster.write(other, "k=2")
    finally:
        answers.set()
    await write
    await cluster.converged()
    await cluster.close()


async def test_a_low_disk_takes_no_writes_lets_reads_go_on_and_recovers(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    await cluster.boot()
    await cluster.led()
    await cluster.grow("n2", "n3")
    await cluster.write("n2", "k=1")
    cluster.free_bytes = 40 << 20  # too little for new writes, enough for those that were taken already
    for group in cluster.groups.values():
        await eventually(
            lambda group=group: group.status() and group._engine.disk.full, "the look at the disk"
        )
        with pytest.raises(DiskFull):
            await group.propose(b"k=2", request_id=request_id(), timeout=PATIENCE_S)
        await group.read_index(PATIENCE_S)
    assert {machine.values["k"] for machine in cluster.machines.values()} == {"1"}
    cluster.free_bytes = 1 << 40
    for node_id, group in cluster.groups.items():
        await eventually(lambda group=group: not group._engine.disk.full, "the look at the disk")
        await cluster.write(node_id, f"k={node_id}")
    await cluster.close()


async def test_a_write_that_found_no_room_is_written_when_there_is_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segment is full, and so is the disk: nothing is lost, nothing fails, reads go on."""
    cluster = Cluster(tmp_path)
    await cluster.boot()
    await cluster.led()
    real, full = files.preallocate, True

    def preallocate(fd: int, size_bytes: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd, size_bytes)

    monkeypatch.setattr(files, "preallocate", preallocate)
    group = cluster.groups["n1"]
    big = [
        group.propose(b"k=" + b"x" * 900_000, request_id=request_id(), timeout=PATIENCE_S) for _ in range(20)
    ]
    writes = [asyncio.ensure_future(each) for each in big]
    await eventually(lambda: group._engine.disk.full, "no room for a segment")
    with pytest.raises(DiskFull):
        await group.propose(b"k=2", request_id=request_id(), timeout=PATIENCE_S)
    assert not cluster.fatal
    full = False
    await asyncio.gather(*writes)
    await cluster.write("n1", "k=3")
    await cluster.stop("n1")
    await cluster.reopen("n1")
    await cluster.led()
    await eventually(lambda: len(cluster.machines["n1"].history) == 21, "the whole log applied again")
    await cluster.close()


# ---- a leader without room, and a transfer that comes to nothing ----


def told(node: OneReplica) -> list[str]:
    return [peer for peer, frame in node.sent if isinstance(frame, wire.TimeoutNow)]


def look_for(node: OneReplica, seconds: float, *answering: str) -> None:
    """The leader looks at its disk and ticks; `answering` acknowledge every round."""
    for _ in range(round(seconds / 0.05)):
        node.replica.handover.look()
        node.pass_time(0.05)
        for peer in answering:
            node.ack(peer, node.log.last_index)


def test_a_leader_whose_disk_is_full_asks_one_after_another_and_leads_on_if_nobody_can(
    node: OneReplica,
) -> None:
    lead(node)
    node.disk_full = True
    look_for(node, 1.0, "n2", "n3")
    assert len(told(node)) == 1
    look_for(node, OPTIONS.election_max_s + 0.2, "n2", "n3")
    assert sorted(told(node)) == ["n2", "n3"]
    look_for(node, OPTIONS.election_max_s, "n2", "n3")
    assert node.replica.leading
    assert not node.replica.transferring
    look_for(node, FULL_RETRY_S - OPTIONS.election_max_s, "n2", "n3")
    assert len(told(node)) == 2
    look_for(node, OPTIONS.election_max_s, "n2", "n3")
    assert len(told(node)) == 3


def test_a_follower_whose_disk_is_full_does_not_take_over(node: OneReplica) -> None:
    follow(node)
    node.disk_full = True
    node.frame("n2", wire.TimeoutNow(1))
    assert not node.of(wire.VoteRequest)
    node.disk_full = False
    node.frame("n2", wire.TimeoutNow(1))
    assert node.last(wire.VoteRequest).transfer


def test_a_follower_that_was_told_to_campaign_does_not_answer_as_if_it_were_not(node: OneReplica) -> None:
    """Its answer to a later round would tell the leader that the order came to nothing."""
    follow(node)
    answers = len(node.of(wire.Ack))
    assert node.replica.on_frame("n2", wire.TimeoutNow(1))
    assert node.replica.on_frame("n2", wire.Append(1, 9, 3, 1, 3, []))
    assert len(node.of(wire.Ack)) == answers
    node.tick()
    node.sync_disk()
    assert node.last(wire.VoteRequest).transfer
    assert len(node.of(wire.Ack)) == answers


def test_an_order_to_campaign_does_not_outlive_its_term(node: OneReplica) -> None:
    follow(node)
    assert node.replica.on_frame("n2", wire.TimeoutNow(1))
    node.frame("n3", wire.VoteRequest(5, 99, 4, True))
    node.pass_time(OPTIONS.election_max_s + 0.1)
    node.sync_disk()
    assert not node.of(wire.VoteRequest)
    assert node.of(wire.PreVoteRequest)


def test_leases_are_back_after_a_transfer_that_came_to_nothing(node: OneReplica) -> None:
    lead(node)
    assert node.replica.leased
    assert node.replica.handover.to("n2")
    look_for(node, 0.3, "n3")
    assert not node.replica.leased
    look_for(node, 0.3, "n2", "n3")
    assert node.replica.leased


def test_if_nothing_is_heard_of_it_an_election_of_our_own_makes_the_order_void(node: OneReplica) -> None:
    lead(node)
    assert node.replica.handover.to("n2")
    look_for(node, 2 * OPTIONS.election_max_s - 0.2, "n3")
    assert node.core.term == 1
    look_for(node, 0.4, "n3")
    assert node.last(wire.VoteRequest) == wire.VoteRequest(2, 1, 1, transfer=True)
    node.frame("n3", wire.Vote(2))
    assert node.replica.leading
    node.sync_disk()
    look_for(node, 0.3, "n3")
    assert node.replica.leased
