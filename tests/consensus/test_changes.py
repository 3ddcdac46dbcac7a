"""What a leader checks before a membership change goes into its log, one defence at a time. Fed by hand, no clock."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from support.patience import PATIENCE_S
from support.replicas import OneReplica, entries

from consensus.api import Member
from consensus.changes import Changes
from consensus.errors import MembershipRefused
from consensus.options import RaftOptions
from consensus.waits import Waits

N4, N5 = Member("n4", "h4:1"), Member("n5", "h5:1")
OPTIONS = RaftOptions(heartbeat_s=60.0, election_min_s=500.0, election_max_s=1000.0, learner_lag_entries=100)
TURNS = 10


class Leader:
    """n1 of three has just been elected; its own entry, the first of the log, is committed by who acknowledges it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.node = OneReplica(monkeypatch, options=OPTIONS)
        self.term = self.node.lead()
        self.waits = Waits(lambda: self.node.core.applied_index)
        self.changes = Changes(self.node.replica, self.waits.until)
        self.tasks: list[asyncio.Task[None]] = []

    @property
    def appended(self) -> list[tuple[str, bool]]:
        """The changes in the log: whom, and whether it was added."""
        return [(change.member.id, change.adding) for change in self.node.log.changes]

    async def begin(self, change: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(change))
        await self.turn()
        return self.tasks[-1]

    async def add(self, member: Member, *, match: int) -> asyncio.Task[None]:
        """`member` learns, is connected, and holds the log up to `match`."""
        task = await self.begin(self.changes.add(member, lambda: True))
        self.node.replica.link(member.id, up=True)
        await self.acknowledge(member.id, match)
        return task

    async def acknowledge(self, peer: str, match: int) -> None:
        self.node.ack(peer, match)
        await self.turn()

    async def turn(self) -> None:
        """Everything that can go on goes on."""
        for _ in range(TURNS):
            self.node.tick()
            self.node.sync_disk()
            self.waits.settle()
            await asyncio.sleep(0)


@pytest.fixture
def leader(monkeypatch: pytest.MonkeyPatch) -> Leader:
    return Leader(monkeypatch)


@pytest.fixture(autouse=True)
async def ended(leader: Leader) -> Any:
    """What still waits at the end of a test waits no longer."""
    yield
    for task in leader.tasks:
        task.cancel()
    await asyncio.gather(*leader.tasks, return_exceptions=True)


async def test_nothing_changes_before_an_entry_of_the_leaders_term_is_committed(leader: Leader) -> None:
    await leader.add(N4, match=1)
    assert leader.appended == []
    await leader.acknowledge("n2", 1)
    assert leader.appended == [("n4", True)]


async def test_two_that_wait_for_the_same_moment_go_one_after_another(leader: Leader) -> None:
    for member in (N4, N5):
        await leader.add(member, match=1)
    await leader.acknowledge("n2", 1)
    assert leader.appended == [("n4", True)]
    for peer in ("n2", "n4"):
        await leader.acknowledge(peer, 2)
    await leader.acknowledge("n5", 2)
    assert leader.appended == [("n4", True), ("n5", True)]


async def test_a_change_that_nobody_waits_for_any_more_is_still_pending(leader: Leader) -> None:
    await leader.acknowledge("n2", 1)
    given_up = await leader.add(N4, match=1)
    given_up.cancel()
    await leader.add(N5, match=2)
    assert leader.appended == [("n4", True)]
    for peer in ("n2", "n4"):
        await leader.acknowledge(peer, 2)
    assert leader.appended == [("n4", True), ("n5", True)]


async def test_a_learner_that_is_far_behind_does_not_vote(leader: Leader) -> None:
    for _ in range(300):
        leader.node.replica.append(entries(1, 1, leader.term)[0][0])
    await leader.turn()
    await leader.acknowledge("n2", 301)
    await leader.add(N4, match=150)
    assert leader.appended == []
    await leader.acknowledge("n4", 250)
    assert leader.appended == [("n4", True)]


async def test_a_learner_whose_link_is_lost_does_not_vote(leader: Leader) -> None:
    await leader.acknowledge("n2", 1)
    await leader.begin(leader.changes.add(N4, lambda: True))
    await leader.acknowledge("n4", 1)
    assert leader.appended == []
    leader.node.replica.link("n4", up=True)
    await leader.turn()
    assert leader.appended == [("n4", True)]


async def test_a_new_leader_hears_from_all_before_it_calls_somebody_needed(leader: Leader) -> None:
    await leader.acknowledge("n2", 1)
    removal = await leader.begin(leader.changes.remove("n2"))
    assert not removal.done()
    await leader.acknowledge("n3", 1)
    assert leader.appended == [("n2", False)]


async def test_a_removal_that_a_later_leader_overwrote_is_not_called_done(leader: Leader) -> None:
    """This node leads again before whoever asked looks: the entry at that index is another one."""
    node = leader.node
    for peer in ("n2", "n3"):
        await leader.acknowledge(peer, 1)
    removal = await leader.begin(leader.changes.remove("n3"))
    assert leader.appended == [("n3", False)]
    node.append("n2", leader.term + 1, (1, leader.term), *entries(2, 3, leader.term + 1), commit=3)
    assert leader.appended == []
    node.lead()
    node.ack("n2", node.log.last_index)
    await leader.turn()
    with pytest.raises(MembershipRefused, match="leader changed"):
        await removal
    assert "n3" in node.replica.members


async def test_a_compacted_log_remembers_the_members_also_after_a_restart(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    await leader.acknowledge("n2", 1)
    await leader.add(N4, match=1)
    for peer in ("n2", "n4"):
        await leader.acknowledge(peer, 2)
    leader.node.log.compact(2)
    leader.node.journal.sync()
    assert set(leader.node.log.members()) == {"n1", "n2", "n3", "n4"}
    again = OneReplica(monkeypatch, disk=leader.node.journal.disk, applied=2, options=OPTIONS)
    assert set(again.replica.members) == {"n1", "n2", "n3", "n4"}


async def test_a_member_that_is_gone_by_the_time_everybody_was_heard_needs_no_removal(leader: Leader) -> None:
    """Another leader removed it meanwhile: the task ended the node with a KeyError."""
    task = await leader.begin(leader.changes.remove("n3"))
    assert not task.done(), "it waits for a sign of life of the others"
    replica = leader.node.replica
    replica.members = {name: member for name, member in replica.members.items() if name != "n3"}
    await leader.acknowledge("n2", 1)
    replica.link("n2", up=True)
    await leader.turn()
    await asyncio.wait_for(task, PATIENCE_S)
    assert leader.appended == []
