"""Whole groups: three nodes, real TLS, real journals. What a caller of api.Group would notice."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from support.groups import FAST, Cluster, request_id
from support.machines import DictMachine
from support.patience import PATIENCE_S, eventually

from consensus.api import COMMAND_BYTES_MAX, Role
from consensus.disk import SCARCE_BYTES
from consensus.errors import Corrupt, NoLeader, OutcomeUnknown, ReadNotConfirmed, Shutdown, TooLarge
from consensus.group import RaftGroup
from consensus.journal import SEGMENT_BYTES
from consensus.memory import SoloGroup
from consensus.spare import SPARE_NAME


async def test_a_write_through_any_node_is_applied_there_when_it_returns(three: Cluster) -> None:
    for node_id in three.groups:
        applied = await three.groups[node_id].propose(
            f"k={node_id}".encode(), request_id=request_id(), timeout=PATIENCE_S
        )
        assert three.machines[node_id].values["k"] == node_id
        assert three.machines[node_id].applied_index >= applied.index
    await three.converged()


async def test_the_same_request_id_applies_once_whoever_is_asked(three: Cluster) -> None:
    same = request_id()
    first = [
        three.groups[n].propose(b"k=1", request_id=same, timeout=PATIENCE_S) for n in ("n1", "n2", "n3", "n2")
    ]
    answers = await asyncio.gather(*first)
    assert len(set(answers)) == 1
    again = await three.groups["n3"].propose(b"k=other", request_id=same, timeout=PATIENCE_S)
    assert again == answers[0]
    await three.converged()
    assert len(three.machines["n1"].history) == 1


async def test_the_group_goes_on_without_its_leader_and_takes_it_back(three: Cluster) -> None:
    old = await three.led()
    await three.write(old, "a=1")
    await three.stop(old)
    new = await three.led()
    assert new != old
    await three.write(three.followers()[0], "b=2")
    await three.reopen(old)
    await three.write(old, "c=3")
    await three.converged()
    assert three.machines[old].values == {"a": "1", "b": "2", "c": "3"}


async def test_writes_under_way_survive_a_change_of_leader(three: Cluster) -> None:
    """Every proposal is pursued by its own node until it is applied, exactly once."""
    old = await three.led()
    keep = [node_id for node_id in three.groups if node_id != old]
    writes = [asyncio.create_task(three.write(keep[i % 2], f"k{i}={i}")) for i in range(60)]
    await asyncio.sleep(0)
    await three.stop(old)
    await asyncio.gather(*writes)
    await three.converged()
    texts = [text for _, text in three.machines[keep[0]].history]
    assert sorted(texts) == sorted(f"k{i}={i}" for i in range(60))


async def test_a_restarted_group_remembers_everything(three: Cluster) -> None:
    for i in range(20):
        await three.write("n2", f"k{i}={i}")
    ids = list(three.groups)
    for node_id in ids:
        await three.stop(node_id)
    for node_id in ids:
        await three.reopen(node_id)
    await three.led()
    await three.write("n3", "last=1")
    await three.converged()
    assert len(three.machines["n1"].history) == 21


async def test_step_down_hands_over_without_losing_or_failing_writes(three: Cluster) -> None:
    old = await three.led()
    writes = [
        asyncio.create_task(three.write(node_id, f"{node_id}={i}"))
        for i in range(20)
        for node_id in three.groups
    ]
    await three.groups[old].step_down(PATIENCE_S)
    assert three.groups[old].status().role is not Role.LEADER
    assert three.groups[old].status().leader_id not in (None, old)
    await asyncio.gather(*writes)
    await three.converged()
    assert len(three.machines[old].history) == 60


async def test_a_follower_far_behind_gets_a_snapshot(tmp_path: Path) -> None:
    options = replace(FAST, compact_entries=20, trailing_entries=5)
    cluster = Cluster(tmp_path, options)
    await cluster.boot()
    await cluster.led()
    await cluster.grow("n2", "n3")
    behind = cluster.followers()[0]
    await cluster.stop(behind)
    leader = await cluster.led()
    for i in range(80):
        await cluster.write(leader, f"k{i}={i}")
    await eventually(lambda: cluster.groups[leader].status().first_index > 40, "compaction")
    await cluster.reopen(behind)
    await cluster.write(behind, "after=1")
    await cluster.converged()
    assert cluster.groups[behind].counters().snapshots_installed == 1
    assert len(cluster.machines[behind].history) == 81
    await cluster.stop(behind)
    await cluster.reopen(behind)
    await cluster.write(behind, "again=1")
    await cluster.converged()
    await cluster.close()


async def test_the_next_file_of_the_journal_is_made_ready_where_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consensus.journal.SPARE_FROM", 0.0)
    monkeypatch.setattr("consensus.spare.PIECE_BYTES", SEGMENT_BYTES)
    cluster = Cluster(tmp_path)
    cluster.free_bytes = SCARCE_BYTES // 2
    group = await cluster.boot()
    await cluster.led()
    await asyncio.sleep(FAST.election_max_s)  # nothing happens, which has no event
    assert not list(tmp_path.rglob(SPARE_NAME.format("*")))  # noqa: ASYNC240
    cluster.free_bytes = 2 * SCARCE_BYTES
    await eventually(lambda: not group._engine._journal.spare_due, "a file for the next segment")
    spare = next(iter(tmp_path.rglob(SPARE_NAME.format("*"))))  # noqa: ASYNC240
    assert spare.stat().st_size == SEGMENT_BYTES
    await cluster.close()
    assert not spare.exists()


async def test_without_a_quorum_a_write_is_unknown_and_a_read_is_refused(three: Cluster) -> None:
    leader = await three.led()
    for node_id in three.followers():
        await three.stop(node_id)
    with pytest.raises(OutcomeUnknown):
        await three.write(leader, "a=1", timeout=0.2)
    await eventually(lambda: three.groups[leader].status().role is not Role.LEADER, "fallback")
    with pytest.raises(NoLeader):
        await three.write(leader, "b=1", timeout=0.2)
    with pytest.raises(ReadNotConfirmed):
        await three.groups[leader].read_index(0.2)


async def test_commands_at_the_limit_pass_and_beyond_it_are_refused(three: Cluster) -> None:
    size = COMMAND_BYTES_MAX - 2
    await three.groups["n2"].propose(b"k=" + b"v" * size, request_id=request_id(), timeout=PATIENCE_S)
    with pytest.raises(TooLarge):
        await three.groups["n2"].propose(
            b"k=" + b"v" * (size + 1), request_id=request_id(), timeout=PATIENCE_S
        )
    await three.converged()


async def test_a_state_that_lost_what_the_log_compacted_is_refused(tmp_path: Path) -> None:
    options = replace(FAST, compact_entries=10, trailing_entries=2)
    cluster = Cluster(tmp_path, options)
    await cluster.boot()
    await cluster.led()
    for i in range(40):
        await cluster.write("n1", f"k{i}={i}")
    await eventually(lambda: cluster.groups["n1"].status().first_index > 10, "compaction")
    await cluster.stop("n1")
    (tmp_path / "n1" / "state").unlink()
    with pytest.raises(Corrupt):
        RaftGroup.open(cluster.config("n1"), DictMachine(tmp_path / "n1" / "state"))


async def test_a_stopped_group_ends_what_waits(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    group = await cluster.boot()
    await cluster.led()
    waiting = asyncio.create_task(group.wait_applied(1000, PATIENCE_S))
    await asyncio.sleep(0)
    await cluster.stop("n1")
    with pytest.raises(ReadNotConfirmed):
        await waiting
    with pytest.raises(Shutdown):
        await group.propose(b"k=1", request_id=request_id(), timeout=1)


async def test_a_bug_in_apply_stops_the_node_and_is_not_tried_again(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    group = await cluster.boot()
    await cluster.led()
    tried: list[int] = []

    def buggy(index: int, request_id: bytes, command: bytes) -> None:
        tried.append(index)
        raise KeyError("a bug")

    cluster.machines["n1"].apply = buggy  # type: ignore[method-assign]
    with pytest.raises(OutcomeUnknown):
        await cluster.write("n1", "k=1", timeout=0.5)
    await eventually(lambda: cluster.fatal, "the end of the process")
    assert (len(tried), cluster.fatal[0]) == (1, f"applying entry {tried[0]} raised KeyError")
    assert "a bug" not in "".join(cluster.fatal)
    await group.stop()


async def test_a_disk_that_fails_stops_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(tmp_path)
    group = await cluster.boot()
    await cluster.led()
    with monkeypatch.context() as broken:

        def fail(fd: int) -> None:
            raise OSError("the disk is gone")

        broken.setattr("consensus.files.sync_data", fail)
        with pytest.raises(OutcomeUnknown):
            await cluster.write("n1", "k=1", timeout=0.5)
        await eventually(lambda: cluster.fatal, "the end of the process")
    assert cluster.machines["n1"].values == {}
    with pytest.raises(OSError):
        await group.stop()


async def test_the_solo_group_behaves_like_a_group_of_one(tmp_path: Path) -> None:
    group = SoloGroup(DictMachine(tmp_path / "state"), "dev")
    await group.start()
    same = request_id()
    first = await group.propose(b"k=1", request_id=same, timeout=1)
    assert await group.propose(b"k=2", request_id=same, timeout=1) == first
    assert await group.read_index(1) == first.index
    assert group.status().leader_id == "dev"
    await group.stop()
    with pytest.raises(Shutdown):
        await group.propose(b"k=3", request_id=request_id(), timeout=1)
