"""Mounting, moving, unmounting, and what clients look up before they use a mount."""

import asyncio

import hvac
import pytest
from support.corefixture import call, opened
from support.httpfixture import dev_core, serve

from node.api.vault import mounts
from node.core.request import Operation

MOUNT = {"type": "kv-v2"}


async def limited(site, wire, policy: str):
    await wire.ask("POST", "/v1/sys/policies/acl/limited", {"policy": policy})
    body = {"policies": ["limited"], "no_default_policy": True}
    made = await wire.ask("POST", "/v1/auth/token/create", body)
    return await site.connect(token=made.json["auth"]["client_token"])


async def test_a_mount_is_used_at_once(wire):
    body = {
        "type": "kv-v2", "description": "mine", "options": None, "local": False, "seal_wrap": False,
        "config": {"options": None, "default_lease_ttl": "0s", "max_lease_ttl": "1h", "force_no_cache": False},
    }  # fmt: skip
    assert (await wire.ask("POST", "/v1/sys/mounts/team/kv", body)).status == 204
    assert (await wire.ask("POST", "/v1/team/kv/data/a", {"data": {"k": "v"}})).status == 200
    entry = (await wire.ask("GET", "/v1/sys/mounts/team/kv")).json
    assert entry["options"] == {"version": "2"}
    assert (entry["type"], entry["description"]) == ("kv", "mine")
    assert entry["config"] == {"default_lease_ttl": 0, "force_no_cache": False, "max_lease_ttl": 3600}
    assert {name: value for name, value in entry.items() if name in entry["data"]} == entry["data"]
    listed = (await wire.ask("GET", "/v1/sys/mounts")).json["data"]
    assert list(listed) == ["cubbyhole/", "identity/", "secret/", "sys/", "team/kv/"]
    assert listed["team/kv/"] == entry["data"]


@pytest.mark.parametrize(
    ("path", "body", "error"),
    [
        ("secret", MOUNT, "path is already in use at secret/"),
        ("secret/x", MOUNT, "path is already in use at secret/"),
        ("sys", MOUNT, 'cannot mount "sys/"'),
        ("sys/x", MOUNT, 'cannot mount "sys/x/"'),
        ("auth/x", MOUNT, 'cannot mount "auth/x/"'),
        ("cubbyhole", MOUNT, 'cannot mount "cubbyhole/"'),
        ("identity/x", MOUNT, 'cannot mount "identity/x/"'),
        ("a*", MOUNT, "a mount's path has no"),
        ("a/+/b", MOUNT, "a mount's path has no"),
        ("x" * 600, MOUNT, "a mount's path has at most"),
        ("n", {}, "backend type must be specified as a string"),
        ("n", {"type": "database"}, "plugin not found in the catalog: database"),
        ("n", {"type": "kv", "options": {"version": "3"}}, 'no version "3" of the kv engine'),
        ("n", {"type": "kv", "options": ["version"]}, "error converting input"),
        ("n", MOUNT | {"config": {"listing_visibility": "all"}}, "invalid listing_visibility all"),
        (
            "n",
            MOUNT | {"config": {"default_lease_ttl": "2h", "max_lease_ttl": "1h"}},
            "given default lease TTL",
        ),
        ("n", MOUNT | {"config": {"default_lease_ttl": "x"}}, "invalid duration"),
        ("n", MOUNT | {"config": [1]}, "error converting input"),
        ("n", MOUNT | {"description": "x" * 5000}, "a description has at most"),
    ],
)
async def test_a_mount_that_cannot_be_is_refused(wire, path, body, error):
    answer = await wire.ask("POST", f"/v1/sys/mounts/{path}", body)
    assert answer.status == 400
    assert answer.json["errors"][0].startswith(error)
    assert list((await wire.ask("GET", "/v1/sys/mounts")).json["data"]) == [
        "cubbyhole/",
        "identity/",
        "secret/",
        "sys/",
    ]


@pytest.mark.parametrize("options", [{"version": "2"}, {"version": 2}])
async def test_kv_with_version_2_is_kv_v2(wire, options):
    assert (await wire.ask("POST", "/v1/sys/mounts/n", {"type": "kv", "options": options})).status == 204
    assert (await wire.ask("GET", "/v1/n/config")).status == 200


