"""LIST and SCAN are HTTP methods: in pieces, kept alive, pipelined; and nothing can be smuggled past a parser."""

import asyncio
import contextlib
import inspect
import random

import aiohttp
import pytest
from aiohttp import web_protocol
from support.httpfixture import dev_core, request, serve
from support.patience import PATIENCE_S

from node.api import protocol
from node.api.protocol import HEADER_FIELDS_MAX, Connection, RequestParser


@pytest.fixture
async def site(tmp_path):
    async with dev_core(tmp_path) as (core, token), serve(core, token=token) as site:
        wire = await site.connect()
        for path in ("a", "app/one", "app/deep/two"):
            assert (await wire.ask("POST", f"/v1/secret/data/{path}", {"data": {"k": path}})).status == 200
        yield site


def test_the_seam_to_aiohttp_is_as_we_know_it():
    """What Connection replaces must still be there when aiohttp is updated."""
    assert aiohttp.__version__ == "3.14.5"
    source = inspect.getsource(web_protocol.RequestHandler.__init__)
    assert "max_msg_queue_size=MAX_MSG_QUEUE_SIZE" in source
    assert "super().__init__(loop, parser)" in source
    assert "self._parser.feed_data(data)" in inspect.getsource(web_protocol.RequestHandler.data_received)
    parser = RequestParser(limit=2**16)
    for name in ("_lines", "_tail", "_payload_parser", "_msg_in_flight", "_max_msg_queue_size"):
        assert hasattr(parser, name)


async def test_every_connection_has_the_parser_that_takes_any_method(site):
    assert all(isinstance(each, Connection) for each in site.server.connections)
    assert all(type(each._parser) is RequestParser for each in site.server.connections)


async def test_list_in_two_spellings(site):
    wire = await site.connect()
    for answer in (
        await wire.ask("LIST", "/v1/secret/metadata"),
        await wire.ask("LIST", "/v1/secret/metadata/"),
        await wire.ask("GET", "/v1/secret/metadata?list=true"),
        await wire.ask("GET", "/v1/secret/metadata/?list=True"),
    ):
        assert (answer.status, answer.json["data"]) == (200, {"keys": ["a", "app/"]})
    assert (await wire.ask("SCAN", "/v1/secret/metadata/app")).json["data"] == {"keys": ["deep/two", "one"]}
    assert (await wire.ask("GET", "/v1/secret/metadata?scan=1")).json["data"]["keys"] == [
        "a",
        "app/deep/two",
        "app/one",
    ]
    assert (await wire.ask("GET", "/v1/secret/metadata?list=maybe")).status == 400


async def test_a_method_is_a_matter_of_case(site):
    wire = await site.connect()
    for method in ("get", "list", "Delete"):
        assert (await wire.ask(method, "/v1/secret/data/a")).status == 405
    assert (await wire.ask("GET", "/v1/secret/data/a")).status == 200


async def test_a_target_in_absolute_form_is_the_same_target(site):
    """As a client sends it that takes the server for its proxy."""
    wire = await site.connect()
    plain = await wire.ask("GET", "/v1/secret/data/a")
    for origin in ("http://test", "HTTPS://other:8200", "http://[::1]:8200"):
        answer = await wire.ask("GET", f"{origin}/v1/secret/data/a")
        assert (answer.status, answer.json["data"]) == (200, plain.json["data"])
    listed = await wire.ask("GET", "http://test/v1/secret/metadata?list=true")
    assert listed.json["data"]["keys"] == ["a", "app/"]
    moved = await wire.ask("GET", "http://test/v1/secret/data/b/../a")
    assert (moved.status, moved.headers["location"]) == (307, "/v1/secret/data/a")
    for target, status in (
        ("http://test", 404),
        ("http://test?list=true", 404),
        ("http://test#/v1/secret/data/a", 400),
        ("http://test/v1/secret/data/%2e%2e", 400),
        ("ftp://test/v1/secret/data/a", 400),
    ):
        assert (await wire.ask("GET", target)).status == status, target


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16])
async def test_list_in_split_packets(site, size):
    wire = await site.connect()
    data = request("LIST", "/v1/secret/metadata/app", headers={"X-Vault-Token": site.token})
    for start in range(0, len(data), size):
        await wire.send(data[start : start + size])
        await asyncio.sleep(0)
    assert (await wire.answer()).json["data"] == {"keys": ["deep/", "one"]}


