"""Three nodes are upgraded one after another at work: the release after this one is this one, told to know more."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest
from support.groups import FAST
from support.patience import PATIENCE_S, eventually
from support.ports import free_ports

from consensus.api import Member, Role
from consensus.group import GroupConfig, Parts, RaftGroup
from node.errors import NodeError, NotEnabled
from node.store import CommandRejected, Store
from storage import command as c
from storage.errors import Incompatible
from storage.keyring import JournalCipher, Keyring, RootKey
from storage.machine import Machine
from storage.outcome import Reason, Rejected

KEY = b"k" * 32
OLD, NEW = c.LEVEL, c.LEVEL + 1


@dataclass
class Nodes:
    """Real groups over real machines, each of its own release."""

    directory: Path
    stores: dict[str, Store] = field(default_factory=dict)
    machines: dict[str, Machine] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    fatal: list[str] = field(default_factory=list)

    def member(self, node_id: str) -> Member:
        return Member(node_id, f"127.0.0.1:{self.ports.setdefault(node_id, free_ports(1)[0])}")

    def _die(self, reason: str) -> NoReturn:
        self.fatal.append(reason)
        raise AssertionError(reason)

    async def start(self, node_id: str, level: int) -> Store:
        home = self.directory / node_id
        new = not home.exists()
        home.mkdir(exist_ok=True)
        machine = Machine.open(home / "state.db", key=KEY, known_level=level)
        member = self.member(node_id)
        config = GroupConfig(
            node_id=node_id, cluster_id="c", owner=f"c/{node_id}/1", directory=home / "raft",
            listen=("127.0.0.1", self.ports[node_id]), server_tls=None, client_tls=None, insecure=True,
            cipher=JournalCipher(KEY), options=FAST,
        )  # fmt: skip
        parts = Parts(fatal=self._die)
        if not new:
            group = RaftGroup.open(config, machine, parts=parts)
        elif not self.stores:
            group = RaftGroup.create(config, machine, address=member.address, parts=parts)
        else:
            members = tuple(self.member(other) for other in self.stores)
            group = RaftGroup.join(config, machine, members=members, parts=parts)
        await group.start()
        root = RootKey(KEY)
        self.machines[node_id] = machine
        store = self.stores[node_id] = Store(
            machine=machine, group=group, keyring=Keyring(root, "c"), root=root
        )
        return store

    async def stop(self, node_id: str) -> None:
        await self.stores.pop(node_id).group.stop()
        self.machines.pop(node_id).close()

    async def announce(self, node_id: str) -> None:
        store = self.stores[node_id]
        record = c.NodePut(
            store.now_ns(), node_id, "eu", f"https://{node_id}", self.member(node_id).address, "",
            f"{store.known_level}.0", store.known_level,
        )  # fmt: skip
        await store.submit(record)

    async def upgrade(self, node_id: str) -> None:
        """What an operator does: stop, replace the software, start."""
        await self.stop(node_id)
        await self.start(node_id, NEW)
        await self.announce(node_id)

    async def alike(self) -> None:
        machines = list(self.machines.values())
        await eventually(lambda: len({m.applied_index for m in machines}) == 1, "the same log everywhere")
        assert len({machine.state_digest() for machine in machines}) == 1
        assert not self.fatal


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Nodes]:
    nodes = Nodes(tmp_path)
    first = await nodes.start("n1", OLD)
    await first.submit(c.ClusterInit(first.now_ns(), "c", "c"))
    for node_id in ("n2", "n3"):
        await nodes.start(node_id, OLD)
        await first.group.add_member(nodes.member(node_id), PATIENCE_S)
    for node_id in nodes.stores:
        await nodes.announce(node_id)
    yield nodes
    for node_id in list(nodes.stores):
        await nodes.stop(node_id)


async def lead(nodes: Nodes, node_id: str) -> None:
    """Have the leader hand over to this node: of two that hold as much, an operator cannot choose."""
    others = [other for other in nodes.stores if other != node_id]
    async with asyncio.timeout(2 * PATIENCE_S):
        while nodes.stores[node_id].status().role is not Role.LEADER:
            for store in nodes.stores.values():
                group: RaftGroup = store.group  # type: ignore[assignment]
                handover = group._engine.replica.handover
                if store.status().role is Role.LEADER:
                    handover.transferring = True
                    await group._hand_over_once(others)
                    handover.transferring = False
                    group._engine.proposals.try_again()
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def at_work(nodes: Nodes) -> AsyncIterator[list[str]]:
    """Somebody writes at every node that runs; the list grows by what was acknowledged."""
    written: list[str] = []
    over = asyncio.Event()

    async def work(node_id: str) -> None:
        number = 0
        while not over.is_set():
            number += 1
            with contextlib.suppress(
                KeyError, NodeError
            ):  # it is being replaced, or what came of it is not known
                await write(nodes, node_id, f"{node_id}-at-work-{number}")
                written.append(f"{node_id}-at-work-{number}")
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as tasks:
        for node_id in list(nodes.stores):
            tasks.create_task(work(node_id))
        yield written
        for node_id in nodes.stores:
            before = sum(name.startswith(f"{node_id}-at-work") for name in written)
            await eventually(
                lambda node_id=node_id, before=before: (
                    sum(name.startswith(f"{node_id}-at-work") for name in written) > before
                ),
                f"{node_id} takes writes after all",
            )
        over.set()


async def write(nodes: Nodes, node_id: str, name: str) -> None:
    store = nodes.stores[node_id]
    await store.submit(c.PolicyPut(store.now_ns(), name, f"# {os.urandom(4).hex()}"))


@pytest.mark.parametrize("order", ["followers first", "leader first"])
async def test_nodes_are_upgraded_one_after_another_at_work_and_new_things_come_last(
    three: Nodes, order: str
) -> None:
    """Leaders of either release have followers of both; nobody's acknowledged write is lost, whoever took it."""
    node_ids = ("n3", "n2", "n1") if order == "followers first" else ("n1", "n2", "n3")
    async with at_work(three) as written:
        for node_id in node_ids[:2]:
            await three.upgrade(node_id)
            for leader in three.stores:
                await lead(three, leader)
                for writer in three.stores:
                    await write(three, writer, f"{writer}-{node_id}-{leader}")
                    written.append(f"{writer}-{node_id}-{leader}")
            store = three.stores[node_id]
            with pytest.raises(CommandRejected, match=Reason.LEVEL_UNKNOWN):
                await store.submit(c.LevelRaise(store.now_ns(), NEW))
            with pytest.raises(NotEnabled):
                await store.submit(c.LevelProbe(store.now_ns()))
        await three.upgrade(node_ids[2])
        raiser = three.stores[node_ids[1]]
        await raiser.submit(c.LevelRaise(raiser.now_ns(), NEW))
        for store in three.stores.values():
            await store.fresh()
            await store.submit(c.LevelProbe(store.now_ns()))
    await three.alike()
    assert {machine.level for machine in three.machines.values()} == {NEW}
    assert set(written) <= set(three.machines["n1"].reads.policies())


