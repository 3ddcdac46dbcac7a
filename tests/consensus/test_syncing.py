"""Where and when the journal is written: a real one, and a member that notes what it is told."""

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.journals import create, entry, reopen
from support.patience import eventually

from consensus import files
from consensus.disk import DiskHealth, Pace
from consensus.journal import Journal
from consensus.syncing import INLINE_BYTES_MAX, Syncing


class Site:
    """A member with a journal, whose disk has a thread of its own."""

    def __init__(self, directory: Path, *, segment_bytes: int) -> None:
        self.told: list[str] = []
        self.journal = create(directory, segment_bytes=segment_bytes)
        log = SimpleNamespace(trimmed=False)
        self.replica: Any = SimpleNamespace(
            log=log,
            taken=lambda: self.told.append("taken"),
            durable=lambda: self.told.append("durable"),
        )
        self.disk = DiskHealth(
            lambda: 1 << 40,
            lambda: 1 << 40,
            clock=lambda: 0.0,
            stall_s=2.0,
            reserve_bytes=0,
            state_reserve_bytes=0,
        )
        self.syncing = Syncing(
            self, self.journal, self.disk, run=self._run, pace=Pace(), observe=lambda _: None
        )
        self.let_go = asyncio.Event()
        self.let_go.set()

    async def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.told.append("thread")
        await self.let_go.wait()
        return await asyncio.to_thread(function, *arguments)

    def tick(self) -> None:
        self.told.append("tick")

    @property
    def durable(self) -> bool:
        return self.journal.durable_lsn == self.journal.lsn


@pytest.fixture
async def site(tmp_path: Path) -> Any:
    found = Site(tmp_path / "raft", segment_bytes=16 << 10)
    task = asyncio.create_task(found.syncing.work())
    yield found
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    found.journal.close()


def queue(journal: Journal, first: int, last: int, size: int = 100) -> None:
    for index in range(first, last + 1):
        journal.append(entry(index, size=size))


async def test_a_quick_disk_is_written_by_who_asks(site: Site) -> None:
    queue(site.journal, 1, 10)
    assert site.syncing.at_once()
    assert site.durable
    assert site.told == ["taken", "durable"]


async def test_what_may_take_long_is_left_to_the_thread(site: Site) -> None:
    queue(site.journal, 1, 2, size=INLINE_BYTES_MAX)
    assert not site.syncing.at_once(), "much"
    assert not site.told
    site.syncing.poke()
    await eventually(lambda: site.durable)
    queue(site.journal, 3, 3)
    site.replica.log.trimmed = True
    assert not site.syncing.at_once(), "files may be deleted"
    site.syncing.poke()
    await eventually(lambda: len(site.told) == 8)
    assert site.told == ["taken", "thread", "durable", "tick"] * 2


async def test_while_the_thread_writes_nobody_else_does(site: Site) -> None:
    """What it took says how much of the log is durable when it is done; another one would say so too early."""
    site.let_go.clear()
    queue(site.journal, 1, 1, size=2 * INLINE_BYTES_MAX)
    site.syncing.poke()
    await eventually(lambda: "thread" in site.told)
    queue(site.journal, 2, 2)
    assert not site.syncing.at_once()
    assert site.told == ["taken", "thread"]
    site.let_go.set()
    await eventually(lambda: site.durable)


async def test_without_room_it_is_written_later_and_in_order(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = files.preallocate

    def no_room(_fd: int, _size_bytes: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(files, "preallocate", no_room)
    index = 0
    while site.journal.durable_lsn == site.journal.lsn:  # until the segment is full
        index += 1
        queue(site.journal, index, index, size=1000)
        wrote = site.syncing.at_once()
    assert not wrote
    assert site.disk.full
    site.syncing.poke()
    await eventually(lambda: "thread" in site.told)
    monkeypatch.setattr(files, "preallocate", real)
    await eventually(lambda: site.durable)
    assert not site.disk.full
    directory = site.journal._directory
    site.journal.close()
    assert [found[1] for found in reopen(directory).entries] == list(range(1, index + 1))
