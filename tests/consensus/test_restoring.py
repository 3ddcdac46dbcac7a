"""One file becomes the state of every member, at one place of the log, whoever is asked and whoever dies."""

import asyncio
import json
import os
import threading
import time
from pathlib import Path

import pytest
from support.groups import Cluster
from support.machines import PIN, PINNED, DictMachine, Held
from support.patience import PATIENCE_S, eventually
from support.replicas import OneReplica, entries

from consensus import membership, wire
from consensus.errors import OutcomeUnknown, RestoreRefused
from consensus.intake import WINDOW_BYTES
from consensus.membership import RESTORE
from consensus.restoring import Order, _Spread
from consensus.upkeep import KEPT_S, Upkeep

OLD = {"old": "x" * (WINDOW_BYTES + 1000)}


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """Another state, from long ago."""
    path = tmp_path / "backup"
    path.write_text(json.dumps({"index": 3, "history": [(3, "old=")], "outcomes": {}, "values": OLD}))
    return path


async def test_every_member_holds_the_restored_state_and_goes_on_from_it(
    three: Cluster, backup: Path
) -> None:
    for asked in ("n1", "n2", "n3"):
        await three.write("n2", f"{asked}=1")
        await three.groups[asked].restore(backup, PATIENCE_S)
        assert three.machines[asked].values == OLD
        await three.write("n3", "after=1")
        await three.converged()
        assert all(set(machine.values) == {"old", "after"} for machine in three.machines.values())
    for node_id in list(three.groups):
        await three.stop(node_id)
    for node_id in ("n1", "n2", "n3"):
        await three.reopen(node_id)
    await three.write("n1", "again=1")
    await three.converged()
    assert set(three.machines["n2"].values) == {"old", "after", "again"}
    held = list(three.directory.rglob("held-*"))
    assert held == [], "what was restored is not kept"


async def test_writes_under_way_are_before_or_after_and_nobody_disagrees(
    three: Cluster, backup: Path
) -> None:
    writes = [asyncio.create_task(three.write(f"n{1 + i % 3}", f"k{i}={i}")) for i in range(90)]
    await asyncio.sleep(0)
    await three.groups["n2"].restore(backup, PATIENCE_S)
    more = [asyncio.create_task(three.write(f"n{1 + i % 3}", f"m{i}={i}")) for i in range(30)]
    await asyncio.gather(*writes, *more)
    await three.converged()
    assert {f"m{i}" for i in range(30)} <= set(three.machines["n1"].values)
    assert three.machines["n1"].values == three.machines["n3"].values
    assert not three.fatal


async def test_a_member_that_was_away_gets_the_restored_state(three: Cluster, backup: Path) -> None:
    away = three.followers()[0]
    await three.stop(away)
    there = next(iter(three.groups))
    await three.write(there, "lost=1")
    await three.groups[there].restore(backup, PATIENCE_S)
    await three.reopen(away)
    await three.write(away, "after=1")
    await three.converged()
    assert set(three.machines[away].values) == {"old", "after"}


