"""What the client's cache answers, and what it must not: the same with threads and with asyncio."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from strongroom import (
    FRESH,
    LINEARIZABLE,
    STALE_OK,
    Cache,
    Consistency,
    Forbidden,
    NotFound,
    Token,
    Unavailable,
)
from strongroom._cache import ASK_AGAIN_S, ENTRIES_MAX, Store
from support.patience import PATIENCE_S
from support.replies import DENIED, READ, SEALED, SECRET, WELL, calls
from support.stub_api import Reply, stub_api

Make = Callable[..., Any]


def test_a_cached_secret_is_not_asked_for_again(make: Make) -> None:
    with stub_api(WELL | {READ + "?version=3": SECRET}) as api:
        client = make(api.address, Token("s.t"), cache=Cache())
        for _ in range(3):
            client(lambda c: c.kv.get("app"))
        assert calls(api, READ) == 1
        client(lambda c: c.kv.get("app", version=3))
        assert calls(api, READ + "?version=3") == 1
        client.client.invalidate("app")
        client.at_once(lambda c: c.kv.get("app"), 5)
        assert calls(api, READ) == 2, "once for all who ask at the same time"


def test_ones_own_write_is_seen(make: Make) -> None:
    with stub_api(WELL) as api:
        client = make(api.address, Token("s.t"), cache=Cache())
        client(lambda c: c.kv.get("app"))
        client(lambda c: c.kv.put("app", {}))
        client(lambda c: c.kv.get("app"))
        assert calls(api, READ) == 2


def test_while_nobody_can_be_asked_the_old_answer_is_given_and_said_to_be_old(make: Make) -> None:
    with stub_api(WELL) as api:
        client = make(api.address, Token("s.t"), cache=Cache(fresh_s=0, stale_s=60), attempts_max=1)
        assert client(lambda c: c.kv.get("app")).stale is False
        api.replies[READ] = api.replies[READ + "?version=3"] = SEALED
        old = client(lambda c: c.kv.get("app"))
        assert old.stale is True
        assert old["password"].reveal() == "pw"
        assert 0 < old.age_s < 60
        with pytest.raises(Unavailable):
            client(lambda c: c.kv.get("app", version=3))


def test_while_nobody_can_be_asked_few_wait_to_find_that_out(make: Make) -> None:
    with stub_api(WELL) as api:
        client = make(api.address, Token("s.t"), cache=Cache(fresh_s=0, stale_s=600))
        client(lambda c: c.kv.get("app"))
        api.replies[READ] = SEALED
        before, began = calls(api, READ), time.monotonic()
        for _ in range(20):
            assert client(lambda c: c.kv.get("app")).stale is True
        assert calls(api, READ) - before <= 1 + (time.monotonic() - began) / ASK_AGAIN_S
        api.replies[READ] = SECRET
        while client(lambda c: c.kv.get("app")).stale:
            assert time.monotonic() < began + PATIENCE_S
        asked = calls(api, READ)
        assert client(lambda c: c.kv.get("app")).stale is False
        assert calls(api, READ) == asked + 1, "it is asked again by every call"


def test_old_answers_have_an_end(make: Make) -> None:
    with stub_api(WELL) as api:
        client = make(api.address, Token("s.t"), cache=Cache(fresh_s=0, stale_s=0.001), attempts_max=1)
        client(lambda c: c.kv.get("app"))
        api.replies[READ] = SEALED
        time.sleep(0.002)
        with pytest.raises(Unavailable):
            client(lambda c: c.kv.get("app"))


@pytest.mark.parametrize("refusal", [DENIED, (404, {"errors": []})], ids=["403", "404"])
def test_who_may_not_read_any_more_does_not_read_from_the_cache(make: Make, refusal: Reply) -> None:
    """A revoked right is revoked here too, also when the nodes go away afterwards."""
    with stub_api(WELL) as api:
        client = make(api.address, Token("s.t"), cache=Cache(fresh_s=0, stale_s=60), attempts_max=1)
        client(lambda c: c.kv.get("app"))
        api.replies[READ] = refusal
        with pytest.raises((Forbidden, NotFound)):
            client(lambda c: c.kv.get("app"))
        api.replies[READ] = SEALED
        with pytest.raises(Unavailable):
            client(lambda c: c.kv.get("app"))


def test_an_answer_from_before_an_invalidation_is_not_kept(make: Make) -> None:
    """Or a change that is made while a read travels would stay unseen."""
    with stub_api(WELL) as api:
        client = make(api.address, Token("s.t"), cache=Cache())

        def changed_meanwhile(_: str | None) -> Reply:
            client.client.invalidate("app")
            return SECRET

        api.replies[READ] = changed_meanwhile
        client(lambda c: c.kv.get("app"))
        api.replies[READ] = SECRET
        client(lambda c: c.kv.get("app"))
        assert calls(api, READ) == 2


def test_a_cache_has_a_limit(make: Make) -> None:
    names = [f"a{i}" for i in range(5)]
    with stub_api(WELL | {f"GET /v1/secret/data/{name}": SECRET for name in names}) as api:
        client = make(api.address, Token("s.t"), cache=Cache(entries_max=2))
        for name in (*names, "a4", "a0"):
            client(lambda c, name=name: c.kv.get(name))
        assert calls(api, "GET /v1/secret/data/a4") == 1
        assert calls(api, "GET /v1/secret/data/a0") == 2


def test_changes_of_other_secrets_do_not_keep_an_answer_out_of_the_cache(make: Make) -> None:
    """Where much is written, something is changed during every read."""
    with stub_api(WELL) as api:
        client = make(api.address, Token("s.t"), cache=Cache())

        def others_change(_: str | None) -> Reply:
            client.client.invalidate("other")
            return SECRET

        api.replies[READ] = others_change
        for _ in range(3):
            client(lambda c: c.kv.get("app"))
        assert calls(api, READ) == 1


@pytest.mark.parametrize("wanted", [FRESH, LINEARIZABLE, Consistency.max_staleness(5)], ids=lambda c: c.value)
def test_a_read_that_says_what_it_may_see_is_answered_by_a_node(make: Make, wanted: Consistency) -> None:
    with stub_api(WELL) as api:
        client = make(api.address, Token("s.t"), cache=Cache(), attempts_max=1)
        client(lambda c: c.kv.get("app"))
        client(lambda c: c.kv.get("app", consistency=wanted))
        client(lambda c: c.kv.get("app", consistency=wanted))
        assert calls(api, READ) == 3
        for _ in range(2):
            client(lambda c: c.kv.get("app", consistency=STALE_OK))
        assert calls(api, READ) == 4
        api.replies[READ] = SEALED
        with pytest.raises(Unavailable):
            client(lambda c: c.kv.get("app", consistency=wanted))
        assert client(lambda c: c.kv.get("app")).info.version == 3


def test_who_may_not_read_one_version_any_more_reads_none_from_the_cache(make: Make) -> None:
    with stub_api(WELL) as api:
        client = make(api.address, Token("s.t"), cache=Cache())
        client(lambda c: c.kv.get("app"))
        api.replies[READ] = api.replies[READ + "?version=3"] = DENIED
        for version in (3, None):
            with pytest.raises(Forbidden):
                client(lambda c, version=version: c.kv.get("app", version=version))


def test_of_changes_that_are_too_many_to_remember_the_newest_that_was_forgotten_counts_for_all() -> None:
    kept = Store(Cache(), time.monotonic)
    for number in range(ENTRIES_MAX + 3):
        kept.invalidate("secret", f"n{number}", f"index-{number}")
    assert kept.index("secret", "n2") == kept.index("secret", "unheard") == "index-2"
    assert kept.index("secret", "n7") == "index-7"
