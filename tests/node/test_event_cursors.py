"""Who comes back to a stream of events with its cursor: nothing is missed, or it is told to read again."""

import pytest
from support.listening import listening, put

from node.events.cursor import Cursor, is_ours
from node.events.ring import Ring
from storage import command as c
from storage.rows import Epoch


async def test_who_comes_back_with_its_cursor_has_missed_nothing(site, wire):
    async with listening(site.url, site.token) as heard:
        await put(wire, "a")
        await put(wire, "b")
        first, _ = await heard.events(2)
    for name in "cd":
        await put(wire, name)
    async with listening(site.url, site.token, after=first.cursor) as again:
        await put(wire, "e")
        told = await again.events(4)
    assert [each.what[1][-1] for each in told] == list("bcde")
    async with listening(site.url, site.token, after=told[-1].metadata["vault_index"]) as last:
        await put(wire, "f")
        assert [each.what[1][-1] for each in await last.events(1)] == ["f"]


async def test_a_cursor_is_an_index_header_and_an_index_header_is_a_cursor(site, wire):
    answer = await put(wire, "a")
    await put(wire, "b")
    async with listening(site.url, site.token, after=answer.headers["x-vault-index"]) as heard:
        told = await heard.events(1)
    assert told[0].what[1] == "secret/data/b"
    read = await wire.ask("GET", "/v1/secret/data/b", headers={"X-Vault-Index": told[0].cursor})
    assert read.status == 200


@pytest.mark.parametrize(
    ("position", "epoch", "ours"),
    [
        (5, 0, True),
        (19, 0, True),
        (20, 0, False),
        (45, 0, False),
        (45, 1, False),
        (45, 2, False),
        (45, 3, True),
    ],
)
def test_a_cursor_that_may_be_of_a_lost_history_is_none_of_this_one(position, epoch, ours):
    """Epoch 0: an X-Vault-Index, which does not say whose history it is from."""
    epochs = [Epoch(1, "eu", 10), Epoch(2, "us", 20), Epoch(3, "eu", 40)]
    assert is_ours(Cursor("c", position, None, epoch), epochs) is ours
    assert is_ours(Cursor("c", position, None, epoch), epochs[:1])


async def test_a_batch_that_is_cut_in_the_middle_is_told_again(site, wire):
    core = site.core
    mount = next(each for each in core.unsealed.mounts() if each.path == "secret/")
    await put(wire, "x")
    await put(wire, "y")
    now = core.unsealed.now_ns()
    async with listening(site.url, site.token) as heard:
        await core.unsealed.submit(
            c.batch(now, *(c.KvDelete(now, mount.mount_id, name, ()) for name in "xy"))
        )
        first, second = await heard.events(2)
    async with listening(site.url, site.token, after=first.cursor) as again:
        assert [each.document["id"] for each in await again.events(2)] == [
            first.document["id"],
            second.document["id"],
        ]


async def test_beyond_what_is_kept_one_event_says_read_again_and_then_it_goes_on(site, wire):
    stream = site.core.events.stream
    async with listening(site.url, site.token) as heard:
        cursor = heard.cursor
    assert stream.fanout.ring.end == 0
    stream.fanout.ring = Ring(site.core.unsealed.position, 0, events_max=2)
    for name in "abcd":
        await put(wire, name)
    async with listening(site.url, site.token, after=cursor) as again:
        await put(wire, "e")
        told = await again.events(2)
    assert (told[0].type, told[0].name) == ("sys/events/reread", "reread")
    assert told[0].metadata["reason"] == "window"
    assert told[1].what[1] == "secret/data/e"


async def test_a_mount_that_goes_or_moves_makes_everybody_read_again(site, wire):
    async with listening(site.url, site.token, "kv-v2/data-write") as heard:
        await wire.ask("POST", "/v1/sys/remount", {"from": "secret/", "to": "moved/"})
        told = await heard.events(1)
        assert (told[0].type, told[0].metadata["reason"]) == ("sys/events/reread", "mounts")
        await put(wire, "a", mount="moved")
        assert (await heard.events(2))[1].what[1] == "moved/data/a"


async def test_a_version_that_expires_is_told_when_it_does_and_again_to_who_was_away(site, wire):
    await wire.ask("PUT", "/v1/secret/metadata/brief", {"delete_version_after": "1s"})
    await wire.ask("PUT", "/v1/secret/metadata/kept", {"delete_version_after": "1s"})
    async with listening(site.url, site.token) as heard:
        await put(wire, "brief")
        await put(wire, "kept")
        written = await heard.events(2)
        await wire.ask("PUT", "/v1/secret/destroy/kept", {"versions": [1]})
        expired = (await heard.events(4))[3]
    assert expired.what == ("kv-v2/expired", "secret/data/brief")
    assert expired.metadata["expired_versions"] == "[1]"
    assert (await wire.ask("GET", "/v1/secret/data/brief")).status == 404
    async with listening(site.url, site.token, after=written[1].cursor) as again:
        told = await again.events(2)
    assert [each.type for each in told] == ["kv-v2/destroy", "kv-v2/expired"]
