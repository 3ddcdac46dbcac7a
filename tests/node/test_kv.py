"""KV version 2 as its clients see it: values, versions, patches, deletion."""

import asyncio
import json
import os
import sys
from pathlib import Path

import hvac
import pytest

from node.engines.kv_values import merge_patch

PATCH = {"Content-Type": "application/merge-patch+json"}
NO_VERSION = "No version number provided"


# --- values ---


async def test_a_value_comes_back_as_it_was_written(wire, kv):
    """Byte for byte, but for whitespace and duplicate keys: digits, order and escapes that matter stay."""
    text = b'{"z": 1.10, "a": [1e400000000000000, null]}'
    assert (await kv("POST", "data/bad", b'{"data": ' + text + b"}")).status == 400
    text = b'{"z":1.10,"a":[12345678901234567890123,null,true,{"x":{}}],"e":"\xc3\xbc<>&\\u0000"}'
    written = await kv("PUT", "data/app/db", b'{"data":' + text + b',"options":{}}')
    assert written.status == 200
    metadata = written.json["data"]
    assert list(metadata) == ["created_time", "custom_metadata", "deletion_time", "destroyed", "version"]
    assert metadata | {"created_time": ""} == {
        "created_time": "", "custom_metadata": None, "deletion_time": "", "destroyed": False, "version": 1,
    }  # fmt: skip
    read = await kv("GET", "data/app/db")
    assert b'"data":{"data":' + text + b',"metadata":' in read.body
    assert read.json["data"]["metadata"] == metadata


async def test_versions_are_kept_and_asked_for(kv):
    for n in range(1, 4):
        assert (await kv("POST", "data/a", {"data": {"n": n}})).json["data"]["version"] == n
    for query, n in (("", 3), ("?version=2", 2), ("?version=0", 3), ("?version=-1", 3), ("?version=", 3)):
        assert (await kv("GET", f"data/a{query}")).json["data"]["data"] == {"n": n}
    assert (await kv("GET", "data/a?version=9")).json == {"errors": []}
    assert (await kv("GET", "data/a?version=9223372036854775808")).status == 404
    assert (await kv("GET", "data/none")).json == {"errors": []}
    bad = await kv("GET", "data/a?version=abc")
    assert bad.status == 400
    assert bad.json["errors"][0].startswith("Field validation failed")


async def test_old_versions_go(kv):
    await kv("POST", "config", {"max_versions": 2})
    for n in range(4):
        await kv("POST", "data/a", {"data": {"n": n}})
    assert (await kv("GET", "data/a?version=2")).status == 404
    assert list((await kv("GET", "metadata/a")).json["data"]["versions"]) == ["3", "4"]


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({}, 400, "no data provided"),
        ({"foo": 1}, 400, "no data provided"),
        ({"data": None}, 200, ""),
        ({"data": {}}, 200, ""),
        ({"data": "str"}, 400, 'error converting input for field "data": '),
        ({"data": [1]}, 400, 'error converting input for field "data": '),
        ({"data": {}, "options": None}, 200, ""),
        ({"data": {}, "options": "s"}, 400, 'error converting input for field "options": '),
        ({"data": {}, "options": {"cas": "x"}}, 400, "error parsing check-and-set parameter"),
        ({"data": {}, "options": {"cas": 1.5}}, 400, "error parsing check-and-set parameter"),
        (
            {"data": {}, "options": {"cas": 7}},
            400,
            "check-and-set parameter did not match the current version",
        ),
        (
            {"data": {}, "options": {"cas": -1}},
            400,
            "check-and-set parameter did not match the current version",
        ),
        ({"data": {}, "options": {"cas": 2**70}}, 400, "check-and-set parameter did not match"),
        ({"data": {}, "options": {"cas": None}}, 200, ""),
        ({"data": {}, "options": {"cas": "0"}}, 200, ""),
    ],
)
async def test_what_a_write_may_carry(kv, body, status, error):
    answer = await kv("POST", "data/a", body)
    assert answer.status == status
    if error:
        assert answer.json["errors"][0].startswith(error)
        assert (await kv("GET", "data/a")).status == 404