async def test_a_parent_of_a_mount_is_taken_too(wire):
    assert (await wire.ask("POST", "/v1/sys/mounts/a/b", MOUNT)).status == 204
    answer = await wire.ask("POST", "/v1/sys/mounts/a", MOUNT)
    assert answer.json == {"errors": ["path is already in use at a/b/"]}


async def test_unmounting_leaves_nothing_behind(site, wire):
    await wire.ask("POST", "/v1/sys/mounts/n", MOUNT)
    await wire.ask("POST", "/v1/n/data/a", {"data": {"k": "v"}})
    assert (await wire.ask("DELETE", "/v1/sys/mounts/n")).status == 204
    assert (await wire.ask("DELETE", "/v1/sys/mounts/n")).status == 204
    assert (await wire.ask("GET", "/v1/n/data/a")).json["errors"][0].startswith("no handler for route")
    await wire.ask("POST", "/v1/sys/mounts/n", MOUNT)
    assert (await wire.ask("GET", "/v1/n/data/a")).json == {"errors": []}
    assert site.core.store._machine._db.all("SELECT * FROM kv_versions") == []
    for reserved in ("sys", "cubbyhole", "identity"):
        assert (await wire.ask("DELETE", f"/v1/sys/mounts/{reserved}")).status == 400


async def test_tuning(wire):
    assert (await wire.ask("GET", "/v1/sys/mounts/secret/tune")).json["data"] == {
        "default_lease_ttl": 2764800, "description": "key/value secret storage", "force_no_cache": False,
        "max_lease_ttl": 2764800, "options": {"version": "2"},
    }  # fmt: skip
    body = {"default_lease_ttl": "1h0m0s", "max_lease_ttl": "", "description": "x", "options": None}
    assert (await wire.ask("POST", "/v1/sys/mounts/secret/tune", body)).status == 204
    tuned = (await wire.ask("GET", "/v1/sys/mounts/secret/tune")).json["data"]
    assert (tuned["default_lease_ttl"], tuned["max_lease_ttl"], tuned["description"]) == (3600, 2764800, "x")
    body = {"default_lease_ttl": "system", "description": ""}
    assert (await wire.ask("POST", "/v1/sys/mounts/secret/tune", body)).status == 204
    assert (await wire.ask("GET", "/v1/sys/mounts/secret")).json["config"]["default_lease_ttl"] == 0
    for body in ({"default_lease_ttl": "9h", "max_lease_ttl": "1h"}, {"options": {"version": "1"}}):
        assert (await wire.ask("POST", "/v1/sys/mounts/secret/tune", body)).status == 400
    for method in ("GET", "POST"):
        assert (await wire.ask(method, "/v1/sys/mounts/none/tune", {})).status == 400
    assert (await wire.ask("GET", "/v1/sys/mounts/none")).json == {
        "errors": ["No secret engine mount at none/"]
    }


async def test_a_move_takes_everything_along(wire):
    await wire.ask("POST", "/v1/secret/data/a", {"data": {"k": "v"}})
    moved = await wire.ask("POST", "/v1/sys/remount", {"from": "secret/", "to": "team/kv/"})
    migration = moved.json["migration_id"]
    assert moved.json["data"]["migration_id"] == migration
    status = (await wire.ask("GET", f"/v1/sys/remount/status/{migration}")).json["data"]
    assert status["migration_info"] == {
        "source_mount": "secret/",
        "target_mount": "team/kv/",
        "status": "success",
    }
    assert (await wire.ask("GET", "/v1/team/kv/data/a")).json["data"]["data"] == {"k": "v"}
    assert (await wire.ask("GET", "/v1/secret/data/a")).status == 404


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, "both 'from' and 'to' path"),
        ({"from": "secret"}, "both 'from' and 'to' path"),
        ({"from": "nope", "to": "x"}, 'no matching mount at "nope/"'),
        ({"from": "secret", "to": "secret"}, 'path already in use at "secret/"'),
        ({"from": "secret", "to": "other/x"}, 'path already in use at "other/"'),
        ({"from": "sys", "to": "x"}, 'cannot remount "sys/"'),
        ({"from": "secret", "to": "sys/x"}, "cannot remount to destination sys/x/"),
        ({"from": "secret", "to": "a/../b"}, "a mount's path has no"),
        ({"from": "secret", "to": "a//b"}, "a mount's path has no"),
        ({"from": "secret", "to": "a\u0000b"}, "a mount's path has no"),
    ],
)
async def test_a_move_that_cannot_be_is_refused(wire, body, error):
    await wire.ask("POST", "/v1/sys/mounts/other", MOUNT)
    answer = await wire.ask("POST", "/v1/sys/remount", body)
    assert (answer.status, answer.json["errors"][0].startswith(error)) == (400, True)
    assert (await wire.ask("GET", "/v1/secret/config")).status == 200


