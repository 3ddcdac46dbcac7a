"""HTTP in front of the core, over real sockets: answers, headers, freshness, paths against policies, draining."""

import asyncio
import base64
import dataclasses
import json
import os
import ssl

import pytest
import structlog
from sqlcipher3 import dbapi2 as sqlcipher
from support.certs import Authority
from support.httpfixture import dev_core, request, serve
from support.patience import PATIENCE_S

from node.api import http
from node.api.vault.render import STATUS, new_request_id
from node.core.router import Table
from node.errors import NodeError
from storage.command import MountPut


def index_header(cluster: str, value: str) -> str:
    return base64.b64encode(json.dumps({"cluster": cluster, "value": value}).encode()).decode()


# --- answers ---


async def test_an_answer_is_laid_out_as_vault_does(site, wire):
    answer = await wire.ask("POST", "/v1/secret/data/a", {"data": {"k": "v"}})
    assert list(answer.json) == [
        "request_id", "lease_id", "renewable", "lease_duration", "data", "wrap_info", "warnings", "auth",
    ]  # fmt: skip
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert "strict-transport-security" not in answer.headers
    assert "aiohttp" not in answer.headers["server"]
    index = json.loads(base64.b64decode(answer.headers["x-vault-index"]))
    assert index == {"cluster": site.core.lifecycle.cluster_id, "value": str(site.core.store.position)}


async def test_a_double_answer_has_its_data_on_top_too(wire):
    answer = (await wire.ask("GET", "/v1/sys/mounts")).json
    assert answer["secret/"] == answer["data"]["secret/"]
    assert answer["secret/"]["options"] == {"version": "2"}
    assert answer["sys/"]["type"] == "system"


async def test_over_tls_browsers_are_told_to_stay_there(tmp_path):
    authority = Authority(tmp_path / "ca")
    server, client = (
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        ssl.create_default_context(cafile=str(authority.ca)),
    )
    server.load_cert_chain(authority.issue("node", ["localhost"]))
    client.check_hostname = False
    async with (
        dev_core(tmp_path) as (core, token),
        serve(core, token=token, server_tls=server, client_tls=client) as site,
    ):
        wire = await site.connect()
        answer = await wire.ask("LIST", "/v1/secret/metadata")
        assert answer.status == 404
        assert answer.headers["strict-transport-security"] == "max-age=31536000; includeSubDomains"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_health_answers_with_a_status_that_has_no_name(wire, method):
    assert (await wire.ask(method, "/v1/sys/health?activecode=299")).status == 299
    assert (await wire.ask(method, "/v1/sys/health?activecode=99")).status == 400


async def test_health_may_be_asked_with_head(wire):
    answer = await wire.ask("HEAD", "/v1/sys/health")
    assert (answer.status, answer.body) == (200, b"")
    assert (await wire.ask("HEAD", "/v1/secret/data/a")).status == 405
    assert (await wire.ask("GET", "/v1/sys/health")).json[
        "sealed"
    ] is False  # the connection is still in step


async def test_an_unknown_method_is_refused(wire):
    for method in ("OPTIONS", "TRACE", "BREW"):
        assert (await wire.ask(method, "/v1/secret/data/a")).status == 405


async def test_what_is_not_under_v1_does_not_exist(wire):
    for path in ("/", "/v1", "/v2/secret/data/a", "/ui/"):
        answer = await wire.ask("GET", path)
        assert (answer.status, answer.json) == (404, {"errors": []})


async def test_an_unknown_mount_is_named(wire):
    answer = await wire.ask("GET", "/v1/nomount/x")
    assert answer.json == {"errors": ['no handler for route "nomount/x". route entry not found.']}
    assert answer.status == 404


async def test_a_sealed_node_says_so_without_an_index(site, wire):
    await site.core.lifecycle.seal()
    answer = await wire.ask("GET", "/v1/secret/data/a")
    assert (answer.status, answer.json) == (503, {"errors": ["Vault is sealed"]})
    assert "x-vault-index" not in answer.headers
    assert (await wire.ask("POST", "/v1/nomount/x", {})).status == 503


def test_every_error_has_a_status():
    def subclasses(cls):
        return {cls, *(each for sub in cls.__subclasses__() for each in subclasses(sub))}

    known = {each for each in subclasses(NodeError) - {NodeError} if each.__module__ == "node.errors"}
    assert known == set(STATUS)


def raise_of_our_own():
    raise RuntimeError("canary-in-the-message")


def ask_of_a_database_that_is_not_there():
    sqlcipher.connect("/canary-in-the-path/of-a-file")


class _PanicException(BaseException):
    """As pyo3's, which is no Exception either."""


def panic():
    raise _PanicException("canary: called `Result::unwrap()` on an `Err` value")