async def test_null_is_a_value(kv):
    await kv("POST", "data/a", {"data": None})
    answer = await kv("GET", "data/a")
    assert (answer.status, answer.json["data"]["data"]) == (200, None)


async def test_check_and_set(kv):
    assert (await kv("PUT", "data/a", {"data": {"n": 1}, "options": {"cas": 0}})).status == 200
    assert (await kv("PUT", "data/a", {"data": {"n": 2}, "options": {"cas": 0}})).status == 400
    assert (await kv("PUT", "data/a", {"data": {"n": 2}, "options": {"cas": 1}})).json["data"]["version"] == 2
    await kv("POST", "metadata/a", {"cas_required": True})
    refused = await kv("PUT", "data/a", {"data": {"n": 3}})
    assert refused.json == {"errors": ["check-and-set parameter required for this call"]}
    assert (await kv("GET", "data/a")).json["data"]["data"] == {"n": 2}


async def test_a_ciphertext_opens_only_where_it_was_written(site, kv):
    """Another key's row in its place is an error of the store, never another key's value."""
    await kv("POST", "data/a", {"data": {"k": "canary"}})
    await kv("POST", "data/b", {"data": {"k": "other"}})
    db = site.core.store._machine._db
    db.run("UPDATE kv_versions SET key_id = -1 WHERE key_id = (SELECT id FROM kv_keys WHERE path = 'b')")
    db.run(
        "UPDATE kv_versions SET key_id = (SELECT id FROM kv_keys WHERE path = 'b')"
        " WHERE key_id = (SELECT id FROM kv_keys WHERE path = 'a')"
    )
    answer = await kv("GET", "data/b")
    assert (answer.status, b"canary" in answer.body) == (500, False)
    db.rollback()


# --- patch ---


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_is_that_of_the_rfc(target, patch, result):
    assert merge_patch(target, patch) == result


async def test_a_patch_changes_the_latest_version(kv):
    await kv("POST", "data/a", b'{"data":{"keep":1.10,"drop":1,"deep":{"x":1,"y":2}}}')
    answer = await kv("PATCH", "data/a", {"data": {"drop": None, "deep": {"x": None, "z": 3}}}, headers=PATCH)
    assert answer.json["data"]["version"] == 2
    read = await kv("GET", "data/a")
    assert b'"data":{"keep":1.10,"deep":{"y":2,"z":3}}' in read.body
    assert (await kv("PATCH", "data/a", {"data": {}, "options": {"cas": 1}}, headers=PATCH)).status == 400
    assert (await kv("PATCH", "data/a", {}, headers=PATCH)).json == {"errors": ["no data provided"]}


async def test_a_patch_needs_something_to_change(kv):
    missing = await kv("PATCH", "data/none", {"data": {"k": "v"}}, headers=PATCH)
    assert (missing.status, missing.body) == (404, b"")
    await kv("POST", "data/a", {"data": {"k": "v"}})
    await kv("DELETE", "data/a")
    deleted = await kv("PATCH", "data/a", {"data": {"k": "v"}}, headers=PATCH)
    assert (deleted.status, deleted.json["data"]["version"]) == (404, 1)


async def test_a_patch_of_what_is_deleted_says_first_which_version_it_should_have_named(kv):
    """As with a real OpenBao: who names none, or another, has overlooked more than the deletion."""
    await kv("POST", "data/a", {"data": {"k": "v"}})
    await kv("DELETE", "data/a")
    for cas, status in ((1, 404), (0, 400), (2, 400)):
        answer = await kv("PATCH", "data/a", {"data": {}, "options": {"cas": cas}}, headers=PATCH)
        assert answer.status == status
    await kv("POST", "metadata/a", {"cas_required": True})
    answer = await kv("PATCH", "data/a", {"data": {}}, headers=PATCH)
    assert "check-and-set parameter required" in answer.json["errors"][0]
    assert answer.status == 400


