"""KV version 2: metadata of keys, lists, subkeys, a mount's configuration, and paths that lead nowhere."""

import pytest
from support.httpfixture import dev_core, serve

PATCH = {"Content-Type": "application/merge-patch+json"}


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
    assert (await kv("PUT", "metadata/nothing", {})).status == 204, "who says nothing makes nothing"
    assert (await kv("GET", "metadata/nothing")).status == 404
    assert (await kv("PUT", "metadata/a", {"max_versions": 0})).status == 204
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
