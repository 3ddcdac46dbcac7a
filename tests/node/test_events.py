"""sys/events/subscribe over a real listener: what is told to whom, and when it ends."""

import asyncio
import contextlib
import itertools
import json
import socket

import aiohttp
import httpx
import pytest
from support.groups import eventually
from support.httpfixture import dev_core, serve
from support.listening import listening
from support.patience import PATIENCE_S

from node.api import events as node_events
from node.errors import AuditFailed
from node.events import audience
from node.events import fanout as fanouts
from node.events import stream as streams
from node.events import subscription as subscriptions
from node.events.cursor import Cursor, is_ours
from node.events.ring import Ring
from storage import command as c
from storage.rows import Epoch

READER = """
path "secret/data/app/*" { capabilities = ["read"] }
path "secret/metadata/app/*" { capabilities = ["read"] }
path "sys/events/subscribe/kv*" { capabilities = ["read"] }
"""


@pytest.fixture
async def site(tmp_path):
    async with dev_core(tmp_path) as (core, token), serve(core, token=token) as site:
        yield site


@pytest.fixture
async def wire(site):
    return await site.connect()


async def put(wire, path, value="v", mount="secret", **options):
    answer = await wire.ask("PUT", f"/v1/{mount}/data/{path}", {"data": {"x": value}, "options": options})
    assert answer.status == 200, answer.body
    return answer


async def token_of(wire, policy, *, name="p", **more):
    assert (await wire.ask("PUT", f"/v1/sys/policies/acl/{name}", {"policy": policy})).status == 204
    made = await wire.ask("PUT", "/v1/auth/token/create", {"policies": [name], **more})
    return made.json["auth"]["client_token"]


async def records(site, tmp_path):
    return [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]


async def test_everything_that_happens_to_a_secret_is_told_with_vaults_types_and_without_its_value(
    site, wire
):
    async with listening(site.url, site.token) as heard:
        await put(wire, "app/db", "hunter2")
        patch = {"Content-Type": "application/merge-patch+json"}
        assert (
            await wire.ask("PATCH", "/v1/secret/data/app/db", {"data": {"y": "hunter3"}}, headers=patch)
        ).status == 200
        await wire.ask("DELETE", "/v1/secret/data/app/db")
        await wire.ask("PUT", "/v1/secret/undelete/app/db", {"versions": [2]})
        await wire.ask("PUT", "/v1/secret/delete/app/db", {"versions": [1, 2]})
        await wire.ask("PUT", "/v1/secret/destroy/app/db", {"versions": [1]})
        await wire.ask("PUT", "/v1/secret/metadata/app/db", {"custom_metadata": {"a": "b"}})
        await wire.ask("PATCH", "/v1/secret/metadata/app/db", {"max_versions": 3}, headers=patch)
        await wire.ask("DELETE", "/v1/secret/metadata/app/db")
        await wire.ask("PUT", "/v1/secret/config", {"max_versions": 7})
        told = await heard.events(10)
    assert [each.type for each in told] == [
        *("kv-v2/data-write", "kv-v2/data-patch", "kv-v2/data-delete", "kv-v2/undelete", "kv-v2/delete"),
        *("kv-v2/destroy", "kv-v2/metadata-write", "kv-v2/metadata-patch", "kv-v2/metadata-delete"),
        "kv-v2/config-write",
    ]
    assert told[0].metadata["path"] == told[0].metadata["data_path"] == "secret/data/app/db"
    assert told[1].metadata["current_version"] == "2"
    assert told[4].metadata["deleted_versions"] == "[1,2]"
    assert told[4].metadata["path"] == "secret/delete/app/db"
    assert told[4].metadata["data_path"] == "secret/data/app/db"
    assert told[6].metadata["data_path"] == "secret/metadata/app/db"
    assert told[0].document["data"]["plugin_info"]["mount_path"] == "secret/"
    assert told[0].document["specversion"] == "1.0"
    assert told[0].document["time"].endswith("Z")
    assert len({each.document["id"] for each in told}) == 10
    assert "hunter" not in json.dumps([each.document for each in told])