# --- deletion ---


async def test_delete_undelete_destroy(kv):
    for n in (1, 2, 3):
        await kv("POST", "data/a", {"data": {"n": n}})
    assert (await kv("DELETE", "data/a")).status == 204
    gone = await kv("GET", "data/a")
    assert (gone.status, gone.json["data"]["data"]) == (404, None)
    assert gone.json["data"]["metadata"]["version"] == 3
    assert gone.json["data"]["metadata"]["deletion_time"].endswith("Z")
    assert (await kv("GET", "data/a?version=2")).status == 200
    assert (await kv("POST", "delete/a", {"versions": ["1", "2"]})).status == 204
    assert (await kv("PUT", "undelete/a", {"versions": "1,3"})).status == 204
    assert [(await kv("GET", f"data/a?version={n}")).status for n in (1, 2, 3)] == [200, 404, 200]
    assert (await kv("PUT", "destroy/a", {"versions": [1]})).status == 204
    assert (await kv("PUT", "undelete/a", {"versions": [1]})).status == 204
    destroyed = await kv("GET", "data/a?version=1")
    assert (destroyed.status, destroyed.json["data"]["metadata"]["destroyed"]) == (404, True)


async def test_what_is_not_there_is_deleted_without_complaint(kv):
    assert (await kv("DELETE", "data/none")).status == 204
    assert (await kv("DELETE", "metadata/none")).status == 204
    assert (await kv("POST", "destroy/none", {"versions": [1]})).status == 204
    await kv("POST", "data/a", {"data": {}})
    assert (await kv("POST", "delete/a", {"versions": [77]})).status == 204
    assert (await kv("GET", "data/a")).status == 200


@pytest.mark.parametrize("versions", [[-1], [0], ["0", "-5"], [2**60]])
async def test_versions_that_cannot_exist_never_mean_the_latest(kv, versions):
    await kv("POST", "data/a", {"data": {}})
    for verb in ("delete", "destroy"):
        assert (await kv("POST", f"{verb}/a", {"versions": versions})).status == 204
    assert (await kv("GET", "data/a")).status == 200


@pytest.mark.parametrize("body", [{}, {"versions": []}, {"versions": None}, {"versions": ""}])
async def test_versions_have_to_be_named(kv, body):
    for verb in ("delete", "undelete", "destroy"):
        answer = await kv("POST", f"{verb}/a", body)
        assert answer.status == 400
        assert answer.json["errors"][0].lower() == NO_VERSION.lower()


async def test_a_version_may_die_by_age(site, kv, monkeypatch):
    await kv("POST", "metadata/a", {"delete_version_after": "1h"})
    written = await kv("POST", "data/a", {"data": {"k": "v"}})
    assert written.json["data"]["deletion_time"] > written.json["data"]["created_time"]
    assert (await kv("GET", "data/a")).status == 200
    clock = site.core.store.now_ns() + 3_600_000_000_000
    monkeypatch.setattr(type(site.core.store), "now_ns", lambda self: clock)
    assert (await kv("GET", "data/a")).status == 404


# --- clients ---


async def test_create_and_update_are_different_rights(site, wire):
    policy = 'path "secret/data/*" { capabilities = ["create"] }'
    await wire.ask("POST", "/v1/sys/policies/acl/new", {"policy": policy})
    made = await wire.ask("POST", "/v1/auth/token/create", {"policies": ["new"], "no_default_policy": True})
    theirs = await site.connect(token=made.json["auth"]["client_token"])
    assert (await theirs.ask("POST", "/v1/secret/data/a", {"data": {}})).status == 200
    assert (await theirs.ask("POST", "/v1/secret/data/a", {"data": {}})).status == 403


