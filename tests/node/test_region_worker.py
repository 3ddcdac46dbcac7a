"""A node's part in its region: when it orders nothing any more, and when nobody else's state is wanted."""

import asyncio
import contextlib
import dataclasses
import ssl
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.corefixture import follow, opened, order
from support.patience import PATIENCE_S

from consensus.api import Role
from node.errors import InvalidRequest
from node.regions import control, parting
from node.regions import worker as worker_module
from node.regions.links import Answer, Interrupted, Links, Unreachable
from node.regions.nearness import Nearness
from node.regions.stream import Batch, Standing
from node.regions.worker import RegionsWorker
from node.store import Store
from storage.command import (
    EpochBegin,
    RegionApply,
    RegionDemote,
    RegionHandover,
    RegionPromote,
    RegionPut,
    RegionRemove,
    encode,
)
from storage.rows import Region
from storage.secret import Secret

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


@contextlib.asynccontextmanager
async def taking_a_state(tmp_path: Path) -> AsyncIterator[Store]:
    """A region's leader takes another one's state, which is on its way; at the end it must be wanted no more."""
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
            yield store
            with pytest.raises(Interrupted, match="not wanted"):
                await taking


async def test_a_region_that_is_promoted_takes_nobody_elses_state_any_more(tmp_path: Path) -> None:
    """Its own would be replaced, with all that it has acknowledged since."""
    async with taking_a_state(tmp_path) as store:
        await store.submit(RegionPromote(time_ns=store.now_ns(), epoch=2))


async def test_a_node_that_leads_no_longer_leaves_it_to_the_next_leader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one may have taken a newer state: the one which is on its way here would take the region back."""
    async with taking_a_state(tmp_path) as store:
        status = dataclasses.replace(store.status(), role=Role.FOLLOWER)
        monkeypatch.setattr(store.group, "status", lambda: status)


class Answering(Slow):
    """Links to regions that answer, but for those that are silent."""

    def __init__(self, *silent: str, in_touch: bool = True) -> None:
        super().__init__()
        self.silent, self.in_touch, self.times = silent, in_touch, Counter[str]()
        self.addresses: list[str] = []
        self.told_links: tuple[str, ...] = ()
        self.gone: tuple[str, ...] = ()

    async def ask(self, region: str, addresses: tuple[str, ...], *_: Any, **__: Any) -> Answer:
        self.times[region] += 1
        self.addresses += addresses
        if region in self.silent:
            await asyncio.Event().wait()
        if region in self.gone:
            raise Unreachable("nobody listens")
        told = Standing(region, "secondary", 1, "eu", 0, in_touch=self.in_touch, links=self.told_links)
        return Answer(200, {}, msgspec.json.encode(told), addresses[0], 0.01)

    async def close(self) -> None: ...


async def nothing() -> None: ...


@contextlib.asynccontextmanager
async def primary(tmp_path: Path, links: Answering, *others: str) -> AsyncIterator[RegionsWorker]:
    """The part of a region that orders writes for others, just started."""
    async with opened(tmp_path) as core:
        await order(core)
        store = core.unsealed
        for name in others:
            await store.submit(RegionPut(store.now_ns(), name, (), (f"{name}:1",)))
        worker = RegionsWorker(store, core.settings, "cluster", tmp_path, listen=None)  # type: ignore[arg-type]
        worker._ends.links, worker._ends.changed, worker._ends.open = links, lambda: False, nothing  # type: ignore
        try:
            yield worker
        finally:
            await worker._part()


async def test_a_region_that_does_not_answer_holds_up_nothing_that_is_heard_of_others(tmp_path: Path) -> None:
    links = Answering("asia")
    async with primary(tmp_path, links, "us", "asia") as worker:
        heard = set()
        async with asyncio.timeout(PATIENCE_S):
            while len(heard) < 3:
                await worker._round()
                heard |= {each.heard_at for each in worker.contacts.values()}
        assert links.times["asia"] == 2, "its nearest node, and each of its nodes"


@pytest.mark.parametrize("in_touch", [True, False])
async def test_a_node_that_is_cut_off_from_its_region_does_not_say_that_nobody_took_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_touch: bool
) -> None:
    monkeypatch.setattr(worker_module, "CLEARANCE_PATIENCE_S", 1000.0)
    async with primary(tmp_path, Answering(in_touch=in_touch), "us") as worker:
        while "us" not in worker.contacts:
            await worker._round()
        await worker._round()
        assert worker._store.accepts is in_touch


async def test_what_belongs_to_this_region_by_now_is_asked_of_this_node(tmp_path: Path) -> None:
    """A write on its way when the region took over: at the addresses for others, a proxy's, nobody may answer."""
    links = Answering()
    async with primary(tmp_path, links, "us") as worker:
        worker._settings = dataclasses.replace(worker._settings, link_bind_address="127.0.0.2:8203")
        for region in (Region("eu", (), ("proxy:1",), 0), US):
            await worker.ask(region, "/v1/secret/data/a", timeout_s=PATIENCE_S)
        assert links.addresses == ["127.0.0.2:8203", *US.links]


