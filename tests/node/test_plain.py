"""Plain requests are answered exactly as aiohttp's way answers them, and nothing else is taken for one."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.corefixture import ROOT_TOKEN, opened
from support.httpfixture import Answer, Site, request, serve
from support.patience import PATIENCE_S

from node.api.plain import PLAIN_BYTES_MAX, PlainReader
from node.core import pipeline

SEED = random.SystemRandom().randrange(1 << 32)
HEADER_BYTES_MAX = 16 * 1024

HEAD = b"Host: test\r\nX-Vault-Token: t\r\n"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with opened(tmp_path) as core, serve(core, token=ROOT_TOKEN) as served:
        yield served


def read(data: bytes) -> Any:
    return PlainReader("127.0.0.1", header_bytes_max=HEADER_BYTES_MAX).read(data)


def test_an_ordinary_request_is_plain() -> None:
    found = read(b"POST /v1/secret/data/a?x=1 HTTP/1.1\r\n" + HEAD + b"Content-Length: 2\r\n\r\n{}")
    assert (found.method, found.raw_path, found.body) == ("POST", "/v1/secret/data/a?x=1", b"{}")
    assert found.headers["x-vault-token"] == "t"


def test_a_repeated_header_block_is_read_the_same() -> None:
    reader = PlainReader("127.0.0.1", header_bytes_max=HEADER_BYTES_MAX)
    for body in (b"{}", b"[]"):
        found = reader.read(b"PUT /v1/a HTTP/1.1\r\n" + HEAD + b"Content-Length: 2\r\n\r\n" + body)
        assert found is not None
        assert found.body == body
    longer = reader.read(b"PUT /v1/a HTTP/1.1\r\n" + HEAD + b"Content-Length: 2\r\n\r\n{} ")
    assert longer is None


@pytest.mark.parametrize(
    "data",
    [
        b"LIST /v1/a HTTP/1.1\r\n" + HEAD + b"\r\n",
        b"get /v1/a HTTP/1.1\r\n" + HEAD + b"\r\n",
        b"GET /v1/a HTTP/1.0\r\n" + HEAD + b"\r\n",
        b"GET /v1/a  HTTP/1.1\r\n" + HEAD + b"\r\n",
        b"GET /ui/ HTTP/1.1\r\n" + HEAD + b"\r\n",
        b"GET http://h/v1/a HTTP/1.1\r\n" + HEAD + b"\r\n",
        b"GET /v1/\xc3\xa4 HTTP/1.1\r\n" + HEAD + b"\r\n",
        b"GET /v1/a HTTP/1.1\r\nX-Vault-Token: t\r\n\r\n",  # no Host
        b"GET /v1/a HTTP/1.1\r\n" + HEAD + HEAD + b"\r\n",  # a header twice
        b"GET /v1/a HTTP/1.1\r\n" + HEAD + b"X-A: 1\r\n 2\r\n\r\n",  # folded
        b"GET /v1/a HTTP/1.1\r\n" + HEAD + b"X-A : 1\r\n\r\n",
        b"GET /v1/a HTTP/1.1\r\n" + HEAD + b"X-A: 1\n2\r\n\r\n",
        b"GET /v1/a HTTP/1.1\r\n" + HEAD + b"X-A: \x00\r\n\r\n",
        b"GET /v1/a HTTP/1.1\r\n" + HEAD + b"Connection: close\r\n\r\n",
        b"GET /v1/a HTTP/1.1\r\n" + HEAD + b"Upgrade: h2c\r\n\r\n",
        b"GET /v1/a HTTP/1.1\r\n" + HEAD + b"Content-Length: 2\r\n\r\n{}",
        b"GET /v1/a HTTP/1.1\r\n" + HEAD + b"\r\nGET /v1/b HTTP/1.1\r\n" + HEAD + b"\r\n",
        b"POST /v1/a HTTP/1.1\r\n" + HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/a HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/a HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/a HTTP/1.1\r\n" + HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/a HTTP/1.1\r\n" + HEAD + b"Content-Length: +2\r\n\r\n{}",
        b"POST /v1/a HTTP/1.1\r\n" + HEAD + b"Content-Length: 2, 2\r\n\r\n{}",
        b"POST /v1/a HTTP/1.1\r\n" + HEAD + b"Content-Length: 0x2\r\n\r\n{}",
        b"POST /v1/a HTTP/1.1\r\n" + HEAD + b"Content-Length: 3\r\n\r\n{}",
        b"POST /v1/a HTTP/1.1\r\n" + HEAD + b"Content-Length: 1\r\n\r\n{}",
        b"POST /v1/a HTTP/1.1\r\n" + HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/a HTTP/1.1\r\n" + HEAD + b"Content-Length: 2\r\n\r\n",
        b"POST /v1/a HTTP/1.1\r\n" + HEAD,
        b"\r\nGET /v1/a HTTP/1.1\r\n" + HEAD + b"\r\n",
        b"GET /v1/a HTTP/1.1\r\n" + HEAD + b"X-A: " + b"a" * HEADER_BYTES_MAX + b"\r\n\r\n",
        b"POST /v1/a HTTP/1.1\r\n" + HEAD + b"Content-Length: 99999\r\n\r\n" + b" " * 99_999,
        b"",
    ],
)
def test_what_is_not_plain_is_left_to_aiohttp(data: bytes) -> None:
    assert read(data) is None


def test_a_plain_request_has_a_bound() -> None:
    body = b" " * PLAIN_BYTES_MAX
    assert read(b"POST /v1/a HTTP/1.1\r\n" + HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body) is None


def generated(rng: random.Random) -> bytes:
    """A request of the kind that clients send, good or bad."""
    method = rng.choice(["GET", "GET", "POST", "PUT", "DELETE", "PATCH"])
    path = rng.choice(
        [
            "/v1/secret/data/a", "/v1/secret/data/b?version=1", "/v1/secret/data/none", "/v1/secret/metadata/a",
            "/v1/secret/metadata/?list=true", "/v1/secret/data/a/../b", "/v1/secret//data/a", "/v1/nomount/x",
            "/v1/secret/data/%61", "/v1/secret/data/%2e%2e", "/v1/sys/mounts", "/v1/sys/health",
            "/v1/auth/token/lookup-self", "/v1/sys/policies/acl/p", "/v1/secret/destroy/a", "/v1/",
        ]
    )  # fmt: skip
    body = rng.choice(
        [
            None,
            {},
            {"data": {"k": "v"}},
            {"data": {"k": 1}, "options": {"cas": 99}},
            {"versions": [1]},
            b"{",
            b"[]",
        ]
    )
    headers = {"X-Vault-Token": rng.choice([ROOT_TOKEN, ROOT_TOKEN, "s.unknown", ""])}
    if method == "PATCH":
        headers["Content-Type"] = rng.choice(["application/merge-patch+json", "text/plain", ""])
    headers |= rng.choice(
        [{}, {}, {"X-Vault-Namespace": "team"}, {"X-Vault-Wrap-TTL": "60"}, {"X-Vault-Index": "!"}]
    )
    return request(method, path, None if method == "GET" else body, headers=headers)


def comparable(answer: Answer) -> Any:
    """Without what differs between any two answers: ids, times and the index that writes move."""
    headers = {
        k: v for k, v in answer.headers.items() if k not in {"date", "x-vault-index", "content-length"}
    }
    if not answer.body or headers.get("content-type") != "application/json":
        return answer.status, headers, answer.body
    return answer.status, headers, _blank(json.loads(answer.body))


def _blank(value: Any) -> Any:
    moving = {"request_id", "created_time", "updated_time", "deletion_time", "server_time_utc", "version", "versions",
              "current_version", "oldest_version", "ttl", "creation_time", "token", "accessor"}  # fmt: skip
    if isinstance(value, dict):
        return {key: None if key in moving else _blank(item) for key, item in value.items()}
    return [_blank(item) for item in value] if isinstance(value, list) else value


async def test_both_ways_answer_alike(site: Site) -> None:
    """Each request is sent whole (plain), and with its first byte alone (aiohttp's), to the same store."""
    print("seed", SEED)
    rng = random.Random(SEED)
    for name in ("a", "b"):
        wire = await site.connect()
        await wire.ask("POST", f"/v1/secret/data/{name}", {"data": {"k": "v"}})
    for _ in range(300):
        data = generated(rng)
        whole = await site.connect()
        await whole.send(data)
        first = comparable(await whole.answer())
        split = await site.connect()
        by_aiohttp = site.server.requests_count
        await split.send(data[:1])
        async with asyncio.timeout(PATIENCE_S):
            while site.server.connections[-1]._plain is not None:  # until the first byte is read alone
                await asyncio.sleep(0)
        await split.send(data[1:])
        assert comparable(await split.answer()) == first, data
        assert site.server.requests_count == by_aiohttp + 1, "the other way was not taken"
        await whole.close()
        await split.close()


async def test_answers_keep_their_order_when_a_client_pipelines_behind_a_plain_request(site: Site) -> None:
    wire = await site.connect()
    token = {"X-Vault-Token": ROOT_TOKEN}
    await wire.send(request("POST", "/v1/secret/data/p", {"data": {"n": 1}}, headers=token))
    await wire.send(
        request("GET", "/v1/secret/data/p", headers=token)
        + request("LIST", "/v1/secret/metadata/", headers=token)
        + request("GET", "/v1/sys/seal-status", headers=token)
    )
    answers = [await wire.answer() for _ in range(4)]
    assert answers[0].json["data"]["version"] == 1
    assert answers[1].json["data"]["data"] == {"n": 1}
    assert answers[2].json["data"]["keys"] == ["p"]
    assert answers[3].json["sealed"] is False


async def test_an_answer_in_the_making_survives_a_drain(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graceful stop waits for a plain request, answers it and closes its connection."""
    entered, go = asyncio.Event(), asyncio.Event()
    handle = pipeline.handle

    async def slow(*args: Any) -> Any:
        entered.set()
        await go.wait()
        return await handle(*args)

    monkeypatch.setattr(pipeline, "handle", slow)
    wire = await site.connect()
    await wire.send(request("GET", "/v1/sys/seal-status"))
    await entered.wait()
    draining = asyncio.create_task(site.server.drain(PATIENCE_S))
    await asyncio.sleep(0)
    go.set()
    assert (await wire.answer()).status == 200
    assert await wire.closed()
    await draining


async def test_a_client_that_goes_away_does_not_undo_its_write(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = asyncio.Event()
    handle = pipeline.handle

    async def watched(*args: Any) -> Any:
        try:
            return await handle(*args)
        finally:
            done.set()

    monkeypatch.setattr(pipeline, "handle", watched)
    wire = await site.connect()
    headers = {"X-Vault-Token": ROOT_TOKEN}
    body = {"custom_metadata": {"n": "1"}}
    await wire.send(request("POST", "/v1/secret/metadata/gone", body, headers=headers))
    wire.writer.transport.abort()
    async with asyncio.timeout(PATIENCE_S):
        await done.wait()
    monkeypatch.undo()
    answer = await (await site.connect()).ask("GET", "/v1/secret/metadata/gone")
    assert answer.json["data"]["custom_metadata"] == {"n": "1"}