@pytest.mark.parametrize("identity", ["abc", "e30=", "W10=", "WyJhIiwgMV0=", "WyJhLyIsICJub25lLyJd"])
async def test_a_migration_that_never_was(wire, identity):
    assert (await wire.ask("GET", f"/v1/sys/remount/status/{identity}")).status == 404


async def test_moving_asks_for_sudo(site, wire):
    theirs = await limited(site, wire, 'path "sys/remount" { capabilities = ["update"] }')
    assert (await theirs.ask("POST", "/v1/sys/remount", {"from": "secret", "to": "x"})).status == 403
    policy = 'path "sys/remount" { capabilities = ["update", "sudo"] }'
    theirs = await limited(site, wire, policy)
    assert (await theirs.ask("POST", "/v1/sys/remount", {"from": "secret", "to": "x"})).status == 200


PREFLIGHT = (
    'preflight capability check returned 403, please ensure client\'s policies grant access to path "{}"'
)


async def test_the_preflight_of_the_command_line(site, wire):
    for path in ("secret", "secret/", "secret/app/db"):
        data = (await wire.ask("GET", f"/v1/sys/internal/ui/mounts/{path}")).json["data"]
        assert (data["path"], data["options"]) == ("secret/", {"version": "2"})
    missing = await wire.ask("GET", "/v1/sys/internal/ui/mounts/nomount/x")
    assert (missing.status, missing.json) == (403, {"errors": [PREFLIGHT.format("nomount/x/")]})
    stranger = await site.connect(token="")
    answer = await stranger.ask("GET", "/v1/sys/internal/ui/mounts/secret/x")
    assert (answer.status, answer.json) == (403, {"errors": ["permission denied"]})


@pytest.mark.parametrize(
    ("policy", "seen"),
    [
        ('path "secret/data/app/*" { capabilities = ["read"] }', True),
        ('path "secret/data/app" { capabilities = ["read"] }', True),
        ('path "sec*" { capabilities = ["read"] }', True),
        ('path "+/data/x" { capabilities = ["read"] }', True),
        ('path "secret/+/x" { capabilities = ["read"] }', True),
        ('path "secret/*" { capabilities = ["deny"] }', False),
        ('path "secrets/*" { capabilities = ["read"] }', False),
        ('path "other/+/x" { capabilities = ["read"] }', False),
        ('path "secret" { capabilities = ["read"] }', False),
        ('path "+" { capabilities = ["read"] }', False),
    ],
)
async def test_a_mount_is_seen_by_those_who_may_do_something_in_it(site, wire, policy, seen):
    theirs = await limited(site, wire, policy)
    answer = await theirs.ask("GET", "/v1/sys/internal/ui/mounts/secret/else")
    assert answer.status == (200 if seen else 403)
    if not seen:
        assert answer.json == {"errors": [PREFLIGHT.format("secret/else/")]}
    visible = (await theirs.ask("GET", "/v1/sys/internal/ui/mounts")).json["data"]["secret"]
    assert ("secret/" in visible) == seen


async def test_mounts_are_listed_only_by_policy(site, wire):
    theirs = await limited(site, wire, 'path "secret/*" { capabilities = ["read"] }')
    assert (await theirs.ask("GET", "/v1/sys/mounts")).status == 403
    assert (await theirs.ask("POST", "/v1/sys/mounts/n", MOUNT)).status == 403