@pytest.mark.parametrize(
    ("bug", "name"),
    [
        (raise_of_our_own, "RuntimeError"),
        (ask_of_a_database_that_is_not_there, "OperationalError SQLITE_CANTOPEN"),
        (panic, "_PanicException"),
    ],
)
async def test_a_bug_is_a_500_that_tells_nothing(site, wire, bug, name):
    async def broken(core, request, params):
        bug()

    route = site.core.engines["kv-v2"].match("data/a").route
    handlers = dict.fromkeys(route.handlers, broken)
    site.core.engines = {"kv-v2": Table([dataclasses.replace(route, handlers=handlers)])}
    with structlog.testing.capture_logs() as logs:
        answer = await wire.ask("GET", "/v1/secret/data/canary-in-the-path")
    assert answer.status == 500
    assert b"canary" not in answer.body
    failed = [each for each in logs if each["event"] == "request failed"]
    assert failed[0]["error"] == name
    assert failed[0]["request_id"] in answer.json["errors"][0]
    assert "canary" not in repr(logs)
    assert (await wire.ask("GET", "/v1/sys/health")).status == 200


def test_request_ids_are_random_uuids():
    import uuid

    ids = {new_request_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(str(uuid.UUID(each)) == each and uuid.UUID(each).version == 4 for each in ids)
    assert all(uuid.UUID(each).variant == uuid.RFC_4122 for each in ids)


# --- headers ---


async def test_the_token_comes_in_either_header(site):
    wire = await site.connect(token="")
    for headers in (
        {"X-Vault-Token": site.token},
        {"Authorization": f"Bearer {site.token}"},
        {"authorization": f"bearer {site.token}"},
    ):
        assert (await wire.ask("GET", "/v1/auth/token/lookup-self", headers=headers)).status == 200
    for headers in ({}, {"X-Vault-Token": "s.wrong"}, {"Authorization": f"Basic {site.token}"}):
        answer = await wire.ask("GET", "/v1/auth/token/lookup-self", headers=headers)
        assert (answer.status, answer.json) == (403, {"errors": ["permission denied"]})


@pytest.mark.parametrize("name", ["X-Vault-Token", "Authorization", "X-Vault-Namespace", "X-Vault-Index"])
async def test_a_header_that_decides_comes_once(site, wire, name):
    data = request("GET", "/v1/sys/health", headers={name: "a"})
    await wire.send(data.replace(b"\r\n\r\n", f"\r\n{name.lower()}: b\r\n\r\n".encode()))
    answer = await wire.answer()
    assert (answer.status, "twice" in answer.json["errors"][0]) == (400, True)


async def test_namespaces_but_root_do_not_exist(wire):
    for namespace in ("root", "/", "root/"):
        assert (
            await wire.ask("GET", "/v1/sys/mounts", headers={"X-Vault-Namespace": namespace})
        ).status == 200
    answer = await wire.ask("GET", "/v1/sys/mounts", headers={"X-Vault-Namespace": "team1/"})
    assert (answer.status, answer.json) == (404, {"errors": ["namespace not found"]})


async def test_a_request_waits_for_the_index_that_its_caller_has_seen(site, wire):
    cluster = site.core.lifecycle.cluster_id
    seen = (await wire.ask("POST", "/v1/secret/data/a", {"data": {}})).headers["x-vault-index"]
    assert (await wire.ask("GET", "/v1/secret/data/a", headers={"X-Vault-Index": seen})).status == 200
    ahead = index_header(cluster, str(site.core.store.position + 1))
    answer = await wire.ask("GET", "/v1/secret/data/a", headers={"X-Vault-Index": ahead})
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    headers = {"X-Vault-Index": ahead, "X-Vault-Inconsistent": "forward-active-node"}
    assert (await wire.ask("GET", "/v1/secret/data/a", headers=headers)).status == 429


@pytest.mark.parametrize("value", ["garbage", "e30=", "W10=", "bnVsbA==", "!!!", "x" * 600])
async def test_a_garbage_index_is_the_callers_mistake(wire, value):
    assert (await wire.ask("GET", "/v1/secret/data/a", headers={"X-Vault-Index": value})).status == 400


@pytest.mark.parametrize("value", ["-1", "1.0", "", "٣", "9" * 30])
async def test_an_index_is_a_number(site, wire, value):
    header = index_header(site.core.lifecycle.cluster_id, value)
    assert (await wire.ask("GET", "/v1/secret/data/a", headers={"X-Vault-Index": header})).status == 400


async def test_an_index_of_another_cluster_is_refused(wire):
    header = index_header("00000000-0000-0000-0000-000000000000", "1")
    answer = await wire.ask("GET", "/v1/secret/data/a", headers={"X-Vault-Index": header})
    assert (answer.status, "another cluster" in answer.json["errors"][0]) == (400, True)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("fresh", 404),
        ("linearizable", 404),
        ("stale-ok", 404),
        ("max-staleness=5s", 404),
        ("max-staleness=1h30m", 404),
        ("max-staleness=0", 404),
        ("eventually", 400),
        ("max-staleness", 400),
        ("max-staleness=", 400),
        ("max-staleness=-1s", 400),
        ("max-staleness=5parsecs", 400),
        ("max-staleness=9999999999999999999999s", 400),
        ("fresh=5s", 400),
        ("stale-ok=", 400),
    ],
)
async def test_the_words_of_consistency(wire, value, status):
    answer = await wire.ask("GET", "/v1/secret/data/a", headers={"X-Strongroom-Consistency": value})
    assert answer.status == status


