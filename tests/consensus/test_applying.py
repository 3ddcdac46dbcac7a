"""When what was applied is written: a real state machine that notes its commits."""

import os
from pathlib import Path

import pytest
from support.machines import DictMachine

from consensus.api import REQUEST_ID_BYTES
from consensus.applying import SCARCE_ENTRIES_MAX, Applying
from consensus.disk import SCARCE_BYTES, DiskHealth
from consensus.membership import REGULAR
from consensus.options import RaftOptions


class Noting(DictMachine):
    """Knows up to which entry it was asked to write."""

    written = 0

    def commit_soon(self) -> bool:
        self.written = self.applied_index
        return True


def _fatal(reason: str) -> None:
    raise AssertionError(reason)


@pytest.mark.parametrize(("free_bytes", "written"), [(2 * SCARCE_BYTES, 0), (SCARCE_BYTES // 2, 2000)])
async def test_little_is_written_at_a_time_where_room_is_scarce(
    tmp_path: Path, free_bytes: int, written: int
) -> None:
    """SQLite that finds no room for what it has to write loses it, and the node must start again, with more room."""
    disk = DiskHealth(
        lambda: free_bytes,
        lambda: 1 << 40,
        clock=lambda: 0.0,
        stall_s=2.0,
        reserve_bytes=0,
        state_reserve_bytes=0,
    )
    disk.look()
    machine = Noting(tmp_path / "state")
    applying = Applying(machine, options=RaftOptions(), disk=disk, applied=lambda *_: None, fatal=_fatal)  # type: ignore[arg-type]
    for index in range(1, 2001):
        applying.apply((bytes([REGULAR]) + os.urandom(REQUEST_ID_BYTES) + b"x", index, 1))
    applying.stop_timer()
    assert written - SCARCE_ENTRIES_MAX <= machine.written <= written
