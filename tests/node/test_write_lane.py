"""The write lane: the same answers, records and effects as the ordinary way, and its own promises."""

import asyncio
import contextlib
import dataclasses
import json
import os
import random
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.corefixture import ROOT_TOKEN, audit_records, call, new_token, opened, order
from support.httpfixture import Site, Wire, request, serve
from support.patience import PATIENCE_S, eventually

from consensus.errors import OutcomeUnknown
from node.api.write_lane import WriteLane
from node.audit import log
from node.core.core import Core
from node.core.request import Operation
from storage.command import KvPut, RegionDemote, TokenRevoke, decode, encode
from storage.rows import KvKey
from storage.secret import Secret

SEED = int(os.environ.get("SEED", "0")) or random.randrange(1 << 32)
REQUESTS = int(os.environ.get("REQUESTS", "600"))
WRITER = 'path "secret/data/*" { capabilities = ["create", "update", "read"] }'
PATH = "/v1/secret/data/a"


class Lane:
    """A listener with a writer's token, and how many writes the lane took."""

    def __init__(self, site: Site, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site, self.core, self.token, self.taken = site, site.core, token, 0
        begin = WriteLane.begin

        def counted(lane: WriteLane, raw: Any, done: Any) -> bool:
            taken = begin(lane, raw, done)
            self.taken += taken
            return taken

        monkeypatch.setattr(WriteLane, "begin", counted)

    async def put(self, wire: Wire, data: Any, path: str = PATH, *, taken: bool, **headers: str) -> Any:
        before = self.taken
        sent = {"X-Vault-Token": self.token} | {k.replace("_", "-"): v for k, v in headers.items()}
        await wire.send(request("POST", path, data, headers=sent))
        answer = await wire.answer()
        assert (self.taken > before) is taken, f"the lane was {'not ' if taken else ''}taken"
        return answer

    def key(self, path: str = "a") -> KvKey | None:
        store = self.core.unsealed
        mount = store.mount_for("secret/")
        assert mount is not None
        return store.reads.kv_key(mount.mount_id, path)


@pytest.fixture
async def lane(tmp_path, monkeypatch) -> AsyncIterator[Lane]:
    async with opened(tmp_path) as core, serve(core) as site:
        yield Lane(site, await new_token(core, policy=WRITER), monkeypatch)


async def test_a_plain_write_is_taken(lane):
    wire = await lane.site.connect()
    for version in (1, 2):
        answer = await lane.put(wire, {"data": {"n": version}}, taken=True)
        assert (answer.status, answer.json["data"]["version"]) == (200, version)
    await wire.send(request("GET", PATH, headers={"X-Vault-Token": lane.token}))
    assert (await wire.answer()).json["data"]["data"] == {"n": 2}


async def test_what_the_lane_leaves_to_the_ordinary_way(lane):
    wire = await lane.site.connect()
    counted = await new_token(lane.core, policy=WRITER, num_uses=3)
    ordinary = [
        ({"data": {}}, {"X_Vault_Token": counted}),
        ({"data": {}}, {"X_Strongroom_Request_Id": "ab" * 16}),
        ({"data": {}}, {"X_Vault_Wrap_TTL": "60"}),
        ({"data": {}}, {"X_Vault_Token": "s.unknown"}),
        ({}, {}),
        ({"data": {}, "options": {"cas": "x"}}, {}),
    ]
    for body, headers in ordinary:
        await lane.put(wire, body, taken=False, **headers)
    await lane.put(wire, {"custom_metadata": {}}, "/v1/secret/metadata/a", taken=False)


async def test_a_revoked_token_writes_nothing_though_its_request_was_let_in(lane):
    """What another node has revoked comes between the decision here and the write in the log."""
    store, wire = lane.core.unsealed, await lane.site.connect()
    digest = lane.core.tokens.digest(store, Secret(lane.token.encode()))
    inner = store._group.begin

    def begin(command: bytes, **rest: Any) -> Any:
        if isinstance(decode(command), KvPut) and store.token(digest) is not None:
            inner(encode(TokenRevoke(time_ns=store.now_ns(), digest=digest)), request_id=bytes(16), timeout=1)
        return inner(command, **rest)

    store._group.begin = begin
    answer = await lane.put(wire, {"data": {"n": 1}}, taken=True)
    assert answer.status == 403
    assert lane.key() is None, "a revoked token wrote"
    asked, answered = audit_records(lane.core)[-2:]
    assert (asked["type"], answered["type"]) == ("request", "response")
    assert "permission denied" in answered["error"]


async def test_a_change_that_took_nothing_from_the_caller_only_costs_an_attempt(lane):
    store, wire = lane.core.unsealed, await lane.site.connect()
    inner, revoked = store._group.begin, []

    def begin(command: bytes, **rest: Any) -> Any:
        if isinstance(decode(command), KvPut) and not revoked:
            revoked.append(1)
            inner(encode(TokenRevoke(time_ns=store.now_ns(), digest=b"x")), request_id=bytes(16), timeout=1)
        return inner(command, **rest)

    store._group.begin = begin
    assert (await lane.put(wire, {"data": {"n": 1}}, taken=True)).status == 200
    assert lane.key().current_version == 1


async def test_who_may_create_and_not_update_changes_nothing_that_this_node_had_not_heard_of(lane):
    """Another node has created the secret, and this one lets in by what it has applied, which is less."""
    creator = await new_token(lane.core, policy='path "secret/data/*" { capabilities = ["create"] }')
    store, wire = lane.core.unsealed, await lane.site.connect()
    inner = store._group.begin

    def begin(command: bytes, **rest: Any) -> Any:
        if isinstance(decode(command), KvPut) and lane.key() is None:
            inner(command, request_id=bytes(16), timeout=1)
        return inner(command, **rest)

    store._group.begin = begin
    answer = await lane.put(wire, {"data": {"n": 1}}, taken=True, X_Vault_Token=creator)
    assert (answer.status, lane.key().current_version) == (403, 1)


async def test_the_request_is_on_record_before_the_write_is_proposed_and_the_answer_before_it_leaves(lane):
    store, wires = lane.core.unsealed, [await lane.site.connect() for _ in range(5)]
    inner, seen = store._group.begin, []

    def begin(command: bytes, **rest: Any) -> Any:
        if isinstance(decode(command), KvPut):
            seen.append(sum(record["type"] == "request" for record in audit_records(lane.core)))
        return inner(command, **rest)

    before = len(audit_records(lane.core))
    requests = sum(record["type"] == "request" for record in audit_records(lane.core))
    store._group.begin = begin
    answers = await asyncio.gather(
        *(lane.put(wire, {"data": {}}, f"{PATH}{n}", taken=True) for n, wire in enumerate(wires))
    )
    assert [answer.status for answer in answers] == [200] * 5
    assert len(seen) == 5
    assert all(count > requests + n for n, count in enumerate(seen))
    records = audit_records(lane.core)[before:]
    assert len(records) == 10
    ids = [record["request"]["id"] for record in records if record["type"] == "response"]
    assert sorted(ids) == sorted(answer.json["request_id"] for answer in answers)


async def test_without_a_record_of_the_request_nothing_is_written(lane, monkeypatch):
    wire = await lane.site.connect()
    with monkeypatch.context() as patch:
        patch.setattr(log._Sink, "append", lambda sink, records: False)
        answer = await lane.put(wire, {"data": {"n": 1}}, taken=True)
    assert answer.status == 500
    assert lane.key() is None
    assert (await lane.put(wire, {"data": {"n": 2}}, taken=True)).json["data"]["version"] == 1


async def test_without_a_record_of_the_answer_there_is_no_answer(lane, monkeypatch):
    wire, append = await lane.site.connect(), log._Sink.append
    monkeypatch.setattr(
        log._Sink, "append", lambda sink, records: b'"response"' not in records[0] and append(sink, records)
    )
    answer = await lane.put(wire, {"data": {"n": 1}}, taken=True)
    assert (answer.status, "version" in answer.body.decode()) == (500, False)


async def test_writers_of_one_key_get_versions_of_their_own(lane):
    wires = [await lane.site.connect() for _ in range(12)]
    headers = {"X-Vault-Token": lane.token}
    for wire in wires:
        await wire.send(request("POST", PATH, {"data": {}}, headers=headers))
    answers = [await wire.answer() for wire in wires]
    assert sorted(answer.json["data"]["version"] for answer in answers) == list(range(1, 13))


async def test_an_outcome_that_is_not_known_is_not_called_a_failure(lane):
    def begin(command: bytes, **rest: Any) -> Any:
        future = asyncio.get_running_loop().create_future()
        future.set_exception(OutcomeUnknown("lost"))
        return future

    lane.core.unsealed._group.begin = begin
    wire = await lane.site.connect()
    answer = await lane.put(wire, {"data": {}}, taken=True)
    assert answer.status == 504
    assert audit_records(lane.core)[-1]["error"]


async def test_a_bug_costs_one_answer_and_says_nothing(lane, monkeypatch):
    def begin(command: bytes, **rest: Any) -> Any:
        raise ZeroDivisionError("canary")

    store, wire = lane.core.unsealed, await lane.site.connect()
    inner, store._group.begin = store._group.begin, begin
    answer = await lane.put(wire, {"data": {}}, taken=True)
    assert answer.status == 500
    assert b"canary" not in answer.body
    store._group.begin = inner
    assert (await lane.put(wire, {"data": {}}, taken=True)).status == 200, "the key stayed claimed"


# ---- regions ----


async def test_writes_are_taken_in_the_region_that_orders_them_and_kept_for_the_others(lane):
    await order(lane.core)
    store, wire = lane.core.unsealed, await lane.site.connect()
    first = store.position + 1
    for n in range(3):
        assert (await lane.put(wire, {"data": {"n": n}}, taken=True)).status == 200
    kept = store.history(first, 1 << 20)
    assert [(each.path, each.version) for each in (decode(data) for _, data in kept)] == [
        ("a", version) for version in (1, 2, 3)
    ]


async def test_a_write_is_taken_neither_where_another_region_orders_nor_before_that_is_known(lane):
    await order(lane.core)
    store, wire = lane.core.unsealed, await lane.site.connect()
    store.cleared.clear()  # another region may have taken over
    known = len(audit_records(lane.core))
    asked = asyncio.create_task(lane.put(wire, {"data": {}}, taken=False))
    await eventually(lambda: len(audit_records(lane.core)) > known, "it has been let in, and waits")
    store.cleared.set()
    assert (await asked).status == 200
    await store.submit(RegionDemote(time_ns=store.now_ns()))
    assert (await lane.put(wire, {"data": {}}, taken=False)).status == 503


async def test_a_write_that_comes_too_late_for_this_region_is_carried_on(lane):
    """Its region has stopped to order writes between the look at the request and its place in the log."""
    await order(lane.core)
    store, wire = lane.core.unsealed, await lane.site.connect()
    inner = store._group.begin

    def begin(command: bytes, **rest: Any) -> Any:
        if isinstance(decode(command), KvPut):
            demote = encode(RegionDemote(time_ns=store.now_ns()))
            inner(demote, request_id=os.urandom(16), timeout=1)
        return inner(command, **rest)

    store._group.begin = begin
    answer = await lane.put(wire, {"data": {"n": 1}}, taken=True)
    assert (answer.status, "nothing was written" in answer.body.decode()) == (503, True)
    assert lane.key() is None


# ---- beside the ordinary way ----

BODIES: list[Any] = [
    *[{"data": {"n": 1}}, {"data": {"text": 'é\\n"', "deep": {"x": [1.5, None, True]}}}] * 6,
    *[{"data": {}}, {"data": None}, {}, {"data": "text"}, {"data": []}, {"other": 1}],
    *[{"data": {}, "options": {"cas": n}} for n in (0, 1, 2, "1", -1, "x")],
    *[{"data": {}, "options": options} for options in ({}, None, "x", {"other": 1})],
    *[{"data": {}, "extra": 1}, {"data": {"a": "x" * 3000}}, {"data": {"a": "x" * 70_000}}],
]
TAILS = ["a"] * 8 + ["b", "deep/er/c", "a/", "", "%61", "a%2e", "a?version=1", "a//b", "l" * 200, "\u00e9"]
PLACES = ["data"] * 12 + ["metadata", "delete", "destroy", "config", "nothing"]


@dataclasses.dataclass
class Ways:
    """The same core behind two listeners, which write below folders of their own."""

    core: Core
    lane: Site
    ordinary: Site
    tokens: list[str]
    taken: int = 0


@pytest.fixture(params=["alone", "primary"])
async def ways(tmp_path, request) -> AsyncIterator[Ways]:
    """In a cluster of its own, and in the region that orders writes for others."""
    async with opened(tmp_path) as core, contextlib.AsyncExitStack() as stack:
        if request.param == "primary":
            await order(core)
        lane = await stack.enter_async_context(serve(core))
        settings = core.settings
        core.settings = dataclasses.replace(settings, read_lane=False)
        ordinary = await stack.enter_async_context(serve(core))
        core.settings = settings
        policies = [
            'path "secret/data/+/a" { capabilities = ["create"] }',
            'path "secret/data/+/a" { capabilities = ["update"] }',
            'path "secret/+/+/*" { capabilities = ["update", "create"] required_parameters = ["options"] }',
            'path "secret/data/+/*" { capabilities = ["update", "create"] denied_parameters = { "extra" = [] } }',
            'path "secret/data/+/a" { capabilities = ["deny"] } path "secret/*" { capabilities = ["create"] }',
            'path "secret/data/*" { capabilities = ["read"] }',
        ]
        tokens = [ROOT_TOKEN] * 6 + [await new_token(core, policy=text) for text in policies]
        tokens += ["s.unknown", "", await new_token(core, policies=["default"])]
        found = Ways(core, lane, ordinary, tokens)
        begin = lane.server.gateway.begin

        def counted(raw: Any, done: Any) -> bool:
            taken = begin(raw, done)
            found.taken += taken
            return taken

        lane.server.gateway.begin = counted
        yield found


def draw(rng: random.Random, ways: Ways) -> tuple[str, str, bytes, dict[str, str]]:
    """Method, target with FOLDER in it, body and headers."""
    target = f"/v1/secret/{rng.choice(PLACES)}/FOLDER/{rng.choice(TAILS)}"
    body = json.dumps(rng.choice(BODIES)).encode()
    if rng.random() < 0.08:
        body = rng.choice([b"", b"{", b"[]", b"null", b'{"data": {"a": 1, "a": 2}}', b"\xff", b"{" * 300])
    headers = {"Content-Type": rng.choice(["application/json", "text/plain"])}
    if token := rng.choice(ways.tokens):
        headers["X-Vault-Token"] = token
    if rng.random() < 0.1:
        headers |= rng.choice(
            [{"X-Vault-Namespace": "team"}, {"X-Anything": "1"}, {"X-Vault-Request": "true"}]
        )
    return rng.choice(["PUT", "POST", "POST", "PATCH"]), target, body, headers


async def ask(site: Site, folder: str, drawn: tuple[str, str, bytes, dict[str, str]], core: Core) -> Any:
    """Answer and records of one request, comparable."""
    method, target, body, headers = drawn
    path = core.settings.audit_files[0]
    offset = path.stat().st_size
    lines = [f"{method} {target.replace('FOLDER', folder)} HTTP/1.1", "Host: test"]
    lines += [f"{name}: {value}" for name, value in headers.items()] + [
        f"Content-Length: {len(body)}",
        "",
        "",
    ]
    wire = await site.connect()
    await wire.send("\r\n".join(lines).encode() + body)
    async with asyncio.timeout(PATIENCE_S):
        head = await wire.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        answer = head + await wire.reader.readexactly(int(length[1]) if length else 0)
    await wire.close()
    site.wires.remove(wire)
    with path.open("rb") as file:
        file.seek(offset)
        records = file.read()
    return [comparable(text, folder) for text in (answer, records)]


def comparable(text: bytes, folder: str) -> bytes:
    moving = [
        (rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", b"ID"),
        (rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]+(\.[0-9]+)?Z", b"TIME"),
        (rb'("created_time":")[^"]*"', b"TIME"),
        (rb'"seq":[0-9]+', b"SEQ"),
        (rb"(?i)\r\n(date|x-vault-index|content-length): [^\r]*", b""),
        (folder.encode(), b"FOLDER"),
    ]
    for pattern, replacement in moving:
        text = re.sub(pattern, replacement, text)
    return text


async def test_both_ways_are_alike(ways: Ways) -> None:
    print("seed", SEED)
    rng = random.Random(SEED)
    for _ in range(REQUESTS):
        drawn = draw(rng, ways)
        by_lane = await ask(ways.lane, "qqqq", drawn, ways.core)
        ordinary = await ask(ways.ordinary, "zzzz", drawn, ways.core)
        assert by_lane == ordinary, drawn
        if rng.random() < 0.05:
            path = rng.choice(["secret/metadata/%s/a", "secret/data/%s/a"])
            for folder in ("qqqq", "zzzz"):
                await call(ways.core, Operation.DELETE, path % folder)
    assert ways.taken > REQUESTS / 40, "the lane was hardly taken: nothing was compared"
