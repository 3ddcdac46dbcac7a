"""Read index, leases, and what ends them."""

import asyncio
import random
from pathlib import Path

import pytest
from support.groups import Cluster
from support.patience import PATIENCE_S
from support.replicas import OneReplica

from consensus import wire
from consensus.forwarding import ChangeQuestions, ReadQuestions
from consensus.reads import ReadGate

VOTERS = ["n2", "n3"]


class Reader:
    def __init__(self) -> None:
        self.answers: list[bool] = []

    def __call__(self, good: bool) -> None:
        self.answers.append(good)


@pytest.fixture
def gate() -> ReadGate:
    gate = ReadGate(promise_s=1.0, lease_share=1.0)
    gate.begin_term()
    for peer in VOTERS:
        gate.promised(peer, 1.0)
    return gate


def test_a_read_needs_a_round_that_began_after_it(gate: ReadGate) -> None:
    reader = Reader()
    early = gate.start_round(0.0)
    gate.ask(reader)
    gate.echo("n2", early)
    gate.settle(VOTERS, ready=True)
    assert reader.answers == []
    gate.echo("n2", gate.start_round(0.1))
    gate.settle(VOTERS, ready=True)
    assert reader.answers == [True]


def test_a_majority_must_echo(gate: ReadGate) -> None:
    reader = Reader()
    gate.ask(reader)
    late = gate.start_round(0.0)
    gate.echo("n2", late)
    gate.echo("zz", late)
    gate.settle(["n2", "n3", "n4", "n5"], ready=True)
    assert reader.answers == []
    gate.echo("n4", late)
    gate.settle(["n2", "n3", "n4", "n5"], ready=True)
    assert reader.answers == [True]


def test_a_leader_without_an_entry_of_its_term_answers_nothing(gate: ReadGate) -> None:
    reader = Reader()
    gate.ask(reader)
    gate.echo("n2", gate.start_round(0.0))
    gate.settle(VOTERS, ready=False)
    assert reader.answers == []


def test_all_waiting_reads_share_one_round(gate: ReadGate) -> None:
    readers = [Reader() for _ in range(50)]
    for reader in readers:
        gate.ask(reader)
    assert gate.round_wanted
    gate.start_round(0.0)
    gate.broadcast()
    assert not gate.round_wanted
    late = Reader()
    gate.ask(late)
    assert not gate.round_wanted, "one round at a time"
    gate.echo("n3", 1)
    gate.settle(VOTERS, ready=True)
    assert all(reader.answers == [True] for reader in readers)
    assert late.answers == []
    assert gate.round_wanted


def test_the_lease_counts_from_sending_not_from_the_answer(gate: ReadGate) -> None:
    gate.echo("n2", gate.start_round(10.0))
    gate.settle(VOTERS, ready=True)
    assert gate.has_lease(10.9)
    assert not gate.has_lease(11.0)


def test_a_lease_is_as_short_as_the_shortest_promise(gate: ReadGate) -> None:
    """Members may be configured differently for a while."""
    gate.promised("n3", 0.2)
    gate.echo("n2", gate.start_round(10.0))
    gate.settle(VOTERS, ready=True)
    assert gate.has_lease(10.19)
    assert not gate.has_lease(10.2)


def test_a_voter_whose_promise_is_not_known_gives_no_lease_but_answers_reads(gate: ReadGate) -> None:
    """Its process may be another than the one that told it."""
    reader = Reader()
    gate.promised("n2", None)
    gate.ask(reader)
    gate.echo("n2", gate.start_round(10.0))
    gate.settle(VOTERS, ready=True)
    assert reader.answers == [True]
    assert not gate.has_lease(10.1)
    gate.echo("n3", gate.start_round(10.2))
    gate.settle(VOTERS, ready=True)
    assert gate.has_lease(10.3)


def test_a_transfer_ends_the_lease_for_the_rest_of_the_term(gate: ReadGate) -> None:
    gate.echo("n2", gate.start_round(10.0))
    gate.settle(VOTERS, ready=True)
    gate.transfer_to("n3")
    gate.echo("n2", gate.start_round(10.1))
    gate.settle(VOTERS, ready=True)
    assert not gate.has_lease(10.2)
    gate.begin_term()
    gate.echo("n2", gate.start_round(10.3))
    gate.settle(VOTERS, ready=True)
    assert gate.has_lease(10.4)