async def test_pipelined_requests_are_answered_in_order(site):
    wire = await site.connect()
    auth = {"X-Vault-Token": site.token}
    await wire.send(
        request("GET", "/v1/secret/data/a", headers=auth)
        + request("LIST", "/v1/secret/metadata", headers=auth)
        + request(
            "POST", "/v1/secret/data/b", {"data": {"k": "LIST /v1/secret/metadata HTTP/1.1"}}, headers=auth
        )
        + request("SCAN", "/v1/secret/metadata", headers=auth)
        + request("GET", "/v1/secret/data/b", headers=auth)
    )
    answers = [await wire.answer() for _ in range(5)]
    assert [answer.status for answer in answers] == [200] * 5
    assert answers[0].json["data"]["data"] == {"k": "a"}
    assert answers[1].json["data"]["keys"] == ["a", "app/"]
    assert answers[2].json["data"]["version"] == 1
    assert answers[3].json["data"]["keys"] == ["a", "app/deep/two", "app/one", "b"]
    assert answers[4].json["data"]["data"] == {"k": "LIST /v1/secret/metadata HTTP/1.1"}


async def test_more_pipelined_requests_than_the_queue_holds(site):
    wire = await site.connect()
    count = 3 * protocol.PIPELINED_MAX + 5
    auth = {"X-Vault-Token": site.token}
    methods = ["GET", "LIST"] * count
    paths = {"GET": "/v1/secret/data/a", "LIST": "/v1/secret/metadata"}
    await wire.send(b"".join(request(m, paths[m], headers=auth) for m in methods[:count]))
    for method in methods[:count]:
        assert ("keys" in (await wire.answer()).json["data"]) == (method == "LIST")


async def test_a_kept_alive_connection_serves_mixed_methods(site):
    wire = await site.connect()
    for _ in range(20):
        assert (await wire.ask("LIST", "/v1/secret/metadata")).status == 200
        assert (await wire.ask("PUT", "/v1/secret/data/a", {"data": {}})).status == 200
        assert (await wire.ask("DELETE", "/v1/secret/data/none")).status == 204


SMUGGLED = b"GET /v1/secret/data/smuggled HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/x HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: t\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST /v1/secret/data/x HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /v1/secret/data/x HTTP/1.1\r\nHost: t\r\nContent-Length: 5, 5\r\n\r\nhello",
        b"POST /v1/secret/data/x HTTP/1.1\r\nHost: t\r\nContent-Length: +5\r\n\r\nhello",
        b"POST /v1/secret/data/x HTTP/1.1\r\nHost: t\r\nContent-Length: 0x5\r\n\r\nhello",
        b"POST /v1/secret/data/x HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        b"POST /v1/secret/data/x HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"POST /v1/secret/data/x HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/secret/data/x HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
        b"POST /v1/secret/data/x HTTP/1.0\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/secret/data/x HTTP/1.1\r\nHost: t\r\nContent-Length : 5\r\n\r\nhello",
        b"GET /v1/secret/data/x HTTP/1.1\nHost: t\n\n",
        b"GET /v1/secret/data/x HTTP/1.1\r\nHost: t\nX: y\r\n\r\n",
        b"GET /v1/secret/data/x HTTP/1.1\r\nHost: t\rX: y\r\n\r\n",
        b"GET /v1/secret/data/x HTTP/1.1\r\nHost: t\r\n X-Folded: y\r\n\r\n",
        b"GET /v1/secret/data/x HTTP/1.1\r\nHost: t\r\nHost: u\r\n\r\n",
        b"GET /v1/secret/data/x HTTP/1.1\r\nHost: t/v1\r\n\r\n",
        b"GET /v1/secret/data/x HTTP/1.1\r\nHost: t u\r\n\r\n",
        b"GET /v1/secret/data/x HTTP/1.1\r\nHost: \xc3\xa4\r\n\r\n",
        b"GET /v1/secret/data/x HTTP/1.1\r\n\r\n",
        b"GET /v1/secret/data/x HTTP/2.0\r\nHost: t\r\n\r\n",
        b"GET  /v1/secret/data/x HTTP/1.1\r\nHost: t\r\n\r\n",
        b"GET /v1/secret/data/x\r\n\r\n",
        b"CONNECT secret:1 HTTP/1.1\r\nHost: t\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
    ],
)
async def test_a_request_with_two_readings_ends_the_connection(site, head):
    """One refusal, as JSON, and nothing after it is looked at."""
    wire = await site.connect()
    await wire.send(head + SMUGGLED)
    answer = await wire.answer()
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/json"
    assert b"smuggled" not in answer.body
    assert await wire.closed()