async def test_hvac_agrees(site):
    def talk():
        client = hvac.Client(url=site.url, token=site.token)
        client.sys.enable_secrets_engine("kv", path="kvh", options={"version": "2"})
        client.sys.enable_secrets_engine("kv-v2", path="kvh2")
        assert {"kvh/", "kvh2/", "secret/", "sys/"} <= set(client.sys.list_mounted_secrets_engines()["data"])
        client.sys.tune_mount_configuration("kvh", default_lease_ttl="3600s", description="x")
        assert client.sys.read_mount_configuration("kvh")["data"]["default_lease_ttl"] == 3600
        client.sys.move_backend("kvh", "kvm")
        client.sys.disable_secrets_engine("kvh2")
        assert "kvm/" in client.sys.list_mounted_secrets_engines()["data"]

    await asyncio.to_thread(talk)


@pytest.mark.parametrize("kind", ["kv", "kv-v2", "pki"])
async def test_a_large_mount_goes_in_steps(site, wire, monkeypatch, kind):
    monkeypatch.setattr(mounts, "EMPTY_STEP_MAX", 3)
    monkeypatch.setattr(mounts, "EMPTY_STEP_BYTES_MAX", 20)
    await wire.ask("POST", "/v1/sys/mounts/n", {"type": kind})
    for number in range(10):
        path = {"kv": f"p{number}", "kv-v2": f"data/p{number}", "pki": f"roles/p{number}"}[kind]
        assert (await wire.ask("POST", f"/v1/n/{path}", {"data": {}})).status < 300
    store = site.core.unsealed
    mount_id, before = store.mount_for("n/").mount_id, store.position
    assert (await wire.ask("DELETE", "/v1/sys/mounts/n")).status == 204
    assert store.position - before > 4
    assert not store.reads.kv_scan(mount_id, "")
    assert not store.reads.entry_scan(mount_id, "")
    assert store.mount_for("n/") is None


@pytest.mark.parametrize(
    ("body", "options", "v1"),
    [
        ({"type": "kv"}, {}, True),
        ({"type": "kv", "options": None}, None, True),
        ({"type": "kv", "options": {"version": "1"}}, {"version": "1"}, True),
        ({"type": "kv-v1"}, {"version": "1"}, True),
        ({"type": "generic"}, {}, True),
        ({"type": "kv-v2", "options": None}, {"version": "2"}, False),
        ({"type": "kv", "options": {"version": "2", "mine": "x"}}, {"mine": "x", "version": "2"}, False),
    ],
)
async def test_a_type_and_its_options_say_which_engine_answers(wire, body, options, v1):
    assert (await wire.ask("POST", "/v1/sys/mounts/n", body)).status == 204
    assert (await wire.ask("GET", "/v1/sys/mounts/n")).json["options"] == options
    await wire.ask("POST", "/v1/n/data/a", {"data": {"k": "v"}})
    assert ("metadata" in (await wire.ask("GET", "/v1/n/data/a")).json["data"]) is not v1


async def test_what_is_said_of_a_mount_is_shown_again(wire):
    said = {
        "listing_visibility": "unauth",
        "audit_non_hmac_request_keys": ["a"],
        "audit_non_hmac_response_keys": "b,c",
        "passthrough_request_headers": ["X-A"],
        "allowed_response_headers": ["X-B"],
    }
    shown = said | {"audit_non_hmac_response_keys": ["b", "c"]}
    body = {"type": "kv", "local": True, "seal_wrap": True, "external_entropy_access": True, "config": said}
    await wire.ask("POST", "/v1/sys/mounts/n", body)
    entry = (await wire.ask("GET", "/v1/sys/mounts/n")).json["data"]
    assert (entry["local"], entry["seal_wrap"], entry["external_entropy_access"]) == (True, True, True)
    assert shown.items() <= entry["config"].items()
    assert shown.items() <= (await wire.ask("GET", "/v1/sys/mounts/n/tune")).json["data"].items()
    changed = {"listing_visibility": "", "passthrough_request_headers": [], "max_lease_ttl": "2h"}
    assert (await wire.ask("POST", "/v1/sys/mounts/n/tune", changed)).status == 204
    config = (await wire.ask("GET", "/v1/sys/mounts/n")).json["data"]["config"]
    assert config == {
        "default_lease_ttl": 0,
        "force_no_cache": False,
        "max_lease_ttl": 7200,
        "audit_non_hmac_request_keys": ["a"],
        "audit_non_hmac_response_keys": ["b", "c"],
        "allowed_response_headers": ["X-B"],
    }