def test_unless_whoever_was_told_to_campaign_answers_a_later_round(gate: ReadGate) -> None:
    """Then it has taken the order before that, and did not act on it; only rounds from then on count."""
    before = gate.start_round(10.0)
    gate.transfer_to("n3")
    gate.transfer_to("n2")
    during = gate.start_round(10.1)
    gate.echo("n3", before)
    gate.settle(VOTERS, ready=True)
    assert not gate.has_lease(10.2)
    gate.echo("n2", during)
    gate.echo("n3", during)
    gate.settle(VOTERS, ready=True)
    assert not gate.has_lease(10.2)
    gate.echo("n2", gate.start_round(10.3))
    gate.settle(VOTERS, ready=True)
    assert gate.has_lease(10.4)


def test_lost_leadership_sends_every_reader_elsewhere(gate: ReadGate) -> None:
    reader = Reader()
    gate.ask(reader)
    gate.end_term()
    assert reader.answers == [False]


def test_a_leader_that_hands_over_has_no_lease_although_acks_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    node = OneReplica(monkeypatch)
    node.lead()
    node.ack("n2", 1)
    assert node.replica.leased
    assert node.replica.handover.to("n2")
    assert node.last(wire.TimeoutNow).term == 1
    node.pass_time(0.11)
    node.ack("n2", 1)
    assert not node.replica.leased
    reader = Reader()
    node.replica.read(reader)
    node.tick()
    assert reader.answers == []
    node.ack("n3", 1)
    assert reader.answers == [True]


def test_a_new_leader_answers_reads_only_after_its_own_entry_is_applied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = OneReplica(monkeypatch)
    node.lead()
    reader = Reader()
    node.replica.read(reader)
    node.tick()
    for _ in range(3):
        node.ack("n2", 0)
    assert reader.answers == []
    assert not node.replica.leased
    node.ack("n2", 1)
    node.tick()
    assert reader.answers == [True]


class Asker:
    """A process that asks the leader, and what it has sent."""

    leader_elsewhere = "n1"
    term = 1

    def __init__(self) -> None:
        rng = random.SystemRandom()
        self.reads = ReadQuestions(self, clock=lambda: 0.0, patience_s=1.0, rng=rng)
        self.changes = ChangeQuestions(self, rng=rng)
        self.sent: list[wire.Frame] = []

    def send(self, peer: str, body: bytes) -> bool:
        self.sent.append(wire.decode(body))
        return True


async def test_an_answer_to_the_process_of_before_is_none_to_this_one() -> None:
    """A leader that was cut off answers when it is led again: by then the asker may be another process."""
    before, after = Asker(), Asker()
    for each in (before, after):
        read = each.reads.ask(confirm=False)
        change = asyncio.ensure_future(each.changes.ask_removal("n9"))
        await asyncio.sleep(0)
    asked, removal = before.sent
    assert isinstance(asked, wire.ReadIndex)
    assert isinstance(removal, wire.RemovalAsk)
    after.reads.answered(asked.number, 11)
    after.changes.answered(wire.ChangeReply(1, removal.number, wire.DONE, ""))
    await asyncio.sleep(0)
    assert not read.done()
    assert not change.done()
    own = next(frame for frame in after.sent if isinstance(frame, wire.ReadIndex))
    after.reads.answered(own.number, 12)
    assert await read == 12
    for each in (before, after):
        each.changes.news()
    assert await change is False


async def test_every_node_reads_what_any_node_acknowledged(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    await cluster.boot()
    await cluster.led()
    await cluster.grow("n2", "n3")
    for i in range(30):
        writer, reader = f"n{i % 3 + 1}", f"n{(i + 1) % 3 + 1}"
        index = await cluster.write(writer, f"k={i}")
        assert await cluster.groups[reader].read_index(PATIENCE_S) >= index
        assert cluster.machines[reader].values["k"] == str(i)
    await cluster.close()


async def test_who_reads_beside_a_node_is_told_before_anything_leaves_it(tmp_path: Path) -> None:
    """What leaves may be the acknowledgement of a write, a lease given back, or an order to campaign."""
    cluster = Cluster(tmp_path)
    group = await cluster.boot()
    await cluster.led()
    await cluster.write("n1", "k=1")
    events: list[object] = []
    group.watch(events.append)
    (until,) = events
    assert isinstance(until, float)
    assert until > 0
    monkey = pytest.MonkeyPatch()
    monkey.setattr(group._engine.net, "send", lambda peer, body: events.append(body) or True)
    assert group._engine.send("n2", b"a lease given back")
    monkey.undo()
    assert isinstance(events[-2], float)
    assert events[-1] == b"a lease given back"
    await cluster.close()
    assert events[-1] == 0.0, "a node that has stopped is not fresh"