async def test_only_answers_that_may_be_old_say_how_old(wire):
    for value, told in (
        ("stale-ok", True),
        ("max-staleness=5s", True),
        ("fresh", False),
        ("linearizable", False),
    ):
        answer = await wire.ask("GET", "/v1/secret/data/a", headers={"X-Strongroom-Consistency": value})
        assert ("x-strongroom-staleness-ms" in answer.headers) is told
        if told:
            assert 0 <= int(answer.headers["x-strongroom-staleness-ms"]) < 10_000


async def test_the_same_request_id_writes_once(wire):
    headers = {"X-Strongroom-Request-Id": os.urandom(16).hex()}
    first = await wire.ask("POST", "/v1/secret/data/a", {"data": {"n": 1}}, headers=headers)
    again = await wire.ask("POST", "/v1/secret/data/a", {"data": {"n": 1}}, headers=headers)
    assert first.json["data"] == again.json["data"]
    assert (await wire.ask("GET", "/v1/secret/metadata/a")).json["data"]["current_version"] == 1


async def test_a_request_id_binds_to_its_path_and_token(site, wire):
    """Another's id claims neither the outcome of his write nor his right to make it."""
    headers = {"X-Strongroom-Request-Id": os.urandom(16).hex()}
    await wire.ask("POST", "/v1/secret/data/a", {"data": {"n": 1}}, headers=headers)
    await wire.ask("POST", "/v1/secret/data/b", {"data": {"n": 2}}, headers=headers)
    assert (await wire.ask("GET", "/v1/secret/data/b")).json["data"]["data"] == {"n": 2}
    other = await wire.ask("POST", "/v1/auth/token/create", {"policies": ["root"]})
    theirs = await site.connect(token=other.json["auth"]["client_token"])
    await theirs.ask("POST", "/v1/secret/data/a", {"data": {"n": 3}}, headers=headers)
    assert (await wire.ask("GET", "/v1/secret/data/a")).json["data"]["data"] == {"n": 3}


@pytest.mark.parametrize("value", ["abc", "0" * 31, "0" * 33, "g" * 32, "00 " * 10 + "00", "0" * 64])
async def test_a_request_id_is_32_hex_digits(wire, value):
    answer = await wire.ask(
        "POST", "/v1/secret/data/a", {"data": {}}, headers={"X-Strongroom-Request-Id": value}
    )
    assert answer.status == 400


async def test_forwarded_addresses_are_not_believed(tmp_path):
    log = tmp_path / "audit.log"
    async with dev_core(tmp_path, audit_files=(log,)) as (core, token), serve(core, token=token) as site:
        wire = await site.connect()
        await wire.ask(
            "GET",
            "/v1/secret/data/a",
            headers={"X-Forwarded-For": "203.0.113.7", "Forwarded": "for=203.0.113.7"},
        )
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert {record["request"]["remote_address"] for record in records} == {"127.0.0.1"}


# --- one path, one meaning ---