@pytest.mark.filterwarnings("ignore:The raise_on_deleted_version:DeprecationWarning")
async def test_hvac_agrees(site):
    def talk():
        client = hvac.Client(url=site.url, token=site.token)
        assert client.is_authenticated()
        v2 = client.secrets.kv.v2
        v2.create_or_update_secret("app/a", {"u": "v"}, cas=0)
        with pytest.raises(hvac.exceptions.InvalidRequest, match="did not match the current version"):
            v2.create_or_update_secret("app/a", {"u": "v"}, cas=0)
        v2.patch("app/a", {"n": "1"})
        assert v2.read_secret_version("app/a")["data"]["data"] == {"u": "v", "n": "1"}
        assert v2.list_secrets("")["data"]["keys"] == ["app/"]
        assert client.list("secret/metadata/app")["data"]["keys"] == ["a"]
        with pytest.raises(hvac.exceptions.InvalidPath):
            v2.list_secrets("none")
        v2.delete_latest_version_of_secret("app/a")
        read = v2.read_secret_version("app/a", raise_on_deleted_version=False)
        assert read["data"]["data"] is None
        v2.undelete_secret_versions("app/a", [2])
        v2.delete_secret_versions("app/a", [1])
        v2.destroy_secret_versions("app/a", [1])
        v2.update_metadata("app/a", max_versions=4, delete_version_after="3h", custom_metadata={"x": "y"})
        metadata = v2.read_secret_metadata("app/a")["data"]
        assert metadata["versions"]["1"]["destroyed"] is True
        assert metadata["custom_metadata"] == {"x": "y"}
        v2.configure(max_versions=9)
        assert v2.read_configuration()["data"]["max_versions"] == 9
        v2.delete_metadata_and_all_versions("app/a")

    await asyncio.to_thread(talk)


async def test_the_real_command_line_agrees(site, tmp_path):
    env = {"BAO_ADDR": site.url, "BAO_TOKEN": site.token, "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    bao = str(Path(sys.executable).parent / "bao")

    async def run(*args: str, code: int = 0, form: str = "json") -> str:
        process = await asyncio.create_subprocess_exec(
            bao,
            "kv",
            *args,
            env=env | {"BAO_FORMAT": form},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == code, (args, out, err)
        return (out if code == 0 else err).decode()

    assert json.loads(await run("put", "secret/app/db", "user=u", "pass=p"))["data"]["version"] == 1
    await run("put", "-mount=secret", "-cas=1", "app/db", "user=u2")
    assert "did not match" in await run("put", "-cas=0", "secret/app/db", "a=b", code=2)
    assert json.loads(await run("get", "secret/app/db"))["data"]["data"] == {"user": "u2"}
    assert json.loads(await run("get", "-version=1", "secret/app/db"))["data"]["data"] == {
        "user": "u",
        "pass": "p",
    }
    await run("patch", "secret/app/db", "extra=yes")
    await run("patch", "-method=rw", "secret/app/db", "more=yes")
    assert "user" in await run("get", "secret/app/db", form="table")
    assert json.loads(await run("list", "secret/app")) == ["db"]
    assert "No value found" in await run("list", "secret/none", code=2, form="table")
    await run("delete", "secret/app/db")
    await run("undelete", "-versions=4", "secret/app/db")
    await run("destroy", "-versions=2", "secret/app/db")
    assert json.loads(await run("rollback", "-version=1", "secret/app/db"))["data"]["version"] == 5
    await run(
        "metadata", "put", "-max-versions=7", "-custom-metadata=owner=me", "secret/app/db", form="table"
    )
    await run("metadata", "patch", "-custom-metadata=team=x", "secret/app/db", form="table")
    assert "owner" in await run("metadata", "get", "secret/app/db", form="table")
    await run("metadata", "delete", "secret/app/db", form="table")
    assert "No value found" in await run("get", "secret/app/db", code=2, form="table")
    assert "preflight capability check returned 403" in await run("get", "nomount/x", code=2)
