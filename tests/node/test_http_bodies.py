"""Bodies over real sockets: JSON whatever they are called, bounded in size, shape and time."""

import asyncio
import json
from decimal import Decimal

import pytest
from support.httpfixture import dev_core, request, serve
from support.patience import PATIENCE_S

from node.api import body
from node.api.body import check_shape, parse
from node.errors import InvalidRequest


@pytest.mark.parametrize(
    "content_type", ["", "application/json", "text/plain", "application/x-www-form-urlencoded"]
)
async def test_a_body_is_json_whatever_it_is_called(wire, content_type):
    answer = await wire.ask("PUT", "/v1/secret/data/a", {"data": {}}, headers={"Content-Type": content_type})
    assert answer.status == 200


async def test_a_patch_names_its_media_type(wire):
    await wire.ask("POST", "/v1/secret/data/a", {"data": {"k": "v"}})
    changes = {"data": {"l": "w"}}
    answer = await wire.ask("PATCH", "/v1/secret/data/a", changes)
    assert (answer.status, answer.json) == (400, {"errors": ["mime: no media type"]})
    for content_type, status in (
        ("application/json", 415),
        ("application/merge-patch+json; charset=utf-8", 200),
    ):
        answer = await wire.ask("PATCH", "/v1/secret/data/a", changes, headers={"Content-Type": content_type})
        assert answer.status == status


async def test_what_has_no_envelope_takes_no_patch_of_any_type(wire):
    for path in ("health", "seal-status", "leader", "init", "unseal"):
        for headers in ({}, {"Content-Type": "application/merge-patch+json"}):
            answer = await wire.ask("PATCH", f"/v1/sys/{path}", headers=headers)
            assert (answer.status, answer.json) == (405, {"errors": []})


async def test_an_empty_body_is_legal(wire):
    assert (await wire.ask("POST", "/v1/secret/metadata/a")).status == 204
    await wire.send(
        request("PUT", "/v1/secret/metadata/a", headers={"X-Vault-Token": wire.token, "Content-Length": "0"})
    )
    assert (await wire.answer()).status == 204


async def test_the_body_of_a_read_is_ignored(wire):
    await wire.ask("POST", "/v1/secret/data/a", {"data": {"k": "v"}})
    assert (await wire.ask("GET", "/v1/secret/data/a", b"{not json")).json["data"]["data"] == {"k": "v"}
    assert (await wire.ask("LIST", "/v1/secret/metadata", b"[]")).json["data"]["keys"] == ["a"]


@pytest.mark.parametrize(
    "data",
    [
        b"{bad",
        b'{"data":{}} trailing',
        b'{"data":{}}{}',
        b"[]",
        b'"s"',
        b"1",
        b"nul",
        b"null null",
        b'{"a":"\xff"}',
        b"\xef\xbb\xbf{}",
    ],
)
async def test_what_is_no_json_object_is_refused(wire, data):
    answer = await wire.ask("POST", "/v1/secret/data/a", data)
    assert answer.status == 400
    assert answer.json["errors"][0].startswith("failed to decode JSON input: ")
    assert (await wire.ask("GET", "/v1/sys/health")).status == 200


async def test_null_is_a_body_with_no_fields(wire):
    """`bao write -f` sends it."""
    for data in (b"null", b" null\n"):
        answer = await wire.ask("POST", "/v1/auth/token/create", data)
        assert (answer.status, answer.json["auth"]["policies"]) == (200, ["root"])


@pytest.mark.parametrize(
    ("data", "at"),
    [
        (rb'{"a":"\ud800"}', 6),
        (rb'{"a":"\uDFFF"}', 6),
        (rb'{"\udc00":"x"}', 2),
        (rb'{"a":"\ud800x"}', 6),
        (rb'{"a":"\ud83d\ude00\ud83d"}', 18),
        (rb'{"a":"\\ud800\ud800\ud800"}', 13),
    ],
)
def test_half_of_a_surrogate_pair_is_refused_as_such(data, at):
    with pytest.raises(InvalidRequest, match=rf"half of a surrogate pair is no character \(byte {at}\)"):
        parse(data, depth_max=16)


def test_whole_surrogate_pairs_and_what_only_looks_like_half_of_one_are_text():
    assert parse(rb'{"a":"\ud83d\ude00","b":"\\ud800"}', depth_max=16) == {"a": "\U0001f600", "b": r"\ud800"}


def test_of_duplicate_keys_the_last_wins():
    assert parse(b'{"a":1,"a":{"b":1,"b":2}}', depth_max=4) == {"a": {"b": 2}}