async def test_a_member_that_cannot_take_the_file_does_not_stop_the_others(
    three: Cluster, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consensus.restoring.STRAGGLERS_S", 0.3)
    poor = three.followers()[0]
    with monkeypatch.context() as full:
        full.setattr(three.groups[poor]._engine.restoring, "on_offer", lambda peer, frame: None)
        await three.groups[await three.led()].restore(backup, PATIENCE_S)
        await three.write(await three.led(), "after=1")
    await three.write(poor, "later=1")
    await three.converged()
    assert set(three.machines[poor].values) == {"old", "after", "later"}
    assert three.groups[poor].counters().snapshots_installed == 1


async def test_without_a_majority_nothing_is_restored(three: Cluster, backup: Path) -> None:
    leader = await three.led()
    for node_id in three.followers():
        await three.stop(node_id)
    with pytest.raises(RestoreRefused):
        await three.groups[leader].restore(backup, 1.0)
    assert three.machines[leader].values == {}
    for node_id in ("n1", "n2", "n3"):
        if node_id not in three.groups:
            await three.reopen(node_id)
    await three.write("n1", "after=1")
    await three.converged()
    assert three.machines["n1"].values == {"after": "1"}


async def test_the_leader_dies_while_the_group_restores(
    three: Cluster, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked at a follower; the entry is in logs, and the state not yet laid ready, when the leader goes."""
    stage = DictMachine.stage_reset
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slowly(self: DictMachine, path: Path, index: int, request_id: bytes) -> bool:
        loop.call_soon_threadsafe(started.set)
        time.sleep(0.5)
        return stage(self, path, index, request_id)

    monkeypatch.setattr(DictMachine, "stage_reset", slowly)
    leader = await three.led()
    asked = three.followers()[0]
    restoring = asyncio.create_task(three.groups[asked].restore(backup, PATIENCE_S))
    await started.wait()
    await three.stop(leader)
    await restoring
    await three.write(asked, "after=1")
    await three.reopen(leader)
    await three.write(leader, "later=1")
    await three.converged()
    assert set(three.machines[leader].values) == {"old", "after", "later"}


async def test_heartbeats_go_on_while_the_state_is_laid_ready(
    three: Cluster, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By all members at once, for longer than it takes to elect another leader."""
    loop, calls = asyncio.get_running_loop(), Held(monkeypatch, "stage_reset")

    def answered_since(moment: float) -> bool:
        """The leader has heard from everybody."""
        ages = [peer.last_contact_s for each in three.leaders() for peer in three.groups[each].status().peers]
        return bool(ages) and all(age is not None and loop.time() - age > moment for age in ages)

    restoring = asyncio.create_task(three.groups["n1"].restore(backup, PATIENCE_S))
    await eventually(lambda: len(calls.machines) == len(three.groups), "all of them lay it ready")
    until = loop.time() + 4 * three.options.election_max_s
    while (now := loop.time()) < until:
        await eventually(lambda now=now: answered_since(now), "the next heartbeat")
    calls.let_go()
    await restoring
    await three.converged()


async def test_a_restore_that_is_asked_for_twice_happens_once(
    three: Cluster, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same order in the log twice, as after a leader whose answer was lost: the second changes nothing."""
    leader = three.groups[await three.led()]
    engine = leader._engine
    size_bytes, sha256 = engine.restoring._snapshots.hold_copy(backup)
    for group in three.groups.values():
        group._engine.restoring._snapshots.hold_copy(backup)
    order = Order(b"r" * 16, sha256, size_bytes)
    engine.replica.append(order.payload())
    await eventually(lambda: all(m.values == OLD for m in three.machines.values()), "the restored state")
    await three.write("n1", "after=1")
    for group in three.groups.values():
        group._engine.restoring._snapshots.hold_copy(backup)
    engine.replica.append(order.payload())
    await three.write("n2", "later=1")
    await three.converged()
    assert set(three.machines["n3"].values) == {"old", "after", "later"}
    assert not three.fatal


async def test_a_state_that_is_not_to_be_replaced_by_then_stays_on_every_member(
    three: Cluster, backup: Path
) -> None:
    """It became so while the file was on its way: who asks is told, and who was away learns of it without the file."""
    away = three.followers()[0]
    await three.stop(away)
    asked = three.followers()[0]
    await three.write(asked, f"{PIN}=1{PINNED}")
    with pytest.raises(RestoreRefused, match="meanwhile"):
        await three.groups[asked].restore(backup, PATIENCE_S)
    await three.write(asked, "after=1")
    await three.reopen(away)
    await three.converged()
    assert all(set(machine.values) == {PIN, "after"} for machine in three.machines.values())
    await three.write(away, f"{PIN}=no")
    await three.groups[asked].restore(backup, PATIENCE_S)
    await three.converged()
    assert all(machine.values == OLD for machine in three.machines.values())


async def test_a_restore_that_was_declined_is_declined_again_after_a_power_cut(
    three: Cluster, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it was durable but the log: whoever comes to the entry again needs the file again."""
    await three.write("n1", f"{PIN}=1{PINNED}")
    with monkeypatch.context() as crashed:
        crashed.setattr(Upkeep, "compact_up_to", lambda upkeep, index: None)
        with pytest.raises(RestoreRefused):
            await three.groups["n1"].restore(backup, PATIENCE_S)
        await three.converged()
        for node_id in list(three.groups):
            await three.stop(node_id)
    for node_id in ("n1", "n2", "n3"):
        (three.directory / node_id / "state").unlink(missing_ok=True)
        await three.reopen(node_id)
    await three.write("n2", "after=1")
    await three.converged()
    assert all(set(machine.values) == {PIN, "after"} for machine in three.machines.values())


async def test_two_restores_at_once_are_refused(three: Cluster, backup: Path) -> None:
    first = asyncio.create_task(three.groups["n1"].restore(backup, PATIENCE_S))
    await asyncio.sleep(0)
    with pytest.raises(RestoreRefused):
        await three.groups["n1"].restore(backup, PATIENCE_S)
    await first


async def test_members_that_are_asked_at_once_do_not_take_each_others_files_away(
    three: Cluster, backup: Path, tmp_path: Path
) -> None:
    """Each restores, or is refused; whichever comes first, the group goes on."""
    paths = [backup, tmp_path / "b", tmp_path / "c"]
    for path in paths[1:]:
        path.write_text(backup.read_text().replace("old", path.name))  # noqa: ASYNC240 - a few bytes
    asked = zip(("n1", "n2", "n3"), paths, strict=True)
    restoring = (three.groups[node_id].restore(path, PATIENCE_S) for node_id, path in asked)
    outcomes = await asyncio.gather(*restoring, return_exceptions=True)
    assert {type(each) for each in outcomes} <= {type(None), RestoreRefused}, outcomes
    assert None in outcomes
    await three.write("n3", "after=1")
    await three.converged()
    assert not three.fatal


async def test_a_deadline_after_the_entry_may_be_in_a_log_is_unknown(
    three: Cluster, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, over = DictMachine.stage_reset, threading.Event()

    def slowly(self: DictMachine, path: Path, index: int, request_id: bytes) -> bool:
        over.wait(PATIENCE_S)
        return stage(self, path, index, request_id)

    monkeypatch.setattr(DictMachine, "stage_reset", slowly)
    with pytest.raises(OutcomeUnknown):
        await three.groups["n1"].restore(backup, 3.0)
    over.set()
    await eventually(lambda: all(m.values == OLD for m in three.machines.values()), "the restored state")


async def test_whoever_is_needed_for_a_majority_gets_the_file_from_the_leader(
    three: Cluster, backup: Path
) -> None:
    """Those who held it are gone: only the leader is left of them."""
    leader = await three.led()
    gone, poor = three.followers()
    await three.stop(gone)
    engine = three.groups[leader]._engine
    size_bytes, sha256 = engine.restoring._snapshots.hold_copy(backup)
    assert engine.restoring.append(Order(b"r" * 16, sha256, size_bytes)) == ""
    await eventually(lambda: three.machines[poor].values == OLD, "the state of the file")
    await three.write(poor, "after=1")


async def test_a_leader_that_restarts_has_a_snapshot_for_whoever_stays_before_the_entry(
    three: Cluster, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry is still in its log, and the file is not there any more."""
    away = three.followers()[0]
    await three.stop(away)
    with monkeypatch.context() as crashed:
        crashed.setattr(Upkeep, "compact_up_to", lambda upkeep, index: None)
        await three.groups[next(iter(three.groups))].restore(backup, PATIENCE_S)
        await three.converged()
    for node_id in list(three.groups):
        await three.stop(node_id)
    for node_id in ("n1", "n2", "n3"):
        await three.reopen(node_id)
    await eventually(lambda: three.machines[away].values == OLD, "the restored state")
    await three.write(away, "after=1")
    await three.converged()


async def test_a_member_that_holds_a_file_does_so_after_a_restart(three: Cluster, backup: Path) -> None:
    """It said so to whoever asked for the restore, and the entry may be on its way."""
    leader = await three.led()
    follower = three.followers()[0]
    size_bytes, sha256 = three.groups[leader]._engine.restoring._snapshots.hold_copy(backup)
    for node_id in three.followers():
        three.groups[node_id]._engine.restoring._snapshots.hold_copy(backup)
    await three.stop(follower)
    await three.reopen(follower)
    assert three.groups[follower]._engine.restoring._snapshots.held(sha256)
    assert three.groups[leader]._engine.restoring.append(Order(b"r" * 16, sha256, size_bytes)) == ""
    await eventually(lambda: all(m.values == OLD for m in three.machines.values()), "the restored state")


async def test_a_file_that_is_offered_again_is_not_tidied_away_as_an_old_one(
    three: Cluster, backup: Path
) -> None:
    """Of an attempt that failed an hour ago, say: its holders have just said that they hold it."""
    leader, (follower, _) = await three.led(), three.followers()
    snapshots = three.groups[follower]._engine.restoring._snapshots
    size_bytes, sha256 = snapshots.hold_copy(backup)
    os.utime(snapshots.held_path(sha256), (0, 0))
    offered = three.groups[leader]._engine.restoring
    offered._spread = _Spread(Order(b"r" * 16, sha256, size_bytes), set())
    offered._offer(follower, offered._spread.order)
    await eventually(lambda: offered._spread.held_by == {follower}, "its word")
    snapshots.tidy(sending=False, held=(), age_s=KEPT_S)
    assert snapshots.held(sha256)


async def test_a_log_is_compacted_although_a_change_of_members_waits(
    three: Cluster, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change may wait for the very member that only a snapshot brings on."""
    away, stays = three.followers()
    leader = await three.led()
    await three.stop(away)
    with monkeypatch.context() as crashed:
        crashed.setattr(Upkeep, "compact_up_to", lambda upkeep, index: None)
        await three.groups[leader].restore(backup, PATIENCE_S)
    engine = three.groups[leader]._engine
    await three.stop(stays)
    engine.replica.append(membership.payload_of(three.member(stays), adding=False))
    engine.upkeep.compact_up_to(engine.restoring.last_applied())
    await three.reopen(away)
    await eventually(lambda: three.machines[away].values == OLD, "the restored state")
    await three.write(away, "after=1")


# ---- one member ----


def order(index: int, term: int) -> tuple[bytes, int, int]:
    return (Order(b"r" * 16, bytes(32), 5).payload(), index, term)


def test_a_follower_takes_no_entry_whose_file_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    node = OneReplica(monkeypatch)
    log = [*entries(1, 3, 1), order(4, 1), *entries(5, 6, 1)]
    node.append("n2", 1, (0, 0), *log, commit=6)
    assert (node.log.last_index, node.last(wire.Ack).match) == (3, 3)
    node.files.add(log[3][0])
    node.append("n2", 1, (3, 1), *log[3:], commit=6)
    assert (node.log.last_index, node.last(wire.Ack).match) == (6, 6)


def test_nothing_is_applied_beyond_a_state_that_is_not_laid_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    node = OneReplica(monkeypatch)
    log = [*entries(1, 3, 1), order(4, 1), *entries(5, 6, 1)]
    node.files.add(log[3][0])
    node.append("n2", 1, (0, 0), *log, commit=6)
    assert [entry[1] for entry in node.applied] == [1, 2, 3]
    kicked = node.kicked
    node.tick()
    assert node.kicked == kicked, "it waits for news instead of asking again and again"
    node.laid_ready = True
    node.tick()
    assert [entry[1] for entry in node.applied] == [1, 2, 3, 4, 5, 6]


def test_an_order_survives_its_codec() -> None:
    made = Order(b"r" * 16, bytes(range(32)), 12345)
    payload = made.payload()
    assert payload[0] == RESTORE
    assert Order.of((payload, 7, 1)) == made