@pytest.mark.parametrize("leader", ["old", "new"])
async def test_a_node_that_fell_behind_gets_the_state_from_one_of_another_release(
    three: Nodes, leader: str
) -> None:
    """As a snapshot, in either direction: what it lacks is not in anybody's log any more."""
    newer, away = ("n3", "n2") if leader == "new" else ("n3", "n3")
    await three.upgrade(newer)
    await three.stop(away)
    await lead(three, "n3" if leader == "new" else "n1")
    for node_id in three.stores:
        await write(three, node_id, f"{node_id}-missed")
    await three.alike()
    for store in three.stores.values():
        engine = store.group._engine  # type: ignore[attr-defined]
        engine.upkeep.compact_up_to(engine.replica.core.applied_index)
        await eventually(lambda log=engine.replica.log: log.base.index > 1, "a log without what was missed")
    store = await three.start(away, OLD if leader == "new" else NEW)
    await write(three, away, "back")
    await three.alike()
    assert store.group.counters().snapshots_installed == 1
    assert {f"{node_id}-missed" for node_id in three.stores if node_id != away} | {"back"} <= set(
        three.machines[away].reads.policies()
    )


async def test_what_is_proposed_too_early_all_the_same_does_no_harm(three: Nodes) -> None:
    """A proposer with a bug: old and new nodes make the same nothing of it."""
    await three.upgrade("n2")
    store = three.stores["n2"]
    applied = await store.group.propose(
        c.encode(c.LevelProbe(store.now_ns())), request_id=os.urandom(16), timeout=PATIENCE_S
    )
    assert applied.result == Rejected(Reason.MALFORMED)
    await three.alike()


async def test_there_is_no_way_back_once_the_level_is_raised(three: Nodes) -> None:
    for node_id in ("n1", "n2", "n3"):
        await three.upgrade(node_id)
    store = three.stores["n1"]
    await store.submit(c.LevelRaise(store.now_ns(), NEW))
    await three.alike()
    await three.stop("n3")
    with pytest.raises(Incompatible, match="run a newer one"):
        await three.start("n3", OLD)
    await write(three, "n1", "goes on")
    await three.start("n3", NEW)
    await three.alike()


async def test_a_node_may_go_back_as_long_as_the_level_is_the_old_one(three: Nodes) -> None:
    await three.upgrade("n3")
    await three.stop("n3")
    await three.start("n3", OLD)
    await three.announce("n3")
    await write(three, "n3", "back")
    await three.alike()
