"""The read lane and the ordinary way, asked the same: answers, audit records and metrics must be the same.

Two listeners on one core, one with the lane and one without, get the same bytes in the same pieces. Between batches
the state is changed. REQUESTS=100000 asks more than by default; SEED repeats a run. The same once more with a read
worker in the lane's place, which answers what it was told before, and asks the lane for all else; and with a lane that
remembers no value, so that each read is put together anew.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import random
import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.corefixture import ROOT_TOKEN, call, new_token, opened
from support.httpfixture import Site, Wire, serve
from support.patience import PATIENCE_S
from support.readworkers import workers_of

from node.core.core import Core
from node.core.request import Operation
from node.errors import NodeError
from node.workers.worker import audit_path

SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 32)
REQUESTS = int(os.environ.get("REQUESTS", "3000"))
BATCH = 24
ANSWERS_MAX = 100  # more than any script asks for
POLICY = 'path "+/data/*" { capabilities = ["%s"] }'
INDEX = "eyJjbHVzdGVyIjoiIiwidmFsdWUiOiIxIn0="

PATHS = [
    *("secret/data/a", "secret/data/b", "secret/data/team/c", "secret/data/deep/er/d") * 25,
    *("secret/data/team/b",) * 25,
    *("secret/data/none", "secret/data/gone", "secret/data/dead", "secret/data/soon", "secret/data/a/", "secret/data/"),
    *("secret/data/a?version=1", "secret/data/a?version=2", "secret/data/a?version=0", "secret/data/b?version=99"),
    *("secret/data/a?version=-1", "secret/data/a?version=x", "secret/data/a?version=", "secret/data/a?version=01"),
    *("secret/data/a?version=1&version=2", "secret/data/a?", "secret/data/a?list=true", "secret/data/a?other=1"),
    *("secret/data/%61", "secret/data/a%2e", "secret/data/%2e%2e/a", "secret/data/a%zz", "secret/data/a%20b"),
    *("secret/data//a", "secret//data/a", "secret/data/./a", "secret/data/x/../a", "secret/data/a#f"),
    *("secret/data/a;x",),
    *("secret/data/%C3%A9", "secret/data/A", "secret/data/" + "l" * 300, "secret", "secret/", "secret/metadata/a"),
    *("secret/subkeys/a", "secret/metadata/?list=true", "other/data/a", "plain/a", "nomount/x"),
    *("sys/health", "sys/mounts"),
    *("auth/token/lookup-self", "cubbyhole/a", "sys/internal/ui/mounts", ""),
]  # fmt: skip
HEADERS: list[tuple[str, ...]] = [
    *[()] * 90,
    *[("User-Agent: x",), ("Accept: */*", "Accept-Encoding: gzip, deflate", "X-Vault-Request: true")] * 15,
    *[("X-Vault-Namespace: root",), ("X-Vault-Namespace: team",), ("X-Vault-Namespace:",)],
    *[("X-Vault-Wrap-TTL: 60",), ("X-Vault-Wrap-TTL: 0",), ("X-Vault-Wrap-TTL: x",)],
    *[(f"X-Vault-Index: {INDEX}",), ("X-Vault-Index: !",), ("X-Vault-Inconsistent: forward-active-node",)],
    *[("X-Strongroom-Request-Id: " + "ab" * 16,), ("X-Strongroom-Request-Id: zz",)],
    *[("X-Strongroom-Consistency: fresh",), ("X-Strongroom-Consistency: stale-ok",)],
    *[("X-Strongroom-Consistency: linearizable",), ("X-Strongroom-Consistency: nonsense",)],
    *[("Content-Length: 0",), ("Origin: https://example.com",), ("Cookie: a=b",), ("X-Anything: 1",)],
    *[("X-Vault-Token: s.second",), ("Authorization: Bearer s.second",), ("Connection: close",)],
    *[("Connection: keep-alive",), ("Connection: Keep-Alive, X-Vault-Token",), ("Range: bytes=0-1",)],
    *[("If-None-Match: *",), ("X-Forwarded-For: 10.0.0.1",), ("Content-Type: application/json",)],
]
# What is not a request, or more than one: each ends its connection or is read by the general parser.
ODD = [
    b"GET /v1/secret/data/a HTTP/1.0\r\n%b\r\n",
    b"GET /v1/secret/data/a HTTP/1.1\r\n%b\r\n\r\n",
    b"GET  /v1/secret/data/a HTTP/1.1\r\n%b\r\n",
    b"get /v1/secret/data/a HTTP/1.1\r\n%b\r\n",
    b"GET /v1/secret/data/a\tHTTP/1.1\r\n%b\r\n",
    b"GET /v1/secret/data/a HTTP/1.1\n%b\r\n",
    b"GET /v1/secret/data/\x00a HTTP/1.1\r\n%b\r\n",
    b"GET /v1/secret/data/\xc3\xa9 HTTP/1.1\r\n%b\r\n",
    b"GET /v1/secret/data/a HTTP/1.1 \r\n%b\r\n",
    b"GET /v1/secret/data/a HTTP/1.1\r\n%bContent-Length: 4\r\n\r\nGET ",
    b"GET /v1/secret/data/a HTTP/1.1\r\n%bContent-Length: 1, 1\r\n\r\nx",
    b"GET /v1/secret/data/a HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET /v1/secret/data/a HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    b"GET /v1/secret/data/a HTTP/1.1\r\n%bContent-Length: 0\r\nContent-Length: 5\r\n\r\nx",
    b"GET /v1/secret/data/a HTTP/1.1\r\n%b folded\r\n\r\n",
    b"GET /v1/secret/data/a HTTP/1.1\r\n%bNo-Colon\r\n\r\n",
    b"GET /v1/secret/data/a HTTP/1.1\r\n%bX-A : 1\r\n\r\n",
    b"GET /v1/secret/data/a HTTP/1.1\r\n%bUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    b"GET http://test/v1/secret/data/a HTTP/1.1\r\n%b\r\n",
    b"HEAD /v1/secret/data/a HTTP/1.1\r\n%b\r\n",
    b"LIST /v1/secret/metadata/ HTTP/1.1\r\n%b\r\n",
    b"\r\nGET /v1/secret/data/a HTTP/1.1\r\n%b\r\n",
]


@dataclass
class Script:
    """What is sent on one connection: pieces, each with the number of answers that are read before the next."""

    pieces: list[tuple[bytes, int]]
    closes: bool = False  # then whatever comes until the connection is closed is read too


@dataclass
class Seen:
    """What came of a batch."""

    answers: list[list[Any]] = field(default_factory=list)
    records: list[Any] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass
class Ways:
    """The same core behind two listeners."""

    core: Core
    lane: Site
    ordinary: Site
    taken: Counter[str]
    requests: int
    tokens: list[str] = field(default_factory=list)

    @property
    def audit_files(self) -> list[Path]:
        path = self.core.settings.audit_files[0]
        return [path, audit_path(path, 1)]


@pytest.fixture(params=["lane", "lane that remembers nothing", "worker"])
async def ways(request, tmp_path) -> AsyncIterator[Ways]:
    kept = {"value_cache_bytes_max": 0} if "nothing" in request.param else {}
    async with opened(tmp_path, **kept) as core, contextlib.AsyncExitStack() as stack:
        by_worker = request.param == "worker"
        if by_worker:
            lane, workers = await stack.enter_async_context(workers_of(core))
        else:
            lane = await stack.enter_async_context(serve(core))
        settings = core.settings
        core.settings = dataclasses.replace(settings, read_lane=False)
        ordinary = await stack.enter_async_context(serve(core))
        core.settings = settings
        taken: Counter[str] = Counter()
        for name, site in (("lane", lane), ("ordinary", ordinary)):
            if site is ordinary or not by_worker:
                watch(site, name, taken)
        found = Ways(core, lane, ordinary, taken, REQUESTS if request.param == "lane" else REQUESTS // 2)
        await prepare(found)
        yield found
        if by_worker:
            taken["lane"] = sum(sum(counts) for _, _, (counts, _) in workers.answered())
        assert taken["ordinary"] == 0
        least = found.requests / (
            50 if by_worker else 10
        )  # most connections are new, and all values change often
        assert taken["lane"] > least, "the lane was hardly taken: nothing was compared"


def watch(site: Site, name: str, taken: Counter[str]) -> None:
    """Count what is answered on the spot."""
    lane = site.server.gateway._reads
    if lane is None:
        return
    begin = lane.begin

    def counted(raw: Any, done: Any) -> bool:
        begun = begin(raw, done)
        taken[name] += begun
        return begun

    lane.begin = counted


async def prepare(ways: Ways) -> None:
    core, write = ways.core, Operation.UPDATE
    for name in ("a", "b", "team/b", "team/c", "deep/er/d", "gone", "dead", "soon"):
        for n in range(2):
            await call(
                core, write, f"secret/data/{name}", {"data": {"n": n, "text": 'é\\n"', "deep": {"x": [1.50]}}}
            )
    await call(core, Operation.DELETE, "secret/data/gone")
    await call(core, write, "secret/destroy/dead", {"versions": [1, 2]})
    await call(core, write, "secret/metadata/a", {"custom_metadata": {"owner": "ops"}})
    await call(core, write, "sys/mounts/other", {"type": "kv", "options": {"version": "2"}})
    await call(core, write, "sys/mounts/plain", {"type": "kv", "options": {"version": "1"}})
    await call(core, write, "other/data/a", {"data": {"n": 1}})
    await call(core, write, "plain/a", {"n": 1})
    reader = 'path "secret/*" { capabilities = ["read", "list"] }' + "".join(
        f'path "secret/data/{name}" {{ capabilities = ["deny"] }}' for name in ("b", "team/b")
    )
    wrapped = 'path "secret/*" { capabilities = ["read"] min_wrapping_ttl = "1s" }'
    asking = 'path "secret/*" { capabilities = ["read"] required_parameters = ["x"] }'
    segments = 'path "secret/+/team/*" { capabilities = ["read"] }'
    ways.tokens = [
        *[ROOT_TOKEN, await new_token(core, policy=reader)] * 12,
        *[await new_token(core, policy=text) for text in (wrapped, asking, segments)],
        await new_token(core, policies=["default"]),
        *[await new_token(core, policies=["moving"], no_default_policy=True)] * 6,
        await new_token(core, policy=reader, meta={"team": "x"}, ttl="1h"),
        *("s.unknown", "", "s." + "x" * 600),
    ]


def request_of(rng: random.Random, ways: Ways) -> tuple[bytes, bool]:
    """One request, and whether its connection is to stay."""
    target, extra = "/v1/" + rng.choice(PATHS), rng.choice(HEADERS)
    token = rng.choice(ways.tokens)
    lines = [f"GET {target} HTTP/1.1", "Host: test"]
    if token:
        name = rng.choice(["X-Vault-Token"] * 6 + ["x-vault-token", "X-VAULT-TOKEN"])
        bearer = rng.random() < 0.1
        lines.append(f"Authorization: Bearer {token}" if bearer else f"{name}: {token}")
    data = "\r\n".join([*lines, *extra]).encode() + b"\r\n\r\n"
    return data, "Connection: close" not in extra


def script_of(rng: random.Random, ways: Ways) -> Script:
    pieces: list[tuple[bytes, int]] = []
    for _ in range(rng.choice([1, 1, 2, 4])):
        data, stays = request_of(rng, ways)
        if not stays:
            return Script([*pieces, (data, 0)], closes=True)
        pieces += [(data, 1)] * rng.choice([1, 1, 3])  # repeated, as keep-alive clients do
    if rng.random() < 0.1:
        who = (
            b"Host: test\r\nConnection: close\r\nX-Vault-Token: %b\r\n" % rng.choice(ways.tokens[:2]).encode()
        )
        return Script([*pieces, (rng.choice(ODD) % who, 0)], closes=True)
    if rng.random() < 0.15:
        return Script([(b"".join(data for data, _ in pieces), len(pieces))])
    if rng.random() < 0.15:
        whole, _ = pieces.pop()
        at = rng.randrange(1, len(whole))
        pieces += [(whole[:at], 0), (whole[at:], 1)]
    return Script(pieces)


async def play(script: Script, site: Site) -> list[Any]:
    """The answers, comparable."""
    wire, answers = await site.connect(), []
    expected = [*script.pieces, *([(b"", ANSWERS_MAX)] if script.closes else [])]
    try:
        for piece, count in expected:
            await wire.send(piece)
            for _ in range(count):
                answers.append(comparable(await read_answer(wire)))  # noqa: PERF401 - what came counts, too
    except (EOFError, ConnectionError):
        answers.append("closed")
    await wire.close()
    site.wires.remove(wire)
    return answers


async def read_answer(wire: Wire) -> tuple[bytes, bytes]:
    async with asyncio.timeout(PATIENCE_S):
        head = await wire.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        return head, await wire.reader.readexactly(int(length[1]) if length else 0)


def comparable(answer: tuple[bytes, bytes]) -> Any:
    """Without ids and times; the order of headers is as it came."""
    head, body = answer
    moving = rb"(?i)\r\n(date: [^\r]*|x-strongroom-staleness-ms: [^\r]*)"
    if b"wrap_info" in body and b'"wrap_info":null' not in body:
        return head.split(b"\r\n")[0]  # a wrapping token each
    head = re.sub(rb"(?i)\r\ncontent-length: [^\r]*", b"", head) if b"expire_time" in body else head
    body = re.sub(rb'"request_id":"[0-9a-f-]{36}"', b'"request_id":""', body)
    body = re.sub(rb'"(ttl|server_time_utc|echo_duration_ms)":\d+', b'"\\1":0', body)
    return sorted(re.sub(moving, b"", head).split(b"\r\n")), body


def without_index(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [
            without_index(item)
            for item in value
            if not (isinstance(item, bytes) and item.startswith(b"X-Vault-Index: "))
        ]
    return value


def record_of(line: str) -> Any:
    record = json.loads(line)
    del record["seq"], record["time"], record["request"]["id"]
    if "wrap_info" in record.get("response", {}) or record["request"].get("path") == "sys/health":
        record["response"] = None
    data = (record.get("response") or {}).get("data")
    if isinstance(data, dict) and "ttl" in data:
        data["ttl"] = 0  # the second may have turned between the two ways
    return record


def moment_of(line: str) -> str:
    """Times lack the zeros at their end."""
    moment: str = json.loads(line)["time"]
    return moment.rstrip("Z").ljust(len("2026-01-01T00:00:00.123456789"), "0")


async def batch(scripts: list[Script], site: Site, ways: Ways) -> Seen:
    core, seen = ways.core, Seen()
    offsets = {path: path.stat().st_size for path in ways.audit_files if path.exists()}
    before, lines = counts(core), []
    for script in scripts:
        seen.answers.append(await play(script, site))
    for path, offset in offsets.items():
        with path.open() as file:
            file.seek(offset)
            lines += file.readlines()
    seen.records = [record_of(line) for line in sorted(lines, key=moment_of)]
    seen.counts = counts(core)
    seen.counts.subtract(before)
    return seen


def counts(core: Core) -> Counter[tuple[str, str]]:
    """Answered requests by operation and status."""
    found: Counter[tuple[str, str]] = Counter()
    for metric in core.metrics.registry.collect():
        for sample in metric.samples:
            if sample.name == "strongroom_http_request_duration_seconds_count":
                found[sample.labels["operation"], sample.labels["code"]] = int(sample.value)
    return found


async def change(rng: random.Random, core: Core) -> None:
    name = rng.choice(["a", "b", "team/c", "gone", "soon"])
    operation, path, data = rng.choice(
        [
            (Operation.UPDATE, f"secret/data/{name}", {"data": {"n": rng.randrange(99), "s": "x" * rng.randrange(50)}}),
            (Operation.UPDATE, f"secret/data/{name}", {"data": {}}),
            (Operation.DELETE, f"secret/data/{name}", None),
            (Operation.UPDATE, f"secret/undelete/{name}", {"versions": [1, 2, 3, 4]}),
            (Operation.UPDATE, f"secret/metadata/{name}", {"custom_metadata": {"k": str(rng.randrange(9))}}),
            (Operation.DELETE, f"secret/metadata/{name}", None),
            (Operation.UPDATE, f"secret/destroy/{name}", {"versions": [rng.randint(1, 4)]}),
            (Operation.UPDATE, f"secret/delete/{name}", {"versions": [rng.randint(1, 4)]}),
            (Operation.UPDATE, "sys/rotate", None),
            (Operation.UPDATE, "sys/policies/acl/moving", {"policy": POLICY % rng.choice(["read", "list", "deny"])}),
            (Operation.UPDATE, "sys/policies/acl/moving", {"policy": POLICY % "read"}),
            (Operation.UPDATE, "sys/mounts/secret/tune", {"audit_non_hmac_response_keys": rng.choice(["text,k", ""])}),
            (Operation.DELETE, "sys/mounts/other", None),
            (Operation.UPDATE, "sys/mounts/other", {"type": "kv", "options": {"version": "2"}}),
            (Operation.UPDATE, "other/data/a", {"data": {"n": rng.randrange(9)}}),
        ]
    )  # fmt: skip
    with contextlib.suppress(NodeError):
        await call(core, operation, path, data)


async def test_both_ways_are_alike(ways: Ways) -> None:
    print("seed", SEED)
    rng = random.Random(SEED)
    asked = 0
    while asked < ways.requests:
        scripts = [script_of(rng, ways) for _ in range(BATCH)]
        index = ways.core.unsealed.position
        by_lane = await batch(scripts, ways.lane, ways)
        ordinary = await batch(scripts, ways.ordinary, ways)
        if ways.core.unsealed.position != index:  # something was wrapped: the index moves along
            by_lane.answers, ordinary.answers = (
                without_index(by_lane.answers),
                without_index(ordinary.answers),
            )
        for script, one, other in zip(scripts, by_lane.answers, ordinary.answers, strict=True):
            assert one == other, script
        assert by_lane.records == ordinary.records
        assert +by_lane.counts == +ordinary.counts
        asked += sum(len(answers) for answers in by_lane.answers)
        await change(rng, ways.core)
