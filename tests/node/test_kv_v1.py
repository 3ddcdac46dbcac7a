"""KV version 1: a path holds what was written there, and nothing of what was there before."""

import pytest

MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture
async def wire(site):
    wire = await site.connect()
    assert (await wire.ask("POST", "/v1/sys/mounts/old", {"type": "kv"})).status == 204
    return wire


async def test_a_body_is_the_secret(wire):
    assert (await wire.ask("PUT", "/v1/old/app/db", {"user": "u", "deep": {"x": [1, None]}})).status == 204
    read = (await wire.ask("GET", "/v1/old/app/db")).json
    assert read["data"] == {"user": "u", "deep": {"x": [1, None]}}
    assert (read["lease_id"], read["renewable"], read["lease_duration"]) == ("", False, 2764800)


async def test_a_write_replaces_everything(site, wire):
    for value in ({"a": 1, "b": 2}, {"b": 3}):
        await wire.ask("POST", "/v1/old/a", value)
    assert (await wire.ask("GET", "/v1/old/a")).json["data"] == {"b": 3}
    mount = site.core.unsealed.mount_for("old/")
    kept = site.core.unsealed.reads.kv_versions(mount.mount_id, "a")
    assert len(kept) == 1, "what was overwritten is gone, not kept as a version"


async def test_digits_stay_as_they_were_written(wire):
    text = b'{"big":12345678901234567890123,"exact":1.50,"small":0.1}'
    await wire.ask("POST", "/v1/old/n", text)
    answer = await wire.ask("GET", "/v1/old/n")
    assert text in answer.body


@pytest.mark.parametrize(
    ("secret", "seconds"),
    [
        ({"ttl": "1h"}, 3600),
        ({"ttl": "3600s", "lease": "2h"}, 3600),
        ({"lease": "90"}, 90),
        ({"ttl": 90}, 90),
        ({"ttl": "bad"}, 2764800),
        ({"ttl": {"a": 1}}, 2764800),
        ({"ttl": ""}, 2764800),
    ],
)
async def test_a_secret_may_say_how_long_to_keep_it(wire, secret, seconds):
    await wire.ask("POST", "/v1/old/t", secret)
    answer = (await wire.ask("GET", "/v1/old/t")).json
    assert (answer["lease_duration"], answer["data"]) == (seconds, secret)


async def test_the_mounts_default_ttl_counts_where_the_secret_says_nothing(wire):
    await wire.ask("POST", "/v1/sys/mounts/old/tune", {"default_lease_ttl": "5m"})
    await wire.ask("POST", "/v1/old/t", {"a": 1})
    assert (await wire.ask("GET", "/v1/old/t")).json["lease_duration"] == 300


async def test_names_are_listed_by_folder_and_scanned_whole(wire):
    for path in ("a", "d/e/f", "d/g"):
        await wire.ask("POST", f"/v1/old/{path}", {"x": 1})
    assert (await wire.ask("LIST", "/v1/old")).json["data"] == {"keys": ["a", "d/"]}
    assert (await wire.ask("GET", "/v1/old/d?list=true")).json["data"] == {"keys": ["e/", "g"]}
    assert (await wire.ask("SCAN", "/v1/old/")).json["data"] == {"keys": ["a", "d/e/f", "d/g"]}
    missing = await wire.ask("LIST", "/v1/old/nope")
    assert (missing.status, missing.json) == (404, {"errors": []})


async def test_a_deleted_secret_is_gone(wire):
    await wire.ask("POST", "/v1/old/a", {"x": 1})
    for _ in range(2):
        assert (await wire.ask("DELETE", "/v1/old/a")).status == 204
    gone = await wire.ask("GET", "/v1/old/a")
    assert (gone.status, gone.json) == (404, {"errors": []})
    assert (await wire.ask("LIST", "/v1/old")).status == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("POST", "a", {}, 400, "missing data fields"),
        ("POST", "a", None, 400, "missing data fields"),
        ("POST", "", {"x": 1}, 400, "missing path"),
        ("POST", "a/", {"x": 1}, 400, "cannot write to a path ending in '/'"),
        ("PATCH", "a", {"x": 1}, 405, "1 error occurred:\n\t* unsupported operation\n\n"),
        ("GET", "", None, 404, None),
    ],
)
async def test_what_cannot_be_is_refused(wire, method, path, body, status, error):
    headers = MERGE if method == "PATCH" else None
    answer = await wire.ask(
        method, f"/v1/old/{path}".removesuffix("/" if not path else ""), body, headers=headers
    )
    assert (answer.status, answer.json) == (status, {"errors": [error] if error else []})


async def test_policies_tell_creating_from_updating(site, wire):
    policy = 'path "old/*" { capabilities = ["create", "read"] }'
    await wire.ask("POST", "/v1/sys/policies/acl/creator", {"policy": policy})
    made = await wire.ask("POST", "/v1/auth/token/create", {"policies": ["creator"]})
    creator = await site.connect(token=made.json["auth"]["client_token"])
    assert (await creator.ask("POST", "/v1/old/a", {"x": 1})).status == 204
    assert (await creator.ask("POST", "/v1/old/a", {"x": 2})).status == 403
    assert (await creator.ask("GET", "/v1/old/a")).json["data"] == {"x": 1}


async def test_a_mount_becomes_version_2_with_all_that_it_holds(wire):
    for path, value in (("a", 1), ("a", 2), ("d/b", 3)):
        await wire.ask("POST", f"/v1/old/{path}", {"x": value})
    tuned = await wire.ask("POST", "/v1/sys/mounts/old/tune", {"options": {"version": "2"}})
    assert tuned.status == 200
    assert tuned.json["warnings"]
    assert (await wire.ask("GET", "/v1/sys/mounts/old")).json["options"] == {"version": "2"}
    assert (await wire.ask("GET", "/v1/old/data/a")).json["data"]["data"] == {"x": 2}
    assert (await wire.ask("SCAN", "/v1/old/metadata/")).json["data"]["keys"] == ["a", "d/b"]
    latest = (await wire.ask("GET", "/v1/old/data/a")).json["data"]["metadata"]["version"]
    written = await wire.ask("POST", "/v1/old/data/a", {"data": {"x": 4}, "options": {"cas": latest}})
    assert written.status == 200
    before = await wire.ask("GET", f"/v1/old/data/a?version={latest}")
    assert before.json["data"]["data"] == {"x": 2}, "version 2 keeps what was there before"
    assert (await wire.ask("GET", "/v1/old/a")).json["warnings"], "the old path says where to ask now"


async def test_version_2_never_goes_back(wire):
    await wire.ask("POST", "/v1/sys/mounts/old/tune", {"options": {"version": "2"}})
    back = await wire.ask("POST", "/v1/sys/mounts/old/tune", {"options": {"version": "1"}})
    assert (back.status, back.json) == (400, {"errors": ["cannot downgrade mount from version 2"]})
    again = await wire.ask("POST", "/v1/sys/mounts/old/tune", {"options": {"version": "2"}})
    assert again.status == 204