@pytest.mark.parametrize(
    ("path", "body", "error"),
    [
        ("secret", {"listing_visibility": "all"}, "invalid listing_visibility all"),
        ("secret", {"token_type": "service"}, "'token_type' can only be modified on auth mounts"),
        ("secret", {"options": {"version": "3"}}, "invalid version provided: 3"),
        ("sys", {"default_lease_ttl": "1h"}, "cannot tune parameter default_lease_ttl of sys/"),
        ("cubbyhole", {"description": "x"}, "cannot tune parameter description of cubbyhole/"),
    ],
)
async def test_a_tune_that_cannot_be_is_refused(wire, path, body, error):
    answer = await wire.ask("POST", f"/v1/sys/mounts/{path}/tune", body)
    assert (answer.status, answer.json) == (400, {"errors": [error]})


async def test_the_audit_log_shows_the_fields_that_a_mount_is_tuned_to_show(site, wire):
    shown = {"audit_non_hmac_request_keys": ["user"], "audit_non_hmac_response_keys": ["host"]}
    await wire.ask("POST", "/v1/sys/mounts/n", {"type": "kv-v2", "config": shown})
    secret = {"user": "clear-user", "host": "clear-host", "password": "hidden-password"}
    await wire.ask("POST", "/v1/n/data/a", {"data": secret})
    await wire.ask("GET", "/v1/n/data/a")
    log = site.core.settings.audit_files[0].read_text()
    written, read = log.count("clear-user"), log.count("clear-host")
    assert (written, read) == (2, 1), "both records of the write, and the answer of the read"
    assert "hidden-password" not in log
    await wire.ask("POST", "/v1/sys/mounts/n/tune", {"audit_non_hmac_request_keys": []})
    await wire.ask("POST", "/v1/n/data/a", {"data": secret})
    assert site.core.settings.audit_files[0].read_text().count("clear-user") == 2


async def test_without_a_token_only_mounts_that_show_themselves_are_listed(site, wire):
    config = {"listing_visibility": "unauth"}
    await wire.ask("POST", "/v1/sys/mounts/shown", {"type": "kv", "description": "d", "config": config})
    stranger = await site.connect(token="")
    answer = await stranger.ask("GET", "/v1/sys/internal/ui/mounts")
    shown = {"shown/": {"description": "d", "options": {}, "type": "kv"}}
    assert (answer.status, answer.json["data"]) == (200, {"auth": {}, "secret": shown})
    refused = await site.connect(token="s.nobody")
    assert (await refused.ask("GET", "/v1/sys/internal/ui/mounts")).status == 403


async def test_a_mount_that_says_nothing_has_the_lease_ttls_of_the_configuration(tmp_path):
    async with (
        dev_core(tmp_path, default_lease_ttl_s=60, max_lease_ttl_s=120) as (core, token),
        serve(core, token=token) as site,
    ):
        wire = await site.connect()
        tuned = (await wire.ask("GET", "/v1/sys/mounts/secret/tune")).json["data"]
        assert (tuned["default_lease_ttl"], tuned["max_lease_ttl"]) == (60, 120)
        await wire.ask("POST", "/v1/sys/mounts/old", {"type": "kv"})
        await wire.ask("POST", "/v1/old/a", {"b": "c"})
        assert (await wire.ask("GET", "/v1/old/a")).json["lease_duration"] == 60
        made = (await wire.ask("POST", "/v1/auth/token/create", {"policies": ["default"], "ttl": "1h"})).json
        assert made["auth"]["lease_duration"] == 120


async def test_a_path_finds_its_mount_among_many(tmp_path):
    """As the database's own query does, for paths before, between, inside and behind mounts."""
    async with opened(tmp_path) as core:
        paths = ["a", "a-b", "ab/c", "b/c/d", "m\u00e9", "z"]
        for path in paths:
            await call(
                core, Operation.UPDATE, f"sys/mounts/{path}", {"type": "kv", "options": {"version": "2"}}
            )
        store = core.unsealed
        asked = {f"{path}{end}" for path in [*paths, "secret", "", "0", "zz", "ab", "b/c", "\U0001f600"]
                 for end in ("", "/", "/x", "x", "-", "/x/")}  # fmt: skip
        for path in asked:
            assert store.mount_for(path) == store.reads.mount_for(path), path
