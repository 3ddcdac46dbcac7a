"""Where an fsync runs, told by the thread that it runs in."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from consensus.disk import INLINE_SYNC_S_MAX, SLOW_SYNCS, DiskHealth, DiskRunner


class Disk:
    """A clock that a sync moves by `takes` seconds, and where each sync ran."""

    def __init__(self) -> None:
        self.now = 0.0
        self.takes = 0.0
        self.inline: list[bool] = []
        self.runner = DiskRunner(asyncio.to_thread, lambda: self.now)

    def sync(self) -> None:
        self.inline.append(threading.current_thread() is threading.main_thread())
        self.now += self.takes

    async def syncs(self, count: int, *, takes: float) -> list[bool]:
        self.takes = takes
        self.inline.clear()
        for _ in range(count):
            await self.runner(self.sync)
        return self.inline


async def test_a_disk_proves_itself_in_the_thread_and_then_runs_on_the_loop() -> None:
    disk = Disk()
    assert not any(await disk.syncs(SLOW_SYNCS, takes=0.0001))
    assert all(await disk.syncs(10, takes=0.0001))


async def test_one_slow_sync_sends_the_next_ones_to_the_thread() -> None:
    disk = Disk()
    await disk.syncs(SLOW_SYNCS, takes=0.0001)
    assert await disk.syncs(1, takes=INLINE_SYNC_S_MAX * 2) == [True]
    assert not any(await disk.syncs(SLOW_SYNCS, takes=0.0001))
    assert await disk.syncs(1, takes=0.0001) == [True]


async def test_a_disk_that_stays_slow_never_runs_on_the_loop() -> None:
    disk = Disk()
    assert not any(await disk.syncs(SLOW_SYNCS * 3, takes=INLINE_SYNC_S_MAX * 2))


@pytest.mark.parametrize("takes", [0.0001, INLINE_SYNC_S_MAX * 2])
async def test_a_failing_disk_is_not_hidden(takes: float) -> None:
    disk = Disk()
    await disk.syncs(SLOW_SYNCS, takes=takes)
    fail: Callable[..., Any] = _fail
    with pytest.raises(OSError, match="no more"):
        await disk.runner(fail)


def _fail() -> None:
    raise OSError("no more")


def test_a_sync_that_takes_too_long_is_a_stall_while_it_lasts() -> None:
    now = 0.0
    health = DiskHealth(
        lambda: 1 << 40,
        lambda: 1 << 40,
        clock=lambda: now,
        stall_s=2.0,
        reserve_bytes=0,
        state_reserve_bytes=0,
    )
    assert not health.stalled
    health.begin()
    now = 2.0
    assert not health.stalled
    now = 2.1
    assert health.stalled
    health.end()
    assert not health.stalled