async def test_http_1_0_has_no_chunks(site):
    wire = await site.connect()
    await wire.send(b"POST /v1/sys/unseal HTTP/1.0\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    assert ((await wire.answer()).json, await wire.closed()) == ({"errors": ["malformed HTTP request"]}, True)


@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nhelloX\r\n",
        b"zz\r\nhello\r\n",
        b"-1\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
    ],
)
async def test_a_broken_chunk_ends_the_connection(site, body):
    wire = await site.connect()
    head = (
        f"POST /v1/secret/data/x HTTP/1.1\r\nHost: t\r\nX-Vault-Token: {site.token}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    ).encode()
    await wire.send(head + body + SMUGGLED)
    assert (await wire.answer()).status == 400
    assert await wire.closed()


async def test_chunks_are_put_together(site):
    wire = await site.connect()
    head = (
        f"POST /v1/secret/data/x HTTP/1.1\r\nHost: t\r\nX-Vault-Token: {site.token}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    ).encode()
    await wire.send(head + b'7\r\n{"data"\r\n')
    await wire.send(
        b'9;x=y\r\n:{"a":1}}\r\n0\r\n\r\n'
        + request("LIST", "/v1/secret/metadata", headers={"X-Vault-Token": site.token})
    )
    assert (await wire.answer()).status == 200
    assert "x" in (await wire.answer()).json["data"]["keys"]


async def test_a_client_that_has_ended_its_side_gets_every_answer(site):
    auth = {"X-Vault-Token": site.token}
    write = request("POST", "/v1/secret/data/h", {"data": {"k": "v"}}, headers=auth)
    chunked = request("POST", "/v1/secret/data/h", headers=auth | {"Transfer-Encoding": "chunked"})
    read, listing = (request(m, "/v1/secret/metadata/app", headers=auth) for m in ("GET", "LIST"))
    for data, statuses in (
        (write, [200]),
        (read, [404]),
        (listing, [200]),
        (chunked + b'b\r\n{"data":{}}\r\n0\r\n\r\n', [200]),
        (write + write + listing, [200, 200, 200]),
        (listing + b"nonsense\r\n\r\n", [400]),
    ):
        wire = await site.connect()
        await wire.send(data)
        wire.writer.write_eof()
        assert [(await wire.answer()).status for _ in statuses] == statuses, data
        assert await wire.closed(), "and the connection is not kept"


async def test_a_request_that_breaks_off_ends_the_connection(site):
    for data in (b"", b"GET /v1/sys/hea", request("POST", "/v1/secret/data/a", b"{" * 9)[:-1]):
        wire = await site.connect()
        await wire.send(data)
        wire.writer.write_eof()
        assert await wire.closed()


async def test_an_upgrade_is_ignored(site):
    """The connection goes on as HTTP/1.1: what follows is the next request."""
    wire = await site.connect()
    auth = {"X-Vault-Token": site.token}
    await wire.send(
        request("GET", "/v1/secret/data/a", headers=auth | {"Connection": "Upgrade", "Upgrade": "websocket"})
        + request("LIST", "/v1/secret/metadata", headers=auth)
    )
    assert (await wire.answer()).status == 200
    assert (await wire.answer()).json["data"]["keys"] == ["a", "app/"]


@pytest.mark.parametrize("seed", range(4))
async def test_no_bytes_break_the_server(site, seed):
    """Mangled requests get an answer or a closed connection, never an exception in the loop, and others go on."""
    print("seed", seed)
    rng = random.Random(seed)
    failures = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    auth = {"X-Vault-Token": site.token, "Transfer-Encoding": "chunked", "Expect": "100-continue"}
    seeds = [
        request("LIST", "/v1/secret/metadata/app?after=a&limit=1", headers={"X-Vault-Token": site.token}),
        request(
            "POST", "/v1/secret/data/f", {"data": {"a": [1, {"b": None}]}}, headers={"X-Vault-Token": "x"}
        ),
        request("POST", "/v1/secret/data/f", headers=auth) + b'b\r\n{"data":{}}\r\n0\r\n\r\n',
    ]
    odd = [
        b"\r\n",
        b"\n",
        b"\0",
        b"\xff",
        b":",
        b" ",
        b"%",
        b"/..",
        b"9" * 5000,
        b"Content-Length: 1e9\r\n",
        b"{" * 99,
    ]
    for _ in range(60):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 4)):
            position = rng.randrange(len(data))
            data[position : position + rng.randrange(3)] = rng.choice([rng.choice(odd), rng.randbytes(2)])
        wire = await site.connect()
        await wire.send(bytes(data))
        wire.writer.write_eof()
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionError):
                head = await wire.reader.read(16)
                assert not head or head.startswith(b"HTTP/1.")
                assert b" 500 " not in head
    assert (await (await site.connect()).ask("GET", "/v1/secret/data/a")).status == 200
    assert failures == []