POLICY = 'path "secret/data/app/*" { capabilities = ["create", "read", "update", "patch", "delete"] }'
SPELLINGS = [
    "/v1/secret/data/app/../other",
    "/v1/secret/data/app/..%2fother",
    "/v1/secret/data/app/%2e%2e/other",
    "/v1/secret/data/app%2f%2e%2e%2fother",
    "/v1/secret/data/app/./../other",
    "/v1/secret/data/app//../other",
    "/v1/secret//data/other",
    "/v1//secret/data/other",
    "/v1/secret/data/app/..;/other",
    "/v1/secret/data/app/..\\other",
    "/v1/secret/data/app/%5c..%5cother",
    "/v1/secret/data/%6fther",
    "/v1/secret/data/other/",
    "/v1/secret/data/other%20",
    "/v1/secret/data/Other",
    "/v1/SECRET/data/other",
    "/v1/secret/data/other%00",
    "/v1/secret/data/app%00/../../other",
    "/v1/secret/data/app/%252e%252e/other",
    "/v1/secret/data/app/%c0%ae%c0%ae/other",
    "/v1/secret/data/app/\u2024\u2024/other",
    "/v1/secret/data/other?x=/v1/secret/data/app/",
    "/v1/secret/data/other#/app/",
    "/v1/secret/data/app/..",
    "/v1/secret/subkeys/other",
    "/v1/secret/data/app",
]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_no_spelling_leads_out_of_a_policy(site, wire, method):
    await wire.ask("POST", "/v1/secret/data/other", {"data": {"k": "canary"}})
    await wire.ask("POST", "/v1/sys/policies/acl/app", {"policy": POLICY})
    made = await wire.ask("POST", "/v1/auth/token/create", {"policies": ["app"], "no_default_policy": True})
    limited = made.json["auth"]["client_token"]
    for spelling in SPELLINGS:
        theirs = await site.connect(token=limited)
        answer = await theirs.ask(
            method, spelling, {"data": {"k": "overwritten"}} if method == "POST" else None
        )
        while answer.status == 307:  # a client that follows ends where the policy looks
            answer = await theirs.ask(method, answer.headers["location"], {"data": {"k": "overwritten"}})
        assert b"canary" not in answer.body, spelling
        kept = await wire.ask("GET", "/v1/secret/data/other")
        assert kept.json["data"]["data"] == {"k": "canary"}, spelling
        assert kept.json["data"]["metadata"]["version"] == 1, spelling
    inside = await site.connect(token=limited)
    assert (await inside.ask("POST", "/v1/secret/data/app/x", {"data": {}})).status == 200


async def test_a_redirect_keeps_to_this_host(wire):
    answer = await wire.ask("GET", "//evil.example/..//x%0d?a=b")
    assert answer.status == 400
    answer = await wire.ask("GET", "//evil.example/v1//x?a=b")
    assert (answer.status, answer.headers["location"]) == (307, "/evil.example/v1/x?a=b")


# --- the end ---


async def test_draining_lets_an_answer_finish_and_closes_idle_connections(site, monkeypatch):
    idle, busy = await site.connect(), await site.connect()
    assert (await idle.ask("GET", "/v1/sys/health")).status == 200
    reached, go = asyncio.Event(), asyncio.Event()

    async def slow(core, request):
        reached.set()
        await go.wait()
        return await handle(core, request)

    handle = http.pipeline.handle
    monkeypatch.setattr(http.pipeline, "handle", slow)
    await busy.send(request("GET", "/v1/sys/health"))
    await reached.wait()
    draining = asyncio.create_task(site.server.drain(PATIENCE_S))
    assert await idle.closed()
    go.set()
    assert (await busy.answer()).status == 200
    await draining
    assert await busy.closed()


async def test_draining_does_not_wait_for_half_a_request(site):
    half, other = await site.connect(), await site.connect()
    await half.send(request("PUT", "/v1/secret/data/a", {"data": {"n": 1}})[:-1])
    assert (await other.ask("GET", "/v1/sys/health")).status == 200  # so the first has been read too
    async with asyncio.timeout(PATIENCE_S):
        await site.server.drain(600)
    assert await half.closed()


async def test_draining_without_patience_cuts_what_hangs(site, monkeypatch):
    reached = asyncio.Event()

    async def hang(core, request):
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(http.pipeline, "handle", hang)
    wire = await site.connect()
    await wire.send(request("GET", "/v1/sys/health"))
    await reached.wait()
    async with asyncio.timeout(PATIENCE_S):
        await site.server.drain(0)
    assert await wire.closed()


async def test_a_request_that_takes_too_long_is_unknown_if_it_may_have_written(tmp_path, monkeypatch):
    async def hang(core, request):
        await asyncio.Event().wait()

    monkeypatch.setattr(http.pipeline, "handle", hang)
    async with dev_core(tmp_path, request_timeout_s=0.05) as (core, token), serve(core, token=token) as site:
        wire = await site.connect()
        assert (await wire.ask("DELETE", "/v1/secret/data/a")).status == 504
        assert (await wire.ask("GET", "/v1/secret/data/a")).status == 503


async def test_what_was_mounted_elsewhere_is_there_once_the_state_has_caught_up(tmp_path):
    """A node that lags behind knows neither the mount nor that it lags, until the gate has opened."""
    async with dev_core(tmp_path) as (core, token), serve(core, token=token) as site:
        store = core.unsealed
        fresh = store.fresh

        async def catch_up(**rest):
            await fresh(**rest)
            if store.mount_for("late/") is None:
                await store.submit(MountPut(store.now_ns(), "late/", "late", "kv_late", "kv", 2, "", 0, 0))

        store.fresh = catch_up
        wire = await site.connect()
        answer = await wire.ask("POST", "/v1/late/data/a", {"data": {"n": 1}})
        assert (answer.status, answer.json["data"]["version"]) == (200, 1)
