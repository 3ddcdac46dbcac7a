"""The cache of decrypted values by itself: bounded, and empty once told so. Beside the store: test_kv_cache.py."""

from storage.cache import VALUE_OVERHEAD_BYTES, CachedValue, ValueCache
from storage.rows import KvVersion


def value(text: bytes, version: int = 1) -> CachedValue:
    return CachedValue(KvVersion(version, 1, 0, False, None), text)


def test_what_is_kept_is_found_by_the_version_that_was_asked_for() -> None:
    cache = ValueCache(1 << 20)
    cache.put("m", "a", 0, value(b"two", 2))
    cache.put("m", "a", 1, value(b"one", 1))
    assert [cache.get("m", "a", v).value for v in (0, 1)] == [b"two", b"one"]  # type: ignore[union-attr]
    assert cache.get("m", "a", 2) is None
    assert cache.get("other", "a", 0) is None


def test_a_forgotten_value_is_emptied_for_whoever_still_holds_it() -> None:
    cache = ValueCache(1 << 20)
    held = value(b"secret")
    cache.put("m", "a", 0, held)
    cache.attach(held, b"derived from the secret", 100)
    cache.forget("m", "a")
    assert not held.live
    assert (held.value, held.attached) == (b"", None)
    assert cache.get("m", "a", 0) is None
    assert cache.size_bytes == 0


def test_nothing_is_attached_to_what_is_gone() -> None:
    cache = ValueCache(1 << 20)
    held = value(b"secret")
    cache.put("m", "a", 0, held)
    cache.forget("m", "a")
    cache.attach(held, b"derived", 100)
    assert held.attached is None
    assert cache.size_bytes == 0


def test_a_closed_cache_keeps_nothing() -> None:
    cache = ValueCache(1 << 20)
    held = value(b"secret")
    cache.put("m", "a", 0, held)
    cache.close()
    cache.put("m", "b", 0, value(b""))
    assert cache.get("m", "a", 0) is cache.get("m", "b", 0) is None
    assert held.value == b""


def test_no_value_shows() -> None:
    cache = ValueCache(1 << 20)
    cache.put("m", "path", 0, held := value(b"canary"))
    for text in (repr(cache), repr(held), str(cache), str(held)):
        assert "canary" not in text
        assert "path" not in text


def test_its_size_is_bounded_and_what_is_used_stays_longest() -> None:
    entry = VALUE_OVERHEAD_BYTES + 10
    cache = ValueCache(10 * entry)
    for number in range(5):
        cache.put("m", str(number), 0, value(b"x" * 10))
    for number in range(100, 1000):
        assert cache.get("m", "3", 0) is not None, "what is read all the time is never evicted"
        for _ in range(2):
            cache.put("m", str(number), 0, value(b"x" * 10))
        assert cache.size_bytes <= 10 * entry
    assert cache.get("m", "999", 0) is not None
    assert cache.get("m", "4", 0) is None


def test_what_is_asked_for_once_pushes_nothing_out() -> None:
    cache = ValueCache(100 * (VALUE_OVERHEAD_BYTES + 10))
    for number in range(40):
        cache.put("m", f"hot{number}", 0, value(b"x" * 10))
    for number in range(10_000):
        cache.put("m", f"once{number}", 0, value(b"x" * 10))
    assert all(cache.get("m", f"hot{number}", 0) is not None for number in range(40))


def test_what_is_larger_than_the_cache_is_not_kept() -> None:
    cache = ValueCache(VALUE_OVERHEAD_BYTES + 10)
    cache.put("m", "small", 0, value(b"x" * 10))
    cache.put("m", "large", 0, value(b"x" * 11))
    assert cache.get("m", "large", 0) is None
    assert cache.get("m", "small", 0) is not None


def test_what_is_attached_counts() -> None:
    cache = ValueCache(3 * VALUE_OVERHEAD_BYTES)
    held = value(b"")
    cache.put("m", "a", 0, held)
    cache.put("m", "b", 0, value(b""))
    cache.attach(held, b"", 2 * VALUE_OVERHEAD_BYTES)
    assert cache.size_bytes <= 3 * VALUE_OVERHEAD_BYTES
