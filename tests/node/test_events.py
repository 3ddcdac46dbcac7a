"""sys/events/subscribe over a real listener: what is told, and to whom."""

import asyncio
import json

import aiohttp
import httpx
import pytest
from support.listening import listening, put
from support.patience import PATIENCE_S

from node.events import audience
from storage import command as c

READER = """
path "secret/data/app/*" { capabilities = ["read"] }
path "secret/metadata/app/*" { capabilities = ["read"] }
path "sys/events/subscribe/kv*" { capabilities = ["read"] }
"""


async def token_of(wire, policy, *, name="p", **more):
    assert (await wire.ask("PUT", f"/v1/sys/policies/acl/{name}", {"policy": policy})).status == 204
    made = await wire.ask("PUT", "/v1/auth/token/create", {"policies": [name], **more})
    return made.json["auth"]["client_token"]


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


async def test_what_happened_to_a_secret_is_told_although_it_is_gone_in_the_same_turn(site, wire):
    """A region that follows applies much at a time."""
    store = site.core.unsealed
    await put(wire, "app/db", "1")
    where = next(each for each in store.mounts() if each.path == "secret/").mount_id, "app/db"
    now = store.now_ns()
    async with listening(site.url, site.token) as heard:
        await asyncio.gather(
            store.submit(c.KvDestroy(now, *where, (1,))),
            store.submit(c.KvMetadataDelete(now, *where)),
            store.submit(c.KvUndelete(now, *where, (1,))),  # of nothing: it is no event
        )
        await put(wire, "app/next", "1")
        told = await heard.events(3)
    assert [each.type for each in told] == ["kv-v2/destroy", "kv-v2/metadata-delete", "kv-v2/data-write"]


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


async def test_rules_about_a_subscriptions_parameters_hold_for_as_long_as_it_lasts(site, wire):
    reads = 'path "secret/data/app/*" { capabilities = ["read"] }\n'
    subscribe = 'path "sys/events/subscribe/*" { capabilities = ["read"] %s }'
    token = await token_of(wire, reads + subscribe % 'required_parameters = ["namespaces"]')
    async with listening(site.url, token, "kv*", namespaces="root") as heard:
        await put(wire, "app/mine")
        await heard.events(1)
        stricter = reads + subscribe % 'denied_parameters = { "namespaces" = [] }'
        await wire.ask("PUT", "/v1/sys/policies/acl/p", {"policy": stricter})
        assert "do not allow" in await heard.ended()


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
