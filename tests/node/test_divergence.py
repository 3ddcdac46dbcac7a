"""What is set aside: every command from a position on, however many or large, and how it is written again."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.corefixture import ROOT_TOKEN, call, opened

from node.core.core import Core
from node.core.request import Operation, Request
from node.errors import InvalidRequest, NotFound
from node.key_rotation import rotate
from node.regions import divergence, replaying
from node.regions import settings as region_settings
from node.regions.worker import RegionsWorker
from node.view import View, write
from storage.command import KvMetadataDelete, RegionDemote, RegionFound, RegionPromote
from storage.keyring import FIRST_TERM, Keyring
from storage.secret import Secret


@contextlib.asynccontextmanager
async def ordering(tmp_path: Path) -> AsyncIterator[Core]:
    """A region that orders writes, with KV version 2 at secret/ and version 1 at old/."""
    async with opened(tmp_path) as core:
        store = core.unsealed
        await call(core, Operation.UPDATE, "sys/mounts/old", {"type": "kv", "options": {"version": "1"}})
        await write(store, RegionFound(store.now_ns(), "eu", ("https://eu-1:8200",), ("eu-1:8203",)))
        core.regions = RegionsWorker(store, core.settings, "cluster", tmp_path, listen=None)  # type: ignore[arg-type]
        store.cleared.set()
        yield core


async def put(core: Core, path: str, value: str, **options: int) -> None:
    body: dict[str, Any] = {"v": value}
    if path.startswith("secret/data/"):
        body = {"data": body, "options": options}
    await call(core, Operation.UPDATE, path, body)


async def value_of(core: Core, path: str) -> str:
    data = (await call(core, Operation.READ, path)).data
    assert data is not None
    inner = data["data"] if path.startswith("secret/data/") else data
    value: str = (inner if isinstance(inner, dict) else json.loads(bytes(inner)))["v"]
    return value


async def forget(core: Core, mount: str, path: str) -> None:
    """As if the new history had never had it."""
    store = core.unsealed
    found = store.mount_for(mount)
    assert found is not None
    await store.submit(KvMetadataDelete(store.now_ns(), found.mount_id, path))


async def set_aside(core: Core, first: int) -> list[dict[str, Any]]:
    """What is listed then."""
    await divergence.set_aside(core.unsealed, first, 1)
    return (await divergence.listed(core.unsealed))[0]


async def replayed(core: Core, entry: dict[str, Any]) -> dict[str, Any]:
    token = Secret(ROOT_TOKEN.encode())
    asked = Request(id="0", operation=Operation.UPDATE, path="", token=token, remote="127.0.0.1")
    return await replaying.replay(core, entry["id"], asked)


async def test_many_commands_are_set_aside_and_listed_in_order_without_a_gap(tmp_path) -> None:
    async with ordering(tmp_path) as core:
        store = core.unsealed
        view = View(store, "sys:test")
        first = store.position + 1
        count = divergence.STEP_COMMANDS_MAX + 10
        for number in range(count):
            await write(store, view.put(f"{number}", number))
        assert await divergence.set_aside(store, first, 1) == count
        assert await divergence.set_aside(store, first, 1) == count, "done again it changes nothing"
        assert store.position == first + count - 1, "what was set aside is this region's own matter"
        told, after = await divergence.listed(store, limit=200)
        assert after == told[-1]["id"]
        rest, end = await divergence.listed(store, after, limit=200)
        assert end == ""
        positions = [each["position"] for each in (*told, *rest)]
        assert positions == list(range(first, first + count))


async def test_a_command_as_large_as_there_is_can_be_set_aside(tmp_path: Path) -> None:
    """Else the region could not follow any more, as what cannot be kept must not be replaced."""
    async with ordering(tmp_path) as core:
        store, first, value = core.unsealed, core.unsealed.position + 1, "x" * 999_000
        await put(core, "secret/data/large", value)
        await put(core, "secret/data/small", "y")
        large, small = await set_aside(core, first)
        assert (large["path"], small["path"]) == ("large", "small")
        for path in ("large", "small"):
            await forget(core, "secret/", path)
        assert await replayed(core, large) == {"path": "secret/data/large", "version": 1}
        assert await value_of(core, "secret/data/large") == value
        await divergence.discard(store, small["id"])
        assert View(store, divergence.PARTS).scan() == [], "nothing is left of it"
        with pytest.raises(NotFound, match=large["id"]):
            await replayed(core, large)


async def test_what_was_forgotten_does_not_come_back_when_the_other_state_is_asked_for_again(
    tmp_path: Path,
) -> None:
    """Its way may be cut and begun anew many times, while an operator looks through what was set aside."""
    async with ordering(tmp_path) as core:
        store, first = core.unsealed, core.unsealed.position + 1
        await put(core, "secret/data/a", "x")
        (entry,) = await set_aside(core, first)
        await divergence.discard(store, entry["id"])
        assert await set_aside(core, first) == []


async def test_what_is_a_regions_own_opens_without_the_key_terms_that_it_gives_up(tmp_path: Path) -> None:
    """A region that takes another one's history takes that one's keyring, too."""
    async with ordering(tmp_path) as core:
        store, first = core.unsealed, core.unsealed.position + 1
        await rotate(store)
        await put(core, "secret/data/a", "of a term that nobody else has")
        await region_settings.KEPT.change(store, {"switchover_max_lag": 7})
        await set_aside(core, first)
        await forget(core, "secret/", "a")
        others = [each for each in store.reads.key_terms() if each.term == FIRST_TERM]
        store._keyring = Keyring(store.root, core.lifecycle.cluster_id)
        store._keyring.load(others)
        assert region_settings.KEPT.current(store).switchover_max_lag == 7
        term, entry = (await divergence.listed(store))[0][:2]
        assert await replayed(core, term) == {"path": None, "version": None}, "whoever orders has terms"
        await replayed(core, entry)
        assert await value_of(core, "secret/data/a") == "of a term that nobody else has"


async def test_version_1_is_written_again_unless_it_was_written_since(tmp_path: Path) -> None:
    async with ordering(tmp_path) as core:
        first = core.unsealed.position + 1
        for path in ("old/lost", "old/taken"):
            await put(core, path, "set aside")
        lost, taken = await set_aside(core, first)
        for path in ("lost", "taken"):
            await forget(core, "old/", path)
        await put(core, "old/taken", "of the new history")
        assert await replayed(core, lost) == {"path": "old/lost", "version": 1}
        assert await value_of(core, "old/lost") == "set aside"
        with pytest.raises(InvalidRequest, match="new history"):
            await replayed(core, taken)
        assert await value_of(core, "old/taken") == "of the new history"


@pytest.mark.parametrize("remembered", [True, False])
async def test_what_was_refused_is_not_done_after_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered: bool
) -> None:
    """With check-and-set against the version that it had, it would fit now."""
    async with ordering(tmp_path) as core:
        store, first = core.unsealed, core.unsealed.position + 1
        await put(core, "secret/data/a", "made", cas=0)
        with pytest.raises(InvalidRequest):
            await put(core, "secret/data/a", "refused", cas=0)
        if not remembered:
            monkeypatch.setattr(store._machine._executor.outcomes, "get", lambda _: None)
        made, *rest = await set_aside(core, first)
        monkeypatch.undo()
        await forget(core, "secret/", "a")
        assert (await replayed(core, made))["version"] == 1
        assert len(rest) == (0 if remembered else 1)
        for each in rest:
            with pytest.raises(InvalidRequest, match="refused"):
                await replayed(core, each)
        assert await value_of(core, "secret/data/a") == "made"


async def test_that_a_region_began_to_order_writes_is_no_write_of_anybody(tmp_path: Path) -> None:
    async with ordering(tmp_path) as core:
        store, first = core.unsealed, core.unsealed.position + 1
        await store.submit(RegionDemote(store.now_ns()))
        await store.submit(RegionPromote(store.now_ns(), epoch=2))
        (entry,) = await set_aside(core, first)
        assert entry["kind"] == "EpochBegin", "it is listed"
        assert await replayed(core, entry) == {"path": None, "version": None}
        assert await divergence.listed(store) == ([], "")
