"""A member far behind gets a snapshot while everybody goes on working, and the log stays bounded meanwhile."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.groups import FAST, Cluster
from support.machines import DictMachine, Held
from support.patience import PATIENCE_S, eventually

from consensus import intake, wire
from consensus.intake import WINDOW_BYTES
from consensus.snapshot import Receiver

OPTIONS = replace(FAST, compact_entries=20, trailing_entries=5)
BIG = "x" * (512 << 10)


@pytest.fixture
async def behind(tmp_path: Path) -> AsyncIterator[tuple[Cluster, str]]:
    """Two members that work, a state of several windows, and a third member whose log ends long before theirs."""
    async with far_behind(tmp_path) as found:
        yield found


@asynccontextmanager
async def far_behind(tmp_path: Path) -> AsyncIterator[tuple[Cluster, str]]:
    cluster = Cluster(tmp_path, OPTIONS)
    await cluster.boot()
    await cluster.led()
    await cluster.grow("n2", "n3")
    late = cluster.followers()[0]
    await cluster.stop(late)
    leader = await cluster.led()
    for i in range(8):
        await cluster.write(leader, f"big{i}={BIG}")
    try:
        count = 0
        while cluster.groups[leader].status().first_index <= 30:
            await cluster.write(leader, f"k={count}")
            count += 1
            assert count < 1000, "the log is never compacted"
        yield cluster, late
    finally:
        await cluster.close()


def installed(cluster: Cluster, node_id: str) -> int:
    return cluster.groups[node_id].counters().snapshots_installed


async def test_taking_and_installing_hold_nobody_up(
    behind: tuple[Cluster, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both take far longer than an election timeout here, and writes go on all the time."""
    cluster, late = behind
    leader, loop = await cluster.led(), asyncio.get_running_loop()
    calls = [Held(monkeypatch, name) for name in ("snapshot", "stage")]
    await cluster.reopen(late)
    written = itertools.count()
    for each in calls:
        await eventually(lambda each=each: each.machines, "the next step")
        until = loop.time() + 3 * OPTIONS.election_max_s
        while loop.time() < until:
            await cluster.write(leader, f"during{next(written)}=1")
        each.let_go()
    await eventually(lambda: installed(cluster, late) >= 1, "installation")
    await cluster.converged()