async def test_nothing_is_told_of_what_changed_nothing(site, wire):
    async with listening(site.url, site.token) as heard:
        refused = await wire.ask("PUT", "/v1/secret/data/a", {"data": {}, "options": {"cas": 3}})
        assert refused.status == 400
        await wire.ask("DELETE", "/v1/secret/data/never-there")
        await put(wire, "a")
        told = await heard.events(1)
    assert [each.what for each in told] == [("kv-v2/data-write", "secret/data/a")]


async def test_version_1_has_its_own_types_and_paths(site, wire):
    await wire.ask("POST", "/v1/sys/mounts/old", {"type": "kv", "options": {"version": "1"}})
    async with listening(site.url, site.token, "kv-v1/*") as heard:
        await put(wire, "not-of-this-type")
        await wire.ask("PUT", "/v1/old/a/b", {"x": "1"})
        await wire.ask("DELETE", "/v1/old/a/b")
        told = await heard.events(2)
    assert [each.what for each in told] == [("kv-v1/write", "old/a/b"), ("kv-v1/delete", "old/a/b")]


async def test_a_websocket_is_told_the_same_and_pings_work(site, wire):
    async with (
        aiohttp.ClientSession(headers={"X-Vault-Token": site.token}) as session,
        session.ws_connect(f"{site.url}/v1/sys/events/subscribe/kv-v2/data-*?json=true") as ws,
    ):
        await ws.ping()
        await put(wire, "over/websocket")
        document = json.loads(await asyncio.wait_for(ws.receive_str(), PATIENCE_S))
        assert document["data"]["event_type"] == "kv-v2/data-write"
        assert document["data"]["event"]["metadata"]["data_path"] == "secret/data/over/websocket"
        large = "l" * 300
        await put(wire, large)
        assert large in await asyncio.wait_for(ws.receive_str(), PATIENCE_S)


@pytest.mark.parametrize(
    ("pattern", "query", "headers", "status", "words"),
    [
        ("kv-v2/data-write", {}, {"Accept": "application/json"}, 400, "text/event-stream"),
        ("database/rotate", {}, {}, 400, "no events of type"),
        ("*", {"filter": "data_path = x"}, {}, 400, "filter"),
        ("*", {"filter": 'operation matches "a*"'}, {}, 400, "matches"),
        ("*", {"filter": "secret == x"}, {}, 400, "knows no"),
        ("*", {"filter": "(" * 100 + "operation == x"}, {}, 400, "deeply"),
        ("*", {"namespaces": "team-a"}, {}, 400, "namespace"),
        ("*", {"after": "garbage"}, {}, 400, "cursor"),
        ("*", {"timeout": "soon"}, {}, 400, "timeout"),
        ("*", {}, {"X-Vault-Wrap-TTL": "60"}, 400, "wrapped"),
        ("*", {}, {"X-Vault-Token": "s.unknown"}, 403, "permission denied"),
    ],
)
async def test_what_is_not_offered_is_refused_with_the_reason(site, pattern, query, headers, status, words):
    sent = {"X-Vault-Token": site.token, "Accept": "text/event-stream"} | headers
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{site.url}/v1/sys/events/subscribe/{pattern}", params=query, headers=sent)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["errors"][0]


async def test_a_websocket_gets_json_or_a_clear_error(site):
    async with aiohttp.ClientSession(headers={"X-Vault-Token": site.token}) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"{site.url}/v1/sys/events/subscribe/kv*")
    assert refused.value.status == 400


async def test_only_what_the_policies_let_one_read_is_told_and_a_change_of_them_counts_at_once(site, wire):
    token = await token_of(wire, READER)
    async with listening(site.url, token, "kv*") as heard:
        await put(wire, "other/secret")
        await put(wire, "app/mine")
        assert [each.what[1] for each in await heard.events(1)] == ["secret/data/app/mine"]
        wider = READER + 'path "secret/data/other/*" { capabilities = ["list"] }'
        await wire.ask("PUT", "/v1/sys/policies/acl/p", {"policy": wider})
        await put(wire, "other/secret")
        await heard.events(2)
        denied = READER + 'path "secret/data/app/no" { capabilities = ["deny"] }'
        await wire.ask("PUT", "/v1/sys/policies/acl/p", {"policy": denied})
        await put(wire, "app/no")
        await put(wire, "other/secret")
        await put(wire, "app/yes")
        told = [each.what[1] for each in await heard.events(3)]
        assert told[1:] == ["secret/data/other/secret", "secret/data/app/yes"]
        await wire.ask("PUT", "/v1/sys/policies/acl/p", {"policy": 'path "x" { capabilities = ["read"] }'})
        assert "do not allow" in await heard.ended()