@pytest.mark.parametrize(("role", "follows"), [("secondary", ""), ("primary", "us")])
async def test_a_handover_whose_target_is_lost_can_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str, follows: str
) -> None:
    """Else nobody could ever order writes again. Where the target did take over, it is followed without force."""
    async with opened(tmp_path) as core:
        await order(core)
        store = core.unsealed
        await store.submit(RegionPut(store.now_ns(), "us", (), ("us:1",)))
        await store.submit(RegionHandover(store.now_ns(), "us"))
        core.regions = RegionsWorker(store, core.settings, "cluster", tmp_path, listen=None)  # type: ignore[arg-type]
        told = Standing("us", role, 2 if follows else 1, follows or "eu", store.position)

        async def hello(_: Region) -> Standing:
            return told

        monkeypatch.setattr(core.regions, "hello", hello)
        with pytest.raises(InvalidRequest, match="demote -force"):
            await control.promote(core, accept_loss=True, max_lag_s=None, force=True)
        if not follows:
            with pytest.raises(InvalidRequest, match="is handing over"):
                await parting.demote(core, "", force=False)
        assert await parting.demote(core, "", force=not follows) == follows
        assert store.region_role() == "secondary"
        if not follows:
            made = await control.promote(core, accept_loss=False, max_lag_s=None, force=False)
            assert (made["region"], made["epoch"], store.region_role()) == ("eu", 2, "primary")


@pytest.mark.parametrize(
    ("heard", "cleared", "role"),
    [((2, "us"), False, "called"), ((3, "us"), True, "secondary"), ((2, "us"), True, "primary")],
    ids=["nobody was asked yet", "another one went on", "nobody did"],
)
async def test_whoever_is_called_asks_first_whether_another_one_went_on(
    tmp_path: Path, heard: tuple[int, str], cleared: bool, role: str
) -> None:
    """It may have been called before it was stopped: who was promoted meanwhile would lose what was ordered since."""
    async with opened(tmp_path) as core:
        await follow(core)
        store = core.unsealed
        told = (EpochBegin(store.now_ns(), 2, "us"), RegionHandover(store.now_ns(), "eu"))
        history = tuple((bytes([number]) * 16, encode(each)) for number, each in enumerate(told))
        await store.submit(RegionApply(store.now_ns(), epoch=1, first=store.position + 1, commands=history))
        assert store.region_role() == "called"
        worker = RegionsWorker(store, core.settings, "cluster", tmp_path, listen=None)  # type: ignore[arg-type]
        worker.superseded(heard)
        if cleared:
            store.cleared.set()
        await worker._step()
        assert store.region_role() == role


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"role": "primary"}, "it is primary"),
        ({"position": -20_000}, "commands behind"),
        ({"level": 0}, "upgrade its nodes"),
        ({"in_touch": False}, "cut off from its own region"),
        ({"epoch": 2, "epoch_region": "us"}, "does not follow here"),
        ({}, ""),
    ],
)
async def test_nobody_is_handed_over_to_who_could_not_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], problem: str
) -> None:
    """Until it does nobody orders writes."""
    async with opened(tmp_path) as core:
        await order(core)
        store = core.unsealed
        store.cleared.set()
        await store.submit(RegionPut(store.now_ns(), "us", (), ("us:1",)))
        core.regions = RegionsWorker(store, core.settings, "cluster", tmp_path, listen=None)  # type: ignore[arg-type]
        store.cleared.set()
        told = Standing("us", "secondary", 1, "eu", store.position, level=store.level)

        async def hello(_: Region) -> Standing:
            return msgspec.structs.replace(told, **changes)

        monkeypatch.setattr(control, "EPOCH_PATIENCE_S", 0.2)
        monkeypatch.setattr(core.regions, "hello", hello)
        if problem:
            with pytest.raises(InvalidRequest, match=problem):
                await control.switchover(core, "us")
        else:
            await control.switchover(core, "us")
        assert store.region_role() == ("primary" if problem else "leaving")


async def heard(worker: RegionsWorker, name: str) -> Standing:
    while name not in worker.contacts:
        await worker._round()
    return worker.contacts[name].standing


