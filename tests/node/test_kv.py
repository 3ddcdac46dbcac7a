"""KV version 2 as its clients see it, and a write that happens once whatever happens on the way."""

import asyncio
import json
import os
import random
import sys
from pathlib import Path

import hvac
import pytest
from support.httpfixture import dev_core, request, serve

from consensus.errors import OutcomeUnknown
from consensus.memory import SoloGroup
from node import errors
from node.engines import kv_writes
from node.engines.kv import merge_patch
from node.engines.kv_writes import RACE_RETRIES_MAX, Writer
from storage.command import KvPut, decode, encode

PATCH = {"Content-Type": "application/merge-patch+json"}
NO_VERSION = "No version number provided"


@pytest.fixture
async def site(tmp_path):
    async with dev_core(tmp_path) as (core, token), serve(core, token=token) as site:
        yield site


@pytest.fixture
async def wire(site):
    return await site.connect()


@pytest.fixture
def kv(wire):
    """Ask for a path of the mount secret/."""

    async def ask(method, path, body=None, *, headers=None):
        return await wire.ask(method, f"/v1/secret/{path}", body, headers=headers)

    return ask


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
    db.begin()
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
        assert (await kv("POST", f"{verb}/a", body)).json == {"errors": [NO_VERSION]}


async def test_a_version_may_die_by_age(site, kv, monkeypatch):
    await kv("POST", "metadata/a", {"delete_version_after": "2s"})
    written = await kv("POST", "data/a", {"data": {"k": "v"}})
    assert written.json["data"]["deletion_time"] > written.json["data"]["created_time"]
    assert (await kv("GET", "data/a")).status == 200
    clock = site.core.store.now_ns() + 2_000_000_000
    monkeypatch.setattr(type(site.core.store), "now_ns", lambda self: clock)
    assert (await kv("GET", "data/a")).status == 404


# --- metadata, lists ---


async def test_metadata(kv):
    await kv("POST", "data/a", {"data": {}})
    assert (
        await kv("POST", "metadata/a", {
            "max_versions": "3", "cas_required": "true", "delete_version_after": "3h", "custom_metadata": {"o": "me"},
        })
    ).status == 204  # fmt: skip
    data = (await kv("GET", "metadata/a")).json["data"]
    assert list(data) == [
        "cas_required", "created_time", "current_metadata_version", "current_version", "custom_metadata",
        "delete_version_after", "max_versions", "metadata_cas_required", "oldest_version", "updated_time", "versions",
    ]  # fmt: skip
    assert data["delete_version_after"] == "3h0m0s"
    assert (data["cas_required"], data["max_versions"], data["custom_metadata"]) == (True, 3, {"o": "me"})
    assert data["versions"]["1"] | {"created_time": ""} == {
        "created_time": "",
        "deletion_time": "",
        "destroyed": False,
    }
    assert (await kv("GET", "data/a")).json["data"]["metadata"]["custom_metadata"] == {"o": "me"}
    assert (
        await kv("PATCH", "metadata/a", {"custom_metadata": {"o": None, "p": "x"}}, headers=PATCH)
    ).status == 204
    assert (await kv("GET", "metadata/a")).json["data"]["custom_metadata"] == {"p": "x"}
    assert (
        await kv("PATCH", "metadata/a", {"custom_metadata": None, "cas_required": False}, headers=PATCH)
    ).status == 204
    data = (await kv("GET", "metadata/a")).json["data"]
    assert (data["custom_metadata"], data["cas_required"], data["max_versions"]) == (None, False, 3)
    assert (await kv("DELETE", "metadata/a")).status == 204
    assert (await kv("GET", "metadata/a")).status == 404
    assert (await kv("GET", "data/a")).json == {"errors": []}


async def test_metadata_may_come_first(kv):
    assert (await kv("PUT", "metadata/a", {})).status == 204
    assert (await kv("GET", "data/a")).json == {"errors": []}
    assert (await kv("GET", "metadata/a")).json["data"]["versions"] == {}
    assert (await kv("PATCH", "metadata/none", {"max_versions": 1}, headers=PATCH)).status == 404
    assert (await kv("GET", "metadata/none")).status == 404


@pytest.mark.parametrize(
    "custom",
    [
        {str(n): "v" for n in range(65)}, {"k" * 129: "v"}, {"ü" * 65: "v"}, {"k": "v" * 513}, {"": "v"}, {"k": ""},
        {"k": "a\nb"}, {"a\tb": "v"}, {"k": None}, "x", {"k": {"n": 1}}, ["a=b"],
    ],
)  # fmt: skip
async def test_custom_metadata_has_limits(kv, custom):
    assert (await kv("POST", "metadata/a", {"custom_metadata": custom})).status == 400
    assert (await kv("GET", "metadata/a")).status == 404