async def test_vaults_capability_to_subscribe_tells_of_secrets_that_cannot_be_read(site, wire):
    policy = """
    path "secret/data/app/*" { capabilities = ["subscribe"] subscribe_event_types = ["kv-v2/data-w*"] }
    path "sys/events/subscribe/*" { capabilities = ["read"] }
    """
    token = await token_of(wire, policy)
    async with listening(site.url, token) as heard:
        await put(wire, "app/a")
        await wire.ask("DELETE", "/v1/secret/data/app/a")
        await put(wire, "app/b")
        told = [each.what for each in await heard.events(2)]
    assert told == [("kv-v2/data-write", "secret/data/app/a"), ("kv-v2/data-write", "secret/data/app/b")]


async def test_who_may_not_subscribe_is_refused(site, wire):
    token = await token_of(wire, 'path "secret/*" { capabilities = ["read", "list"] }')
    with pytest.raises(httpx.HTTPStatusError, match="403"):
        async with listening(site.url, token):
            pass


@pytest.mark.parametrize(
    "above", [0, 1, 2, 5], ids=["itself", "parent", "grandparent", "too far to remember"]
)
async def test_a_revoked_token_hears_nothing_more_and_its_stream_ends(site, wire, above, monkeypatch):
    monkeypatch.setattr(audience, "LINEAGE_MAX", 4)
    family = [await token_of(wire, READER + 'path "auth/token/create" { capabilities = ["update"] }')]
    for _ in range(5):
        parent = await site.connect(family[-1])
        made = await parent.ask("PUT", "/v1/auth/token/create", {"policies": ["p"]})
        family.append(made.json["auth"]["client_token"])
    async with listening(site.url, family[-1], "kv*") as heard:
        victim = family[-1 - above]
        assert (await wire.ask("PUT", "/v1/auth/token/revoke", {"token": victim})).status == 204
        await put(wire, "app/after")
        assert "not valid" in await heard.ended()
        assert heard.told == []


async def test_a_token_that_ends_ends_its_stream_unless_it_was_renewed(site, wire):
    short = await token_of(wire, READER, ttl="4s")
    renewed = await token_of(wire, READER, name="q", ttl="4s")
    async with (
        listening(site.url, short, "kv*") as brief,
        listening(site.url, renewed, "kv*") as long,
    ):
        await (await site.connect(renewed)).ask("PUT", "/v1/auth/token/renew-self", {"increment": "1h"})
        assert "not valid" in await brief.ended()
        await put(wire, "app/x")
        await long.events(1)


async def test_who_shares_an_interest_with_one_whose_rights_changed_misses_nothing(site, wire):
    """Two tokens of the same policies; one of them gets another policy by its entity."""
    narrow = await token_of(wire, 'path "sys/events/subscribe/*" { capabilities = ["read"] }', name="narrow")
    await wire.ask(
        "PUT", "/v1/sys/policies/acl/wide", {"policy": 'path "secret/*" { capabilities = ["read"] }'}
    )
    await wire.ask("POST", "/v1/sys/auth/userpass", {"type": "userpass"})
    user = {"password": "pw-of-ann-1", "token_policies": ["narrow"], "token_no_default_policy": True}
    await wire.ask("POST", "/v1/auth/userpass/users/ann", user)
    login = (await wire.ask("PUT", "/v1/auth/userpass/login/ann", {"password": "pw-of-ann-1"})).json["auth"]
    async with (
        listening(site.url, narrow) as one,
        listening(site.url, login["client_token"]) as other,
    ):
        await put(wire, "before")
        entity = f"/v1/identity/entity/id/{login['entity_id']}"
        assert (await wire.ask("POST", entity, {"policies": ["wide"]})).status < 300
        await put(wire, "after")
        assert [each.what[1] for each in await other.events(1)] == ["secret/data/after"]
        assert one.told == []