async def test_a_transfer_goes_on_after_a_lost_link(
    behind: tuple[Cluster, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, late = behind
    starts: list[int] = []
    writes: list[int] = []
    begin, write = Receiver.begin, Receiver.write

    def noted_begin(self: Receiver, size_bytes: int, sha256: bytes) -> int:
        starts.append(begin(self, size_bytes, sha256))
        return starts[-1]

    def cutting_write(self: Receiver, offset: int, data: bytes) -> None:
        write(self, offset, data)
        writes.append(len(data))
        if len(writes) == 2:
            loop.call_soon_threadsafe(cut)

    def cut() -> None:
        for group in cluster.groups.values():
            for link in list(group._engine.net._open):  # type: ignore[attr-defined]
                link.abort()

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(Receiver, "begin", noted_begin)
    monkeypatch.setattr(Receiver, "write", cutting_write)
    await cluster.reopen(late)
    await cluster.write(late, "after=1")
    await cluster.converged()
    assert installed(cluster, late) == 1
    assert sum(writes) < sum(len(value) for value in cluster.machines[late].values.values()) * 3
    assert starts[0] == 0
    assert all(offset >= 2 * WINDOW_BYTES for offset in starts[1:]), "what had arrived is not sent again"


async def test_a_restarted_receiver_goes_on_where_it_was(
    behind: tuple[Cluster, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, late = behind
    starts: list[int] = []
    begin, write = Receiver.begin, Receiver.write
    half_way = asyncio.Event()
    loop = asyncio.get_running_loop()

    def noted_begin(self: Receiver, size_bytes: int, sha256: bytes) -> int:
        starts.append(begin(self, size_bytes, sha256))
        return starts[-1]

    def slow_write(self: Receiver, offset: int, data: bytes) -> None:
        write(self, offset, data)
        if offset:
            loop.call_soon_threadsafe(half_way.set)
            time.sleep(0.2)

    monkeypatch.setattr(Receiver, "begin", noted_begin)
    with monkeypatch.context() as slow:
        slow.setattr(Receiver, "write", slow_write)
        await cluster.reopen(late)
        await half_way.wait()
        await cluster.stop(late)
    await cluster.reopen(late)
    await cluster.write(late, "after=1")
    await cluster.converged()
    assert starts[0] == 0
    assert starts[1] >= 2 * WINDOW_BYTES


async def test_what_the_state_machine_cannot_hold_is_refused_and_asked_for_again(
    behind: tuple[Cluster, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that arrived as it was sent and is no state: this member goes on with its own."""
    cluster, late = behind
    stage = DictMachine.stage
    refusals: list[Path] = []

    def picky(self: DictMachine, path: Path) -> None:
        if not refusals:
            refusals.append(path)
            raise KeyError("no state of mine")
        stage(self, path)

    monkeypatch.setattr(DictMachine, "stage", picky)
    monkeypatch.setattr(intake, "REFUSED_PAUSE_S", 0.5)
    await cluster.reopen(late)
    await eventually(lambda: refusals, "a refusal")
    assert cluster.groups[late].counters().snapshots_installed == 0
    assert not cluster.fatal
    await cluster.write(late, "after=1")
    await cluster.converged()
    assert cluster.groups[late].counters().snapshots_refused == 1


async def test_a_full_disk_while_receiving_stops_nobody(
    behind: tuple[Cluster, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, late = behind
    monkeypatch.setattr(intake, "REFUSED_PAUSE_S", 0.5)
    with monkeypatch.context() as full:

        def no_space(self: Receiver, offset: int, data: bytes) -> None:
            raise OSError(28, "No space left on device")

        full.setattr(Receiver, "write", no_space)
        await cluster.reopen(late)
        await eventually(lambda: cluster.groups[late].counters().snapshots_refused, "a refusal")
    assert not cluster.fatal
    await cluster.write(late, "after=1")
    await cluster.converged()


async def test_the_sender_holds_one_window_however_slow_the_receiver_is(
    behind: tuple[Cluster, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, late = behind
    leader = cluster.leader()
    open_bytes = most = 0
    send = leader._engine.net.send
    write = Receiver.write

    def counted(peer: str, body: bytes) -> bool:
        nonlocal open_bytes, most
        frame = wire.decode(body)
        if isinstance(frame, wire.FilePiece):
            open_bytes += len(frame.data)
            most = max(most, open_bytes)
        return send(peer, body)

    def slow(self: Receiver, offset: int, data: bytes) -> None:
        nonlocal open_bytes
        time.sleep(0.1)
        write(self, offset, data)
        open_bytes -= len(data)

    monkeypatch.setattr(leader._engine.net, "send", counted)
    monkeypatch.setattr(Receiver, "write", slow)
    await cluster.reopen(late)
    await eventually(lambda: installed(cluster, late) == 1, "installation")
    assert 0 < most <= WINDOW_BYTES


# ---- the log is bounded ----


def log_of(cluster: Cluster, node_id: str) -> tuple[int, int]:
    log = cluster.groups[node_id]._engine.replica.log
    return len(log), log.bytes


async def test_large_entries_are_compacted_by_their_bytes(tmp_path: Path) -> None:
    """Far fewer entries than the tail that is kept of small ones, and yet the log does not grow on."""
    options = replace(FAST, compact_bytes=4 << 20, trailing_bytes=1 << 20)
    cluster = Cluster(tmp_path, options)
    await cluster.boot()
    await cluster.led()
    for i in range(40):
        await cluster.write("n1", f"k{i % 2}={BIG}")
    await eventually(lambda: log_of(cluster, "n1")[1] <= 4 << 20, "compaction")
    segments = list((tmp_path / "n1" / "log").glob("*.wal"))
    assert sum(path.stat().st_size for path in segments) <= 3 * (16 << 20)
    await cluster.close()


async def test_a_member_that_never_finishes_its_snapshot_does_not_hold_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("support.groups.FAST", OPTIONS)
    async with far_behind(tmp_path) as (cluster, late):
        leader = await cluster.led()
        options = cluster.groups[leader]._engine.options
        limit = options.compact_entries + options.trailing_entries + 100
        object.__setattr__(options, "held_entries_max", limit)
        with monkeypatch.context() as stuck:
            stuck.setattr(Receiver, "write", lambda self, offset, data: time.sleep(1.0))
            await cluster.reopen(late)
            replicator = cluster.groups[leader]._engine.replica.replicator
            await eventually(lambda: replicator.snapshot_floor is not None, "a transfer under way")
            for i in range(2 * limit):
                await cluster.write(leader, f"more{i}=1")
            await eventually(lambda: log_of(cluster, leader)[0] <= limit, "compaction")
            await cluster.stop(late)
        await cluster.reopen(late)
        await cluster.write(late, "after=1", timeout=2 * PATIENCE_S)
        await cluster.converged()