def test_numbers_keep_their_digits():
    big = "123456789012345678901234567890"
    value = parse(f'{{"a":1.10,"b":{big},"c":0.1,"d":1e2,"e":-0.0}}'.encode(), depth_max=4)
    assert value == {"a": Decimal("1.10"), "b": int(big), "c": 0.1, "d": Decimal("1e2"), "e": 0.0}
    assert type(value["c"]) is float


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":' + b"[" * 40 + b"]" * 40 + b"}",
        b'{"a":' * 40 + b"1" + b"}" * 40,
        b"[" * 5_000_000,
        b'{"a":"\\"' + b"[" * 50 + b'", "b":' + b"[" * 40,
        b'{"a":[' + b"0," * 200_000 + b"0]}",
        b'{"a":[' + b"{}," * 200_000 + b"0]}",
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":1e400}',
        b'{"a":0.' + b"1" * 5000 + b"}",
        b'{"a":"' + b'\\"' * 500_000 + b"[" * 40,
    ],
)
def test_a_json_bomb_is_refused_before_it_is_built(data):
    with pytest.raises(InvalidRequest, match="failed to decode JSON input"):
        parse(data, depth_max=32)


def test_the_shape_is_that_of_the_text_outside_of_strings():
    text = json.dumps({"a": '[[[{{{,,,"\\' * 20_000, "b": ["\\", '"', "\\\\"] * 10}).encode()
    check_shape(text, depth_max=4)
    assert parse(text, depth_max=4) == json.loads(text)


async def test_a_body_too_large_is_refused_before_it_is_read(tmp_path):
    async with dev_core(tmp_path, body_bytes_max=10_000) as (core, token), serve(core, token=token) as site:
        wire = await site.connect()
        await wire.send(request("POST", "/v1/secret/data/a", headers={"Content-Length": "10001"}))
        answer = await wire.answer()
        assert (answer.status, answer.json) == (413, {"errors": ["http: request body too large"]})
        chunked = await site.connect()
        await chunked.send(request("POST", "/v1/secret/data/a", headers={"Transfer-Encoding": "chunked"}))
        await chunked.send(b"2711\r\n" + b" " * 10_001 + b"\r\n0\r\n\r\n")
        assert (await chunked.answer()).status == 413


async def test_a_value_too_large_is_refused_before_it_is_proposed(site, wire):
    limit = site.core.settings.value_bytes_max
    before = site.core.store.position
    answer = await wire.ask("POST", "/v1/secret/data/a", {"data": {"k": "x" * limit}})
    assert (answer.status, str(limit) in answer.json["errors"][0]) == (413, True)
    assert site.core.store.position == before
    fits = await site.connect()
    assert (await fits.ask("POST", "/v1/secret/data/a", {"data": {"k": "x" * (limit - 10)}})).status == 200


async def test_a_slow_body_is_given_up(site, wire, monkeypatch):
    monkeypatch.setattr(body, "BODY_TIMEOUT_S", 0.05)
    await wire.send(request("POST", "/v1/secret/data/a", headers={"Content-Length": "100"}) + b"{")
    answer = await wire.answer()
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    assert await wire.closed()


async def test_bodies_of_all_connections_share_an_allowance(site, monkeypatch):
    monkeypatch.setattr(body, "BUFFERED_BYTES_MAX", 1000)
    holding, refused = await site.connect(), await site.connect()
    await holding.send(
        request("POST", "/v1/secret/data/a", headers={"Content-Length": "995", "X-Vault-Token": site.token})
        + b" " * 900
    )
    async with asyncio.timeout(PATIENCE_S):
        while (await refused.ask("POST", "/v1/secret/data/b", b" " * 300)).status != 503:
            refused = await site.connect()
    await holding.send(b'{"data":{}}'.ljust(95))
    assert (await holding.answer()).status == 200


async def test_compressed_bodies_are_refused(wire):
    answer = await wire.ask(
        "POST", "/v1/secret/data/a", b"\x1f\x8b" * 10, headers={"Content-Encoding": "gzip"}
    )
    assert answer.status == 415


async def test_a_client_that_waits_for_leave_gets_it(site, wire):
    headers = {"Expect": "100-continue", "Content-Length": "11", "X-Vault-Token": site.token}
    await wire.send(request("POST", "/v1/secret/data/a", headers=headers))
    assert (await wire.reader.readuntil(b"\r\n\r\n")) == b"HTTP/1.1 100 Continue\r\n\r\n"
    await wire.send(b'{"data":{}}')
    assert (await wire.answer()).status == 200