async def test_a_filter_and_a_type_choose(site, wire):
    chosen = 'data_path == "secret/data/one" and not operation == "data-delete"'
    async with listening(site.url, site.token, "kv-v2/*", filter=chosen) as heard:
        await put(wire, "two")
        await put(wire, "one")
        await wire.ask("DELETE", "/v1/secret/data/one")
        await put(wire, "one")
        told = [each.what for each in await heard.events(2)]
    assert told == [("kv-v2/data-write", "secret/data/one")] * 2


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


async def slow_client(site):
    """A subscriber over a connection that holds little, and the writer whose transport can be paused."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((site.host, site.port))
    reader, writer = await asyncio.open_connection(sock=connection)
    writer.write(
        "GET /v1/sys/events/subscribe/* HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
        f"X-Vault-Token: {site.token}\r\n\r\n".encode()
    )
    while not site.core.events.subscribers:
        await asyncio.sleep(0.01)
    (subscription,) = site.core.events.stream.audience.all
    subscription.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return reader, writer, subscription


async def test_a_slow_subscriber_loses_nothing_and_holds_up_nobody(site, wire, monkeypatch):
    monkeypatch.setattr(subscriptions, "UNSENT_BYTES_MAX", 2000)
    reader, writer, slow = await slow_client(site)
    try:
        writer.transport.pause_reading()
        names = [f"n{n}" + "x" * 1000 for n in range(2000)]
        count = 0
        async with listening(site.url, site.token) as quick:
            while slow.stalled_at is None or count < 200:
                await put(wire, names[count])
                count += 1
            await quick.events(count)
        assert slow.behind
        assert slow.transport.get_write_buffer_size() < 2000 + fanouts.CARRIED_BYTES_MAX + 5000
        writer.transport.resume_reading()
        told = []
        while len(told) < count:
            line = await asyncio.wait_for(reader.readline(), PATIENCE_S)
            if line.startswith(b"data: "):
                told.append(json.loads(line[6:])["data"]["event"]["metadata"]["data_path"])
        assert told == [f"secret/data/{name}" for name in names[:count]]
    finally:
        writer.close()


async def put_several(wire, name, count):
    for number in range(count):
        await put(wire, f"{name}-{number}")


async def never(fanout, audience):
    """Nothing happens meanwhile."""


async def rights_change(fanout, audience):
    for turns in itertools.cycle(range(7)):
        audience.everybody_out_of_date()
        for _ in range(turns):
            await asyncio.sleep(0)


async def everybody_is_looked_at(fanout, audience):
    for turns in itertools.cycle(range(7)):
        for each in audience.all:
            fanout.look_again(each)
        for _ in range(turns):
            await asyncio.sleep(0)


@pytest.mark.parametrize("meanwhile", [never, rights_change, everybody_is_looked_at])
@pytest.mark.parametrize("waiting_max", [4, 20_000], ids=["from the ring", "in rounds"])
async def test_many_subscribers_are_told_in_turns_each_in_order(
    site, wire, monkeypatch, waiting_max, meanwhile
):
    """One write a turn: most events wait, for the next round or, where only four may wait, in the ring."""
    monkeypatch.setattr(fanouts, "WRITES_MAX", 1)
    monkeypatch.setattr(fanouts, "UNDELIVERED_MAX", waiting_max)
    stream = site.core.events.stream
    task = asyncio.create_task(meanwhile(stream.fanout, stream.audience))
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(task.cancel)
        heard = [await stack.enter_async_context(listening(site.url, site.token)) for _ in range(5)]
        wires = [await site.connect() for _ in range(10)]
        await asyncio.gather(*(put_several(each, f"of{number}", 8) for number, each in enumerate(wires)))
        told = [[each.what[1] for each in await listener.events(80)] for listener in heard]
        assert told[1:] == told[:-1]
        assert len(set(told[0])) == 80


async def test_what_few_asked_for_does_not_wait_until_all_have_been_told_something_else(
    site, wire, monkeypatch
):
    """Turns go round among those who want different things."""
    monkeypatch.setattr(fanouts, "WRITES_MAX", 1)
    order = []
    real = subscriptions.Subscription.write
    monkeypatch.setattr(
        subscriptions.Subscription,
        "write",
        lambda self, data, count=1: (
            order.append(self.filter.text) if count else None,
            real(self, data, count),
        ),
    )
    own = 'data_path == "secret/data/own"'
    async with contextlib.AsyncExitStack() as stack:
        everything = [await stack.enter_async_context(listening(site.url, site.token)) for _ in range(8)]
        one = await stack.enter_async_context(listening(site.url, site.token, filter=own))
        mount = next(each for each in site.core.unsealed.mounts() if each.path == "secret/")
        await put(wire, "other")
        await put(wire, "own")
        for each in (*everything, one):
            await each.events(1)
        order.clear()
        now = site.core.unsealed.now_ns()
        names = ("other", "own")
        await site.core.unsealed.submit(
            c.batch(now, *(c.KvDelete(now, mount.mount_id, n, ()) for n in names))
        )
        assert len(await one.events(2)) == 2
        for each in everything:
            await each.events(4)
    assert order.index(own) < 4


async def test_an_old_http_client_is_told_that_there_are_no_events_for_it(site):
    wire = await site.connect()
    await wire.send(
        f"GET /v1/sys/events/subscribe/* HTTP/1.0\r\nHost: x\r\nAccept: text/event-stream\r\n"
        f"X-Vault-Token: {site.token}\r\n\r\n".encode()
    )
    answer = await wire.answer()
    assert (answer.status, answer.json["errors"]) == (400, ["events need HTTP/1.1"])


async def test_one_that_takes_nothing_for_long_is_cut_off(site, wire, monkeypatch):
    monkeypatch.setattr(streams, "STALL_S", 0.2)
    async with listening(site.url, site.token):
        (each,) = site.core.events.stream.audience.all
        each.stalled_at = asyncio.get_running_loop().time() - 1
        assert str(await asyncio.wait_for(asyncio.shield(each.ended), 10)) == "the client takes too little"


async def test_sealing_and_draining_end_streams_with_the_reason(site, wire):
    async with listening(site.url, site.token) as heard:
        await wire.ask("PUT", "/v1/sys/seal")
        assert await heard.ended() == "this node is sealed"


async def test_a_stream_whose_answer_begins_while_the_node_is_sealed_ends_too(site, wire, monkeypatch):
    real = node_events._Sse.open

    async def sealed_meanwhile(self, lost):
        transport = await real(self, lost)
        await wire.ask("PUT", "/v1/sys/seal")
        return transport

    monkeypatch.setattr(node_events._Sse, "open", sealed_meanwhile)
    async with listening(site.url, site.token) as heard:
        assert await heard.ended() == "this node is sealed"


async def test_a_websocket_is_closed_with_a_code_that_says_come_elsewhere(site):
    async with (
        aiohttp.ClientSession(headers={"X-Vault-Token": site.token}) as session,
        session.ws_connect(f"{site.url}/v1/sys/events/subscribe/*?json=true") as ws,
    ):
        while not site.core.events.subscribers:
            await asyncio.sleep(0.01)
        site.core.events.end_all(subscriptions.End.STOPPING)
        message = await asyncio.wait_for(ws.receive(), PATIENCE_S)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, aiohttp.WSCloseCode.GOING_AWAY)


async def test_begin_and_end_are_in_the_audit_log(site, tmp_path, wire):
    async with listening(site.url, site.token) as heard:
        begun = await records(site, tmp_path)
        assert [each["type"] for each in begun[-2:]] == ["request", "response"]
        assert begun[-2]["request"]["path"] == "sys/events/subscribe/*"
        await put(wire, "a")
        await heard.events(1)
    while site.core.events.subscribers:
        await asyncio.sleep(0.01)
    end = (await records(site, tmp_path))[-1]
    assert end["type"] == "response"
    assert end["request"]["path"] == "sys/events/subscribe/*"
    assert end["request"]["id"] == begun[-1]["request"]["id"]
    assert "the client went away" in end["error"]
    assert end["response"]["data"] == {"events": 1}


async def test_the_end_is_recorded_and_the_place_free_also_if_the_connections_task_is_cancelled(
    site, tmp_path, wire
):
    before = asyncio.all_tasks()
    async with listening(site.url, site.token, "kv*"):
        [serving] = [each for each in asyncio.all_tasks() - before if "start" in each.get_coro().__qualname__]
        serving.cancel()
        await eventually(lambda: site.core.events._places == 0, "a place that is free again", PATIENCE_S)
        last = (await records(site, tmp_path))[-1]
        assert "subscription ended" in last["error"]


async def test_there_is_room_for_so_many_and_no_more(tmp_path):
    async with (
        dev_core(tmp_path, event_subscribers_max=1) as (core, token),
        serve(core, token=token) as site,
    ):
        async with listening(site.url, token):
            with pytest.raises(httpx.HTTPStatusError, match="503"):
                async with listening(site.url, token):
                    pass
        while core.events.subscribers:
            await asyncio.sleep(0.01)
        async with listening(site.url, token):
            pass


async def outcome_of_opening(site, held):
    """200 for a subscription, which `held` keeps, or the status of the refusal."""
    try:
        await held.enter_async_context(listening(site.url, site.token))
    except httpx.HTTPStatusError as refused:
        return refused.response.status_code
    return 200


async def test_who_comes_at_the_same_time_as_others_does_not_slip_past_the_limit(tmp_path, monkeypatch):
    """All of them are admitted before any of them has its answer."""
    real, waiting, all_here = node_events._Sse.open, [], asyncio.Event()

    async def together(self, lost):
        waiting.append(self)
        if len(waiting) >= 5:
            all_here.set()
        await asyncio.wait_for(all_here.wait(), 30)
        return await real(self, lost)

    monkeypatch.setattr(node_events._Sse, "open", together)
    async with (
        dev_core(tmp_path, event_subscribers_max=5) as (core, token),
        serve(core, token=token) as site,
    ):
        async with contextlib.AsyncExitStack() as held:
            seen = await asyncio.gather(*(outcome_of_opening(site, held) for _ in range(25)))
            assert sorted(seen) == [200] * 5 + [503] * 20
        while core.events.subscribers:
            await asyncio.sleep(0.01)
        async with contextlib.AsyncExitStack() as held:
            assert [await outcome_of_opening(site, held) for _ in range(6)] == [200] * 5 + [503]


@pytest.mark.parametrize("spelling", ["events", "%65vents"])
async def test_who_was_admitted_and_got_no_answer_gives_the_place_back(tmp_path, monkeypatch, spelling):
    """The record of the answer cannot be written; or the path is spelled so that it cannot be a stream."""
    async with (
        dev_core(tmp_path, event_subscribers_max=1) as (core, token),
        serve(core, token=token) as site,
    ):
        wire = await site.connect()
        asked = f"/v1/sys/{spelling}/subscribe/kv-v2/data-write"
        with monkeypatch.context() as failing:
            if spelling == "events":
                failing.setattr(core.audit, "response", failing_record)
            sent = {"Accept": "text/event-stream"}
            assert (await wire.ask("GET", asked, headers=sent)).status >= 400
        async with listening(site.url, token):
            pass


def failing_record(*_, **__):
    raise AuditFailed("the disk is full")


async def test_metrics_count_them(site, wire):
    async with listening(site.url, site.token) as heard:
        await put(wire, "a")
        await heard.events(1)
        text = (await wire.ask("GET", "/v1/sys/metrics?format=prometheus")).body.decode()
    assert "strongroom_event_subscribers 1.0" in text
    assert "strongroom_events_sent_total 1.0" in text


async def test_help_and_the_openapi_document_know_the_path(site, wire):
    helped = await wire.ask("GET", "/v1/sys/events/subscribe/kv-v2/data-write?help=1")
    assert "event_type" in helped.body.decode()
    document = (await wire.ask("GET", "/v1/sys/internal/specs/openapi")).json
    assert "/sys/events/subscribe/{event_type}" in document["paths"]