async def test_headers_are_bounded_in_bytes_and_number(site):
    limit = site.core.settings.header_bytes_max
    for data in (
        request("GET", "/v1/sys/health", headers={"X-Long": "x" * limit}),
        request("GET", "/v1/sys/health?" + "x" * limit),
        request("GET", "/v1/sys/health", headers={f"X-{i}": "x" * 1000 for i in range(17)}),
        b"GET /v1/sys/health HTTP/1.1\r\n" + b"X: " + b"x" * (limit + 1),
        b"GET /v1/sys/health HTTP/1.1\r\n" + (b"X: " + b"x" * 1000 + b"\r\n") * 17,
        b"GET /v1/sys/health HTTP/1.1\r\n"
        + b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * (limit // 45),
    ):
        wire = await site.connect()
        await wire.send(data)
        assert (await wire.answer()).status in (400, 431)
        assert await wire.closed()
    wire = await site.connect()
    await wire.send(
        request("GET", "/v1/sys/health", headers={f"X-{i}": "x" for i in range(HEADER_FIELDS_MAX)})
    )
    assert (await wire.answer()).status == 431
    assert await wire.closed()


async def test_a_header_that_takes_too_long_ends_the_connection(site, monkeypatch):
    monkeypatch.setattr(protocol, "HEADER_TIMEOUT_S", 0.05)
    wire = await site.connect()
    await wire.send(b"GET /v1/sys/health HTTP/1.1\r\nHost:")
    assert await wire.closed()


async def test_a_connection_too_many_is_closed(tmp_path):
    async with dev_core(tmp_path, connections_max=2) as (core, token), serve(core, token=token) as site:
        kept = [await site.connect(), await site.connect()]
        assert [(await wire.ask("GET", "/v1/sys/health")).status for wire in kept] == [200, 200]
        assert await (await site.connect()).closed()
        assert (await kept[0].ask("LIST", "/v1/secret/metadata")).status == 404
