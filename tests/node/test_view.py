"""Views: values come back, are bound to their place, and end with their time."""

import asyncio

import pytest
from support.corefixture import opened

from node.view import TURN_ENTRIES, View, in_turns, write
from storage.errors import Corrupt
from storage.keyring import KIND_ENTRY, Context


async def test_values_come_back_and_several_writes_are_one(tmp_path):
    async with opened(tmp_path) as core:
        view = View(core.unsealed, "sys:test")
        first, second = await write(core.unsealed, view.put("a/x", {"n": 1}), view.put("b", [2]))
        assert view.get("a/x").value == {"n": 1}
        assert view.get("b").revision == second["revision"] == first["revision"]
        assert view.children() == ["a/", "b"]
        assert view.scan() == ["a/x", "b"]
        assert view.has("b")
        assert not view.has("a")
        await write(core.unsealed, view.delete("b"))
        assert view.get("b") is None


async def test_an_entry_past_its_time_is_absent_before_it_is_swept(tmp_path):
    async with opened(tmp_path) as core:
        store = core.unsealed
        view = View(store, "sys:test")
        await write(store, view.put("gone", 1, expires_ns=store.now_ns()))
        assert view.get("gone") is None
        assert not view.has("gone")
        assert store.reads.entry("sys:test", "gone") is not None


async def test_a_ciphertext_opens_only_where_it_was_written(tmp_path):
    async with opened(tmp_path) as core:
        store = core.unsealed
        command = View(store, "sys:test").put("a", "value")
        for view, path in (("sys:test", "b"), ("sys:other", "a")):
            with pytest.raises(Corrupt):
                store.open(Context(KIND_ENTRY, view, path, 0), command.value)
        assert store.open(Context(KIND_ENTRY, "sys:test", "a", 0), command.value) == b'"value"'


async def test_a_long_list_leaves_others_their_turn():
    others = 0

    async def other():
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    try:
        assert [item async for item in in_turns(range(TURN_ENTRIES * 4 + 1))] == list(
            range(TURN_ENTRIES * 4 + 1)
        )
    finally:
        task.cancel()
    assert others == 4
