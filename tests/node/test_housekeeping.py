"""What a node does by itself, seen from its disk."""

import asyncio
import contextlib
import shutil
from pathlib import Path

import pytest
from support.patience import PATIENCE_S, eventually

from consensus.memory import SoloGroup
from node import housekeeping
from node.store import Store
from node.telemetry.metrics import Metrics
from storage.command import PolicyPut
from storage.errors import Corrupt
from storage.keyring import Keyring, RootKey
from storage.machine import Machine

KEY = b"k" * 32


async def test_the_database_is_folded_in_and_durable_without_anybody_asking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main file alone, as a power loss would leave it, comes to hold what was written."""
    monkeypatch.setattr(housekeeping, "TICK_S", 0.001)
    machine = Machine.open(tmp_path / "state.db", key=KEY)
    group, root = SoloGroup(machine, "n1"), RootKey.generate()
    await group.start()
    store = Store(machine=machine, group=group, keyring=Keyring(root, "c1"), root=root)
    chores = housekeeping.Housekeeping(
        store=store,
        group=group,
        metrics=Metrics(),
        revokers={},
        renew=lambda: None,
        checkpoint=machine.checkpoint,
        follow_seal=_nothing,
    )
    await store.submit(PolicyPut(time_ns=store.now_ns(), name="p", text='path "a" {}'))
    assert _policies_in_main_file(tmp_path) == []
    task = asyncio.create_task(chores.run())
    try:
        await eventually(lambda: _policies_in_main_file(tmp_path) == ["p"], "the policy in the main file")
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await group.stop()
        machine.close()


async def test_certificates_are_looked_at_right_after_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that was off for months starts with what has expired meanwhile."""
    monkeypatch.setattr(housekeeping, "TICK_S", 0.001)
    machine = Machine.open(None, key=KEY)
    group, root = SoloGroup(machine, "n1"), RootKey.generate()
    await group.start()
    renewed = asyncio.Event()
    chores = housekeeping.Housekeeping(
        store=Store(machine=machine, group=group, keyring=Keyring(root, "c1"), root=root),
        group=group,
        metrics=Metrics(),
        revokers={},
        renew=renewed.set,
        checkpoint=machine.checkpoint,
        follow_seal=_nothing,
    )
    task = asyncio.create_task(chores.run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            await renewed.wait()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await group.stop()
        machine.close()


async def _nothing() -> None:
    """The seal stays as it is."""


def _policies_in_main_file(directory: Path) -> list[str]:
    copy = directory / "copy" / "state.db"
    shutil.rmtree(copy.parent, ignore_errors=True)
    copy.parent.mkdir()
    shutil.copyfile(directory / "state.db", copy)
    try:
        alone = Machine.open(copy, key=KEY)
    except Corrupt:
        return []  # copied while it was being written
    try:
        return alone.reads.policies()
    finally:
        alone.close()
