"""Packed values by themselves: found by their place, bounded, sealed. Beside the store: tests/node/test_kv_cache.py."""

import os
import random

import pytest

from storage import packed
from storage.packed import (
    EVICTED_FRACTION,
    PATH_CHARACTERS_MAX,
    RECORD_OVERHEAD_BYTES,
    SHARDS,
    VALUE_BYTES_MAX,
    PackedCache,
)
from storage.rows import KvVersion

CANARY = b"canary-of-this-test"
SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 32)


def row(version: int = 1, deletion_ns: int = 0, custom: dict[str, str] | None = None) -> KvVersion:
    return KvVersion(version, 5, deletion_ns, False, None, custom)


@pytest.mark.parametrize("custom", [None, {}, {"owner": "a team", "\u00fc": ""}])
@pytest.mark.parametrize("value", [b"", b"{}", CANARY, bytes(VALUE_BYTES_MAX)])
def test_what_is_kept_comes_back_whole(custom: dict[str, str] | None, value: bytes) -> None:
    cache = PackedCache(1 << 20)
    kept = row(7, 1 << 62, custom)
    cache.put("m", "a/\u00fc", kept, value)
    assert cache.get("m", "a/\u00fc") == (kept, value)
    assert cache.get("m", "a") is cache.get("other", "a/\u00fc") is None


def test_the_same_path_of_another_mount_is_another_value() -> None:
    cache = PackedCache(1 << 20)
    for mount in ("m1", "m2"):
        cache.put(mount, "a", row(), mount.encode())
    assert [found[1] for mount in ("m1", "m2") if (found := cache.get(mount, "a"))] == [b"m1", b"m2"]
    cache.forget("m1", "a")
    assert cache.get("m1", "a") is None
    assert cache.get("m2", "a") is not None


def test_the_newer_version_takes_the_place_of_the_older() -> None:
    cache = PackedCache(1 << 20)
    cache.put("m", "a", row(1), b"old")
    size_bytes = cache.size_bytes
    cache.put("m", "a", row(2), b"new")
    assert cache.get("m", "a") == (row(2), b"new")
    assert (len(cache), cache.size_bytes) == (1, size_bytes)


def test_it_is_bounded_and_what_came_first_goes_first() -> None:
    record_bytes, room = RECORD_OVERHEAD_BYTES + 200, SHARDS * EVICTED_FRACTION * 4
    cache = PackedCache(room * record_bytes)
    for number in range(3 * room):
        cache.put("m", f"{number:05}", row(), bytes(100))
        assert cache.size_bytes <= room * record_bytes
    found = [number for number in range(3 * room) if cache.get("m", f"{number:05}")]
    assert len(found) == len(cache) > room * 3 // 4
    assert found[0] > room, "of the first third nothing is left"
    assert set(range(3 * room - room // 2, 3 * room)) <= set(found), "the latest ones, all of them"


def test_what_is_put_again_is_among_the_latest() -> None:
    room = SHARDS * EVICTED_FRACTION * 4
    cache = PackedCache(room * (RECORD_OVERHEAD_BYTES + 200))
    for number in range(3 * room):
        cache.put("m", f"{number:05}", row(), bytes(100))
        if number % 100 == 0:
            cache.put("m", "again", row(number), bytes(100))
        assert number < 100 or cache.get("m", "again") is not None


@pytest.mark.parametrize("hash_bits", [3, 60])
def test_what_is_found_is_what_was_put_last(monkeypatch, hash_bits: int) -> None:
    """As a dict says, with places that share a hash and without: a value may be missing, but is never an older one."""
    print("seed", SEED)
    rng, found = random.Random(SEED), 0
    monkeypatch.setattr(packed, "hash", lambda place: hash(place) % (1 << hash_bits), raising=False)
    cache, model = PackedCache(1 << 16), dict[tuple[str, str], tuple[KvVersion, bytes]]()
    for step in range(5000):
        where = rng.choice(["m1", "m2"]), f"{rng.randrange(20)}"
        if rng.random() < 0.3:
            kept = model[where] = row(step, rng.choice([0, step])), rng.randbytes(rng.randrange(400))
            cache.put(*where, *kept)
        elif rng.random() < 0.1:
            model.pop(where, None)
            cache.forget(*where)
        elif rng.random() < 0.002:
            model.clear()
            cache.clear()
        got = cache.get(*where)
        assert got is None or got == model[where]
        found += got is not None
        assert 0 <= cache.size_bytes <= 1 << 16
    assert found > 500, "too few to mean anything"


def test_forgetting_gives_room_back() -> None:
    cache = PackedCache(1 << 16)
    for number in range(10_000):
        cache.put("m", str(number), row(), CANARY)
        cache.forget("m", str(number))
    assert (len(cache), cache.size_bytes) == (0, 0)


@pytest.mark.parametrize("end", [PackedCache.clear, PackedCache.close])
def test_nothing_is_left_of_what_it_held(end) -> None:
    cache = PackedCache(1 << 20)
    cache.put("m", "a", row(), CANARY)
    end(cache)
    assert cache.get("m", "a") is None
    assert (len(cache), cache.size_bytes) == (0, 0)
    cache.put("m", "a", row(), CANARY)
    assert (cache.get("m", "a") is None) is (end is PackedCache.close)


def test_neither_plaintext_nor_paths_are_held_and_a_record_opens_at_its_own_place_only() -> None:
    cache = PackedCache(1 << 20)
    for path in ("a", "b"):
        cache.put("m", CANARY.decode() + path, row(custom={"k": CANARY.decode()}), CANARY)
    held = [(shard, number) for shard in cache._shards for number in shard]
    assert len(held) == 2
    assert not any(CANARY in shard[number] for shard, number in held)
    assert CANARY.decode() not in repr(cache) + repr(cache._shards)
    (one, first), (other, second) = held
    one[first], other[second] = other[second], one[first]
    assert [cache.get("m", CANARY.decode() + path) for path in ("a", "b")] == [None, None]


def test_places_that_share_a_hash_are_not_mistaken_for_each_other(monkeypatch) -> None:
    monkeypatch.setattr(packed, "hash", len, raising=False)
    cache = PackedCache(1 << 20)
    cache.put("m", "a", row(1), b"one")
    cache.put("m", "b", row(2), b"other")
    assert cache.get("m", "a") is None
    assert cache.get("m", "b") == (row(2), b"other")
    cache.forget("m", "c")
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_what_is_too_large_is_left_to_the_database() -> None:
    cache = PackedCache(1 << 20)
    cache.put("m", "a", row(), bytes(VALUE_BYTES_MAX + 1))
    cache.put("m", "b" * (PATH_CHARACTERS_MAX + 1), row(), b"")
    cache.put("m", "c", row(custom={"k": "v" * VALUE_BYTES_MAX}), b"")
    assert len(cache) == 0