async def test_a_patch_cannot_exceed_the_limits_either(kv):
    full = {str(n): "v" for n in range(64)}
    assert (await kv("POST", "metadata/a", {"custom_metadata": full})).status == 204
    assert (await kv("PATCH", "metadata/a", {"custom_metadata": {"more": "v"}}, headers=PATCH)).status == 400
    swapped = {"0": None, "more": "v"}
    assert (await kv("PATCH", "metadata/a", {"custom_metadata": swapped}, headers=PATCH)).status == 204


@pytest.mark.parametrize(
    "body", [{"max_versions": "abc"}, {"max_versions": -1}, {"delete_version_after": "zzz"},
             {"delete_version_after": "-1s"}, {"cas_required": "maybe"}, {"metadata_cas_required": True}],
)  # fmt: skip
async def test_metadata_that_makes_no_sense_is_refused(kv, body):
    assert (await kv("POST", "metadata/a", body)).status == 400
    assert (await kv("GET", "metadata/a")).status == 404


async def test_lists_are_pages_of_sorted_names(kv):
    for path in ("b", "a/x", "a/y/z", "c"):
        await kv("POST", f"data/{path}", {"data": {}})
    assert (await kv("LIST", "metadata")).json["data"] == {"keys": ["a/", "b", "c"]}
    assert (await kv("LIST", "metadata?limit=2")).json["data"]["keys"] == ["a/", "b"]
    assert (await kv("LIST", "metadata?after=a/&limit=1")).json["data"]["keys"] == ["b"]
    assert (await kv("LIST", "metadata?limit=-1")).json["data"]["keys"] == ["a/", "b", "c"]
    assert (await kv("LIST", "metadata?limit=x")).status == 400
    assert (await kv("LIST", "metadata/a")).json["data"]["keys"] == ["x", "y/"]
    assert (await kv("LIST", "metadata/b")).json == {"errors": []}
    assert (await kv("LIST", "data/a")).status == 405
    detailed = (await kv("LIST", "detailed-metadata")).json["data"]
    assert detailed["keys"] == ["a/", "b", "c"]
    assert (detailed["key_info"]["a/"], detailed["key_info"]["b"]["current_version"]) == ({}, 1)


async def test_a_list_too_long_asks_for_pages(tmp_path):
    async with dev_core(tmp_path, list_keys_max=3) as (core, token), serve(core, token=token) as site:
        wire = await site.connect()
        for n in range(4):
            await wire.ask("POST", f"/v1/secret/data/{n}", {"data": {}})
        assert (await wire.ask("LIST", "/v1/secret/metadata")).status == 400
        assert (await wire.ask("LIST", "/v1/secret/metadata?limit=4")).status == 400
        assert (await wire.ask("LIST", "/v1/secret/metadata?limit=3")).json["data"]["keys"] == ["0", "1", "2"]
        assert (await wire.ask("LIST", "/v1/secret/metadata?after=2")).json["data"]["keys"] == ["3"]


async def test_subkeys(kv):
    await kv("POST", "data/a", {"data": {"x": {"y": {"z": 1}, "l": [{"m": 1}]}, "s": "canary"}})
    answer = await kv("GET", "subkeys/a")
    assert answer.json["data"]["subkeys"] == {"x": {"y": {"z": None}, "l": None}, "s": None}
    assert (await kv("GET", "subkeys/a?depth=1")).json["data"]["subkeys"] == {"x": None, "s": None}
    assert (await kv("GET", "subkeys/a?depth=2")).json["data"]["subkeys"] == {
        "x": {"y": None, "l": None},
        "s": None,
    }
    await kv("DELETE", "data/a")
    gone = await kv("GET", "subkeys/a")
    assert (gone.status, gone.json["data"]["subkeys"]) == (404, None)


async def test_the_configuration_of_a_mount(kv):
    assert (await kv("GET", "config")).json["data"] == {
        "cas_required": False, "delete_version_after": "0s", "max_versions": 0, "metadata_cas_required": False,
    }  # fmt: skip
    assert (await kv("POST", "config", {"max_versions": 5, "delete_version_after": "1h"})).status == 204
    assert (await kv("POST", "config", {"cas_required": True, "delete_version_after": "-1s"})).status == 204
    data = (await kv("GET", "config")).json["data"]
    assert (data["max_versions"], data["delete_version_after"], data["cas_required"]) == (5, "-1s", True)


