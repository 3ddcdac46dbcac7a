"""A node's part in its region: when it orders nothing any more, and when nobody else's state is wanted."""

import asyncio
import dataclasses
import ssl
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.corefixture import opened, order
from support.patience import PATIENCE_S

from consensus.api import Role
from node.regions.links import Answer, Interrupted, Links, Unreachable
from node.regions.nearness import Nearness
from node.regions.stream import Batch, Standing
from node.regions.worker import RegionsWorker
from storage.command import RegionDemote, RegionPromote
from storage.rows import Region

US = Region("us", ("https://127.0.0.1:1",), ("127.0.0.1:1",), 0)


class Slow:
    """Links to a region whose state takes for ever."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.nearness: dict[str, Nearness] = defaultdict(Nearness)

    async def ask(self, *_: Any, **__: Any) -> Answer:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize(("epoch", "accepts"), [(1, True), (2, False)])
async def test_an_answer_of_a_later_epoch_fences_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, accepts: bool
) -> None:
    """Not only when the region has given up its part, which takes its leader and a round of its log."""

    async def answers(*_: Any, **__: Any) -> Answer:
        told = Standing("us", "primary", epoch, "us" if epoch > 1 else "eu", 100)
        return Answer(200, {}, msgspec.json.encode(told))

    async with opened(tmp_path) as core:
        await order(core)
        store = core.unsealed
        worker = RegionsWorker(store, core.settings, "cluster", tmp_path, listen=None)  # type: ignore[arg-type]
        monkeypatch.setattr(worker, "ask", answers)
        worker._ends.links = Slow()  # type: ignore[assignment]
        store.cleared.set()
        await worker.hello(US)
        assert store.accepts is accepts


async def test_a_region_that_is_promoted_takes_nobody_elses_state_any_more(tmp_path: Path) -> None:
    """Its own would be replaced, with all that it has acknowledged since."""
    async with opened(tmp_path) as core:
        await order(core)
        store, links = core.unsealed, Slow()
        worker = RegionsWorker(store, core.settings, "cluster", tmp_path, listen=None)  # type: ignore[arg-type]
        worker._ends.links = links  # type: ignore[assignment]
        await store.submit(RegionDemote(time_ns=store.now_ns()))
        batch = Batch("gone", Standing("us", "primary", 1, "us", 100))
        taking = asyncio.create_task(worker._follower.take(US, batch, US.links[0]))
        async with asyncio.timeout(PATIENCE_S):
            await links.asked.wait()
            await store.submit(RegionPromote(time_ns=store.now_ns(), epoch=2))
            with pytest.raises(Interrupted, match="not wanted"):
                await taking


async def test_a_node_that_leads_no_longer_leaves_it_to_the_next_leader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one may have taken a newer state: the one which is on its way here would take the region back."""
    async with opened(tmp_path) as core:
        await order(core)
        store, links = core.unsealed, Slow()
        worker = RegionsWorker(store, core.settings, "cluster", tmp_path, listen=None)  # type: ignore[arg-type]
        worker._ends.links = links  # type: ignore[assignment]
        await store.submit(RegionDemote(time_ns=store.now_ns()))
        batch = Batch("gone", Standing("us", "primary", 1, "us", 100))
        taking = asyncio.create_task(worker._follower.take(US, batch, US.links[0]))
        async with asyncio.timeout(PATIENCE_S):
            await links.asked.wait()
            status = dataclasses.replace(store.status(), role=Role.FOLLOWER)
            monkeypatch.setattr(store.group, "status", lambda: status)
            with pytest.raises(Interrupted, match="not wanted"):
                await taking


async def test_links_that_are_closed_reach_nobody() -> None:
    """A bug would stop the node: whoever fetches a state goes on to ask after its region has left the others."""
    links = Links(ssl.create_default_context(), "cluster")
    await links.close()
    with pytest.raises(Unreachable):
        await links.ask("us", US.links, "/v1/x", timeout_s=1.0)
    with pytest.raises(Unreachable):
        async for _ in links.stream("us", US.links, "/v1/x", body=b"", silence_s=1.0):
            pass
