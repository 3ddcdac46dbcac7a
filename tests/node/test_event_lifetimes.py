"""Versions that end by their age are told once each, however many there are and whatever was not noted."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from support.corefixture import call, opened
from support.patience import PATIENCE_S

from node.core.request import Operation
from node.events import lifetimes as module
from node.events.expiries import Expiries
from node.events.lifetimes import Lifetimes

NAMES = {f"secret/data/s{number}" for number in range(10)}


async def test_more_than_are_held_in_memory_are_told_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LATE_NS", 0)
    async with opened(tmp_path) as core:
        store = core.unsealed
        lifetimes = Lifetimes(store, lambda: {each.mount_id: each for each in store.mounts()})
        lifetimes._expiries = Expiries(4)
        await lifetimes.learn()
        for name in NAMES:
            settings = {"delete_version_after": "1s"}
            await call(core, Operation.UPDATE, name.replace("data", "metadata"), settings)
            await call(core, Operation.UPDATE, name, {"data": {"n": 1}})
        lifetimes.overlooked()
        told: Counter[str] = Counter()
        async with asyncio.timeout(PATIENCE_S):
            while told.keys() != NAMES:
                if lifetimes.are_unknown:
                    await lifetimes.learn()
                told.update(event.path for event in lifetimes.expired())
                await asyncio.sleep(0)
        lifetimes.overlooked()
        await lifetimes.learn()
        told.update(event.path for event in lifetimes.expired())
        assert told == dict.fromkeys(NAMES, 1)