@pytest.mark.parametrize(
    ("method", "path", "verb"),
    [("GET", "foo", "get"), ("POST", "foo/bar", "put"), ("DELETE", "foo", "delete"), ("LIST", "foo", "list")],
)
async def test_a_path_without_data_gets_advice(kv, method, path, verb):
    answer = await kv(method, path, {"a": 1} if method == "POST" else None)
    assert (answer.status, answer.json["data"]) == (404, None)
    assert answer.json["warnings"][0].endswith(f"use 'bao kv {verb}' for this operation.")


async def test_slashes_at_the_end(kv):
    await kv("POST", "data/a", {"data": {}})
    refused = {"errors": ["cannot write to a path ending in '/'"]}
    for method in ("POST", "PUT"):
        for path in ("data/a/", "metadata/", "delete/a/"):
            answer = await kv(method, path, {"data": {}, "versions": [1]})
            assert (answer.status, answer.json) == (400, refused)
    assert (await kv("GET", "data/a/")).status == 404
    assert (await kv("DELETE", "metadata/a/")).status == 400
    assert (await kv("GET", "data/")).json == {"errors": []}
    assert "Non-listing" in (await kv("GET", "metadata")).json["warnings"][0]
    assert (await kv("GET", "data/a")).status == 200


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


# --- exactly once ---


class Interfering(SoloGroup):
    """A group in which others write the same key first, and in which answers get lost."""

    def __init__(self, group: SoloGroup) -> None:
        self.__dict__.update(group.__dict__)
        self.before: list[bytes] = []  # commands that win the next races
        self.lose: list[bool] = []  # whether the next outcomes get lost, applied or not
        self.proposed: list[bytes] = []

    async def propose(self, command, *, request_id, timeout):
        self.proposed.append(request_id)
        if self.before:
            await super().propose(self.before.pop(0), request_id=os.urandom(16), timeout=timeout)
        applied = await super().propose(command, request_id=request_id, timeout=timeout)
        if self.lose and self.lose.pop(0):
            raise OutcomeUnknown("lost")
        return applied


@pytest.fixture
def group(site):
    site.core.store._group = Interfering(site.core.store._group)
    return site.core.store._group


def rival(site, path: str, version: int) -> bytes:
    store = site.core.store
    mount = store.reads.mount_for("secret/")
    sealed = store.seal(kv_writes.place(mount.mount_id, path, version), b'{"by":"rival"}')
    return encode(
        KvPut(
            time_ns=store.now_ns(),
            mount_id=mount.mount_id,
            path=path,
            version=version,
            cas=None,
            value=sealed,
        )
    )


async def test_a_raced_write_is_encrypted_again(site, kv, group):
    group.before = [rival(site, "a", 1), rival(site, "a", 2)]
    written = await kv("POST", "data/a", {"data": {"by": "me"}})
    assert written.json["data"]["version"] == 3
    assert (await kv("GET", "data/a")).json["data"]["data"] == {"by": "me"}
    assert (await kv("GET", "data/a?version=2")).json["data"]["data"] == {"by": "rival"}


async def test_a_raced_patch_is_merged_again(site, kv, group):
    await kv("POST", "data/a", {"data": {"mine": 1}})
    group.before = [rival(site, "a", 2)]
    await kv("PATCH", "data/a", {"data": {"patched": 1}}, headers=PATCH)
    assert (await kv("GET", "data/a")).json["data"]["data"] == {"by": "rival", "patched": 1}


async def test_a_lost_race_under_cas_is_a_mismatch(site, kv, group):
    group.before = [rival(site, "a", 1)]
    answer = await kv("POST", "data/a", {"data": {}, "options": {"cas": 0}})
    assert (answer.status, answer.json["errors"][0]) == (400, kv_writes.CAS_MISMATCH)


async def test_racing_ends(site, kv, group):
    group.before = [rival(site, "a", n) for n in range(1, RACE_RETRIES_MAX + 1)]
    assert (await kv("POST", "data/a", {"data": {}})).status == 503
    assert (await kv("GET", "metadata/a")).json["data"]["current_version"] == RACE_RETRIES_MAX


