"""Reads through the cache of decrypted values: never anything else than what the database holds now."""

import asyncio
import contextlib
import os
import random
import time
from typing import Any

import pytest
from support.corefixture import call, opened
from support.patience import eventually

from node import warming
from node.core.core import Core
from node.core.request import Operation
from node.errors import NodeError
from node.warming import STEP_KEYS
from storage.command import KvDelete

SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 32)
STEPS = 600
PATHS = ("a", "b", "folder/c")


async def read(core: Core, path: str, version: int) -> tuple[Any, ...]:
    query = {"version": str(version)} if version else {}
    try:
        response = await call(core, Operation.READ, f"secret/data/{path}", query=query)
    except NodeError as error:
        return type(error).__name__, error.message
    assert response.data is not None
    data = response.data["data"]
    return response.status, None if data is None else bytes(data), response.data["metadata"]


async def change(core: Core, rng: random.Random) -> None:
    """One random change of one random key, its mount or its settings; what is refused changes nothing."""
    path, versions = rng.choice(PATHS), {"versions": [rng.randint(1, 5)]}
    operation, where, data = rng.choice(
        [
            (Operation.UPDATE, f"data/{path}", {"data": {"n": rng.randrange(1000)}}),
            (Operation.UPDATE, f"data/{path}", {"data": {"n": rng.randrange(1000)}}),
            (Operation.DELETE, f"data/{path}", None),
            (Operation.UPDATE, f"delete/{path}", versions),
            (Operation.UPDATE, f"undelete/{path}", versions),
            (Operation.UPDATE, f"destroy/{path}", versions),
            (Operation.UPDATE, f"metadata/{path}", {"custom_metadata": {"k": str(rng.randrange(10))}}),
            (Operation.UPDATE, f"metadata/{path}", {"max_versions": rng.randint(1, 3)}),
            (Operation.DELETE, f"metadata/{path}", None),
            (Operation.UPDATE, "config", {"max_versions": rng.randint(0, 4)}),
        ]
    )
    with contextlib.suppress(NodeError):
        await call(core, operation, f"secret/{where}", data)
    if rng.random() < 0.03:
        await call(core, Operation.DELETE, "sys/mounts/secret")
        await call(core, Operation.UPDATE, "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})


@pytest.mark.parametrize("decrypted_bytes_max", [0, 64 * 1024 * 1024])
async def test_a_read_through_the_cache_is_what_the_database_holds(
    tmp_path, decrypted_bytes_max: int
) -> None:
    """Through both caches, and through that of packed values alone."""
    print("seed", SEED)
    rng = random.Random(SEED)
    async with opened(tmp_path, value_cache_bytes_max=decrypted_bytes_max) as core:
        values, kept, packed = core.unsealed.values, 0, 0
        for _ in range(STEPS // 2):
            for _ in range(2):
                await change(core, rng)
                through_cache = {(p, v): await read(core, p, v) for p in PATHS for v in range(4)}
            kept, packed = max(kept, values.size_bytes), max(packed, len(values.packed))
            values.clear()
            assert through_cache == {(p, v): await read(core, p, v) for p in PATHS for v in range(4)}
        assert bool(kept) == bool(decrypted_bytes_max)
        assert packed == len(PATHS), "nothing was ever cached"


async def test_what_a_mount_held_leaves_memory_with_it_and_stays_when_others_change(tmp_path) -> None:
    async with opened(tmp_path) as core:
        await call(core, Operation.UPDATE, "secret/data/a", {"data": {"n": 1}})
        await read(core, "a", 0)
        packed = core.unsealed.values.packed
        await call(core, Operation.UPDATE, "sys/mounts/more", {"type": "kv", "options": {"version": "2"}})
        assert len(packed) == 1
        await call(core, Operation.DELETE, "sys/mounts/secret")
        assert len(packed) == 0


async def test_values_come_into_memory_by_themselves_and_again_after_all_was_forgotten(tmp_path) -> None:
    async with opened(tmp_path) as core:
        for number in range(3 * STEP_KEYS):
            await call(core, Operation.UPDATE, f"secret/data/{number}", {"data": {"n": number}})
        await call(core, Operation.UPDATE, "secret/data/0", {"data": {"n": "newer"}})
        await call(core, Operation.DELETE, "secret/data/1")
        await call(core, Operation.UPDATE, "secret/destroy/2", {"versions": [1]})
        packed = core.unsealed.values.packed
        store, warm = core.unsealed, asyncio.create_task(warming.run(core))
        try:
            for _ in range(2):
                packed.clear()
                await eventually(lambda: len(packed) >= 3 * STEP_KEYS - 2, "all values in memory")
                mount = store.mount_for("secret/")
                assert mount is not None
                assert {path for path in map(str, range(4)) if packed.get(mount.mount_id, path)} == {"0", "3"}
                assert (await read(core, "0", 0))[1] == b'{"n":"newer"}'
        finally:
            warm.cancel()


async def test_a_deletion_that_was_set_for_later_comes_to_cached_values_too(tmp_path) -> None:
    async with opened(tmp_path) as core:
        await call(core, Operation.UPDATE, "secret/metadata/a", {"delete_version_after": "1h"})
        await call(core, Operation.UPDATE, "secret/data/a", {"data": {"n": 1}})
        assert (await read(core, "a", 0))[0] == 200
        store = core.unsealed
        assert store.values.size_bytes
        assert len(store.values.packed) == 1
        mount = store.mount_for("secret/")
        assert mount is not None
        in_two_hours = (
            time.time_ns() + 2 * 3600 * 10**9
        )  # moves the store's clock, and touches another key only
        await store.submit(KvDelete(time_ns=in_two_hours, mount_id=mount.mount_id, path="other", versions=()))
        assert store.values.size_bytes, "the value is still kept"
        assert (await read(core, "a", 0))[0] == 404


async def test_sealing_empties_the_cache(tmp_path) -> None:
    async with opened(tmp_path) as core:
        await call(core, Operation.UPDATE, "secret/data/a", {"data": {"n": 1}})
        await read(core, "a", 0)
        store = core.unsealed
        mount = store.mount_for("secret/")
        assert mount is not None
        held = store.values.get(mount.mount_id, "a", 0)
        assert held is not None
        assert held.value == b'{"n":1}'
        await core.lifecycle.seal()
        assert store.values.size_bytes == store.values.packed.size_bytes == 0
        assert held.value == b""


@pytest.mark.parametrize("bytes_max", [0, 64 * 1024 * 1024])
async def test_reads_are_the_same_with_the_cache_off(tmp_path, bytes_max: int) -> None:
    async with opened(tmp_path, value_cache_bytes_max=bytes_max) as core:
        for n in (1, 2):
            await call(core, Operation.UPDATE, "secret/data/a", {"data": {"n": n}})
            for _ in range(2):
                assert (await read(core, "a", 0))[1] == b'{"n":%d}' % n
                assert (await read(core, "a", 1))[1] == b'{"n":1}'
        assert bool(core.unsealed.values.size_bytes) == bool(bytes_max)
