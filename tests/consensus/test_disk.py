"""Where an fsync runs, and what the loop makes of a disk that is late or full."""

from consensus.disk import INLINE_SYNC_S_MAX, SLOW_SYNCS, DiskHealth, Pace


def syncs(pace: Pace, count: int, *, takes: float, others_take: float = 0.0) -> list[bool]:
    """Which of so many syncs, one after the other, run on the loop. With `others_take`, one in five `takes`."""
    here = []
    for number in range(count):
        here.append(pace.quick)
        if pace.quick:
            pace.ran_here(others_take if others_take and number % 5 else takes)
        else:
            pace.ran_elsewhere()
    return here


def test_a_fast_disk_is_written_on_the_loop() -> None:
    assert all(syncs(Pace(), 100, takes=INLINE_SYNC_S_MAX / 2))


def test_a_disk_that_hangs_once_holds_the_loop_once_and_proves_itself_before_it_is_trusted_again() -> None:
    pace = Pace()
    assert syncs(pace, 1, takes=1.0) == [True]
    assert not any(syncs(pace, SLOW_SYNCS, takes=1.0))
    assert syncs(pace, 2, takes=1.0) == [True, False]
    assert not any(syncs(pace, SLOW_SYNCS - 1, takes=1.0))
    assert all(syncs(pace, 100, takes=INLINE_SYNC_S_MAX / 2))


def test_a_disk_that_is_a_little_too_slow_is_found_out() -> None:
    here = syncs(Pace(), 10 * SLOW_SYNCS, takes=INLINE_SYNC_S_MAX * 2)
    assert sum(here) < 20


def test_one_sync_that_was_late_for_another_reason_does_not_matter() -> None:
    pace = Pace()
    syncs(pace, 10, takes=INLINE_SYNC_S_MAX / 10)
    assert all(syncs(pace, 1, takes=INLINE_SYNC_S_MAX * 5) + syncs(pace, 100, takes=INLINE_SYNC_S_MAX / 10))


def test_a_busy_machine_is_not_taken_for_a_slow_disk() -> None:
    assert all(syncs(Pace(), 200, takes=INLINE_SYNC_S_MAX / 2, others_take=INLINE_SYNC_S_MAX * 3))


def test_a_disk_that_is_quick_only_now_and_then_is_found_out() -> None:
    here = syncs(Pace(), 10 * SLOW_SYNCS, takes=INLINE_SYNC_S_MAX / 2, others_take=0.02)
    assert sum(here) < 50


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