@pytest.mark.parametrize("races", [0, 1, 3])
async def test_a_repeated_write_finds_its_first_outcome_through_the_races(site, kv, group, races):
    """The version to predict is another by then; the chain of attempts and its end are the same."""
    headers = {"X-Strongroom-Request-Id": os.urandom(16).hex()}
    group.before = [rival(site, "a", n) for n in range(1, races + 1)]
    group.lose = [False] * races + [True]
    lost = await kv("POST", "data/a", {"data": {"by": "me"}}, headers=headers)
    assert lost.status == 504
    chain = list(group.proposed)
    await kv("POST", "data/a", {"data": {"by": "somebody later"}})
    group.proposed.clear()
    again = await kv("POST", "data/a", {"data": {"by": "me"}}, headers=headers)
    assert (again.status, again.json["data"]["version"]) == (200, races + 1)
    assert group.proposed == chain
    assert len((await kv("GET", "metadata/a")).json["data"]["versions"]) == races + 2


async def test_a_repeated_check_and_set_that_succeeded_succeeds(kv, group):
    headers = {"X-Strongroom-Request-Id": os.urandom(16).hex()}
    group.lose = [True]
    body = {"data": {"n": 1}, "options": {"cas": 0}}
    assert (await kv("POST", "data/a", body, headers=headers)).status == 504
    assert (await kv("POST", "data/a", body, headers=headers)).json["data"]["version"] == 1


@pytest.mark.parametrize("seed", range(8))
async def test_exactly_once_over_nodes_that_race_and_lose_answers(site, seed):
    """Two nodes' writers, one log; every request is repeated, on either node, until it has an answer."""
    print("seed", seed)
    rng = random.Random(seed)
    store = site.core.store
    mount_id = store.reads.mount_for("secret/").mount_id
    inner = store._group.propose

    async def propose(command, *, request_id, timeout):
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        fate = rng.random()
        if fate < 0.15:
            raise OutcomeUnknown("lost")
        applied = await inner(command, request_id=request_id, timeout=timeout)
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        if fate < 0.4:
            raise OutcomeUnknown("lost")
        return applied

    store._group.propose = propose
    nodes = [Writer(), Writer()]

    async def client(number: int) -> int:
        request_id = number.to_bytes(16, "big")

        async def ask(node):
            return await node.put(
                store, mount_id=mount_id, path="hot", request_id=request_id, cas=None,
                value=lambda: json.dumps(number).encode(), value_bytes_max=100,
            )  # fmt: skip

        while True:
            # a client that gives up waiting asks again elsewhere while the first is still on its way
            asked = [asyncio.create_task(ask(rng.choice(nodes))) for _ in range(rng.randrange(1, 3))]
            results = await asyncio.gather(*asked, return_exceptions=True)
            versions = {each["version"] for each in results if isinstance(each, dict)}
            assert all(isinstance(each, dict | errors.OutcomeUnknown | errors.TooBusy) for each in results)
            if versions:
                assert len(versions) == 1
                return versions.pop()

    store_config = store.reads.kv_config(mount_id)
    assert store_config.max_versions == 0
    versions = await asyncio.gather(*(client(number) for number in range(9)))
    assert sorted(versions) == list(range(1, 10))
    for number, version in enumerate(versions):
        row = store.reads.kv_version(mount_id, "hot", version)
        assert json.loads(store.open(kv_writes.place(mount_id, "hot", version), row.value)) == number
    assert all(not node._queues for node in nodes)


async def test_writers_of_one_key_queue_up_instead_of_racing(site, kv, group):
    wires = [await site.connect() for _ in range(10)]
    answers = await asyncio.gather(*(wire.ask("POST", "/v1/secret/data/a", {"data": {}}) for wire in wires))
    assert sorted(each.json["data"]["version"] for each in answers) == list(range(1, 11))
    assert len(group.proposed) == 10


async def test_queues_are_bounded(site, kv, group, monkeypatch):
    monkeypatch.setattr(kv_writes, "LOCKED_KEYS_MAX", 0)
    answer = await kv("POST", "data/a", {"data": {}})
    assert answer.status == 503
    monkeypatch.setattr(kv_writes, "LOCKED_KEYS_MAX", 10)
    monkeypatch.setattr(kv_writes, "WAITING_WRITERS_MAX", -1)
    assert (await kv("POST", "data/a", {"data": {}})).status == 503


async def test_what_is_replicated_holds_no_plaintext(site, wire):
    seen = []
    inner = site.core.store._group.propose

    async def propose(command, **rest):
        seen.append(command)
        return await inner(command, **rest)

    site.core.store._group.propose = propose
    await wire.send(
        request("POST", "/v1/secret/data/a", {"data": {"k": "canary"}}, headers={"X-Vault-Token": site.token})
    )
    assert (await wire.answer()).status == 200
    assert [type(decode(each)) for each in seen] == [KvPut]
    assert b"canary" not in seen[0]