async def test_what_was_heard_of_a_region_that_was_removed_says_nothing_of_who_has_its_name_now(
    tmp_path: Path,
) -> None:
    """Its addresses would be told everywhere, and the new one could never be handed over to."""
    links = Answering()
    async with primary(tmp_path, links, "us") as worker, asyncio.timeout(PATIENCE_S):
        store = worker._store
        links.told_links = ("us:1",)
        await heard(worker, "us")
        await store.submit(RegionRemove(store.now_ns(), "us"))
        await store.submit(RegionPut(store.now_ns(), "us", (), ("new:1",)))
        links.gone = ("us",)
        await worker._round()
        await worker._tell_addresses()
        assert [each.links for each in store.regions() if each.name == "us"] == [("new:1",)]
        links.gone, links.told_links = (), ("new:1", "new:2")
        await heard(worker, "us")
        await worker._tell_addresses()
        assert [each.links for each in store.regions() if each.name == "us"] == [("new:1", "new:2")]


class Elsewhere(Answering):
    """Links to a region that answers at one address alone."""

    async def ask(self, region: str, addresses: tuple[str, ...], *_: Any, **__: Any) -> Answer:
        self.addresses += addresses
        if "new:1" not in addresses:
            raise Unreachable("nobody listens there")
        told = Standing(region, "secondary", 1, "eu", 0, links=("new:1",))
        return Answer(200, {}, msgspec.json.encode(told), "new:1", 0.01)


async def test_a_region_that_came_back_elsewhere_is_found_where_it_says_that_it_is(tmp_path: Path) -> None:
    async with primary(tmp_path, Elsewhere(), "us") as worker, asyncio.timeout(PATIENCE_S):
        store = worker._store
        await worker._round()
        assert "us" not in worker.contacts
        worker.introduced(Standing("us", "secondary", 1, "eu", 0, links=("new:1",)))
        await heard(worker, "us")
        await worker._tell_addresses()
        assert [each.links for each in store.regions() if each.name == "us"] == [("new:1",)]
        worker.introduced(Standing("us", "secondary", 1, "eu", 0, links=("old:1",)))  # of before its removal
        assert [each.links for each in worker.others()] == [("new:1",)], "it answers where it is"


async def test_a_primary_that_came_back_elsewhere_is_asked_there_for_what_it_orders(tmp_path: Path) -> None:
    """Its addresses would come with that, so it has to be found without."""
    async with primary(tmp_path, Answering(), "us") as worker:
        worker.superseded((2, "us"))
        assert worker.primary() == dataclasses.replace(worker.others()[0], links=("us:1",))
        worker.introduced(Standing("us", "primary", 2, "us", 0, links=("new:1",)))
        source = worker.primary()
        assert source is not None
        assert source.links == ("new:1", "us:1")


@pytest.mark.parametrize("restarted", [False, True])
async def test_who_was_removed_and_finds_another_one_under_its_name_is_not_called(
    tmp_path: Path, restarted: bool
) -> None:
    """Two clusters would begin to order writes, in one epoch and under one name: nobody could tell them apart."""
    async with opened(tmp_path) as core:
        await follow(core)  # as eu, which orders no writes any more
        store = core.unsealed
        worker = RegionsWorker(store, core.settings, "cluster", tmp_path, listen=None)  # type: ignore[arg-type]
        store.cleared.set()
        await worker._step()
        assert not worker.was_removed
        now = store.now_ns() + 1
        told = (
            EpochBegin(now, 2, "us"),
            RegionRemove(now, "eu"),
            RegionPut(now, "eu", (), ("new:1",)),
            RegionHandover(now, "eu"),
        )
        history = tuple((bytes([number]) * 16, encode(each)) for number, each in enumerate(told))
        await store.submit(RegionApply(store.now_ns(), epoch=1, first=store.position + 1, commands=history))
        assert store.region_role() == "called"
        if restarted:
            worker = RegionsWorker(store, core.settings, "cluster", tmp_path, listen=None)  # type: ignore[arg-type]
            store.cleared.set()
        await worker._step()
        assert store.region_role() == "secondary"
        await worker._step()
        assert (worker.was_removed, "was removed" in worker.stuck) == (True, True)
        core.regions = worker
        with pytest.raises(InvalidRequest, match="was removed"):
            await control.promote(core, accept_loss=True, max_lag_s=None, force=True)
        await parting.leave(core, Secret(b"any"), force=False)  # and the other one is not told to go
        assert store.region_role() == "alone"


async def test_links_that_are_closed_reach_nobody() -> None:
    """A bug would stop the node: whoever fetches a state goes on to ask after its region has left the others."""
    links = Links(ssl.create_default_context(), "cluster")
    await links.close()
    with pytest.raises(Unreachable):
        await links.ask("us", US.links, "/v1/x", timeout_s=1.0)
    with pytest.raises(Unreachable):
        async for _ in links.stream("us", US.links, "/v1/x", body=b"", silence_s=1.0):
            pass
