"""The read lane, case by case: what it may answer, and what stops it at once. Beside: test_lane_alike.py."""

import asyncio
import contextlib
import json
import os
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.certs import Authority
from support.corefixture import ROOT_TOKEN, audit_records, call, new_token, opened
from support.httpfixture import Answer, Site, Wire, request, serve

from node.api import answers
from node.api.lane import ReadLane
from node.core.core import Core
from node.core.request import Operation
from storage.command import KvDelete

READER = 'path "secret/data/*" { capabilities = ["read"] }'
PATH = "/v1/secret/data/a"


class Lane:
    """A listener with a reader's token and a secret at PATH, and how many answers the lane gave."""

    def __init__(self, site: Site, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site, self.core, self.token, self.taken = site, site.core, token, 0
        begin = ReadLane.begin

        def counted(lane: ReadLane, raw: Any, done: Any) -> bool:
            begun = begin(lane, raw, done)
            self.taken += begun
            return begun

        monkeypatch.setattr(ReadLane, "begin", counted)

    async def get(
        self, wire: Wire, path: str = PATH, *, taken: bool, token: str = "", **headers: str
    ) -> Answer:
        """Ask, and check which way it went."""
        before = self.taken
        sent = {"X-Vault-Token": token or self.token} | {k.replace("_", "-"): v for k, v in headers.items()}
        await wire.send(request("GET", path, headers=sent))
        answer = await wire.answer()
        assert (self.taken > before) is taken, f"the lane was {'not ' if taken else ''}taken"
        return answer

    async def put(self, path: str = "secret/data/a", **data: Any) -> None:
        await call(self.core, Operation.UPDATE, path, {"data": data})


@pytest.fixture
async def lane(tmp_path, monkeypatch) -> AsyncIterator[Lane]:
    async with opened(tmp_path) as core, serve(core) as site:
        found = Lane(site, await new_token(core, policy=READER), monkeypatch)
        await found.put(n=1)
        yield found


async def test_reads_of_one_connection_are_answered_on_the_spot(lane: Lane) -> None:
    wire = await lane.site.connect()
    ids = set()
    for _ in range(3):
        answer = await lane.get(wire, taken=True)
        assert answer.status == 200
        assert answer.json["data"]["data"] == {"n": 1}
        assert answer.headers["content-type"] == "application/json"
        ids.add(answer.json["request_id"])
    assert len(ids) == 3
    records = audit_records(lane.core)[-6:]
    assert [record["type"] for record in records] == ["request", "response"] * 3
    assert {record["request"]["id"] for record in records} == ids
    assert [record["seq"] for record in records] == list(range(records[0]["seq"], records[0]["seq"] + 6))


async def test_a_write_is_seen_by_the_next_read(lane: Lane) -> None:
    wire = await lane.site.connect()
    for n in range(2, 6):
        await lane.put(n=n)
        for _ in range(2):
            assert (await lane.get(wire, taken=True)).json["data"]["data"] == {"n": n}
    assert (await lane.get(wire, PATH + "?version=1", taken=True)).json["data"]["data"] == {"n": 1}
    assert (await lane.get(wire, taken=True)).json["data"]["metadata"]["version"] == 5


async def test_what_is_deleted_is_gone_at_once(lane: Lane) -> None:
    wire = await lane.site.connect()
    await lane.get(wire, taken=True)
    await call(lane.core, Operation.DELETE, "secret/data/a")
    assert (await lane.get(wire, taken=False)).status == 404
    await call(lane.core, Operation.UPDATE, "secret/undelete/a", {"versions": [1]})
    assert (await lane.get(wire, taken=True)).status == 200
    await call(lane.core, Operation.UPDATE, "secret/destroy/a", {"versions": [1]})
    assert (await lane.get(wire, taken=False)).status == 404


async def test_a_deletion_that_was_set_for_later_comes(lane: Lane) -> None:
    await call(lane.core, Operation.UPDATE, "secret/metadata/b", {"delete_version_after": "1h"})
    await lane.put("secret/data/b", n=1)
    wire = await lane.site.connect()
    assert (await lane.get(wire, "/v1/secret/data/b", taken=True)).status == 200
    in_two_hours = time.time_ns() + 2 * 3600 * 10**9  # moves the store's clock
    store = lane.core.unsealed
    await store.submit(KvDelete(time_ns=in_two_hours, mount_id="none", path="none", versions=()))
    assert (await lane.get(wire, "/v1/secret/data/b", taken=False)).status == 404


async def test_a_revoked_token_is_refused_at_once(lane: Lane) -> None:
    wire = await lane.site.connect()
    await lane.get(wire, taken=True)
    await call(lane.core, Operation.UPDATE, "auth/token/revoke", {"token": lane.token})
    assert (await lane.get(wire, taken=False)).status == 403


async def test_an_expired_token_is_refused(lane: Lane) -> None:
    token = await new_token(lane.core, policy=READER, ttl="1h")
    wire = await lane.site.connect()
    assert (await lane.get(wire, taken=True, token=token)).status == 200
    in_two_hours = time.time_ns() + 2 * 3600 * 10**9
    store = lane.core.unsealed
    await store.submit(KvDelete(time_ns=in_two_hours, mount_id="none", path="none", versions=()))
    assert (await lane.get(wire, taken=False, token=token)).status == 403


async def test_a_changed_policy_counts_at_once(lane: Lane) -> None:
    await call(lane.core, Operation.UPDATE, "sys/policies/acl/p", {"policy": READER})
    token = await new_token(lane.core, policies=["p"], no_default_policy=True)
    wire = await lane.site.connect()
    assert (await lane.get(wire, taken=True, token=token)).status == 200
    await call(lane.core, Operation.UPDATE, "sys/policies/acl/p", {"policy": READER.replace("read", "deny")})
    assert (await lane.get(wire, taken=False, token=token)).status == 403
    assert (await lane.get(wire, taken=True)).status == 200, "who may, still may"
    assert (await lane.get(wire, taken=False, token=token)).status == 403, "and who may not does not profit"


async def test_the_same_headers_with_another_token_are_somebody_else(lane: Lane) -> None:
    stranger = await new_token(lane.core, policies=["default"])
    wire = await lane.site.connect()
    for _ in range(2):
        assert (await lane.get(wire, taken=True)).status == 200
        assert (await lane.get(wire, taken=False, token=stranger)).status == 403
        assert (await lane.get(wire, taken=False, token="s.nobody")).status == 403


async def test_uses_are_counted(lane: Lane) -> None:
    token = await new_token(lane.core, policy=READER, num_uses=2)
    wire = await lane.site.connect()
    assert [(await lane.get(wire, taken=False, token=token)).status for _ in range(3)] == [200, 200, 403]


async def test_another_secret_under_a_mount_of_the_same_name(lane: Lane) -> None:
    wire = await lane.site.connect()
    await lane.get(wire, taken=True)
    await call(lane.core, Operation.DELETE, "sys/mounts/secret")
    assert (await lane.get(wire, taken=False)).status != 200
    await call(lane.core, Operation.UPDATE, "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
    assert (await lane.get(wire, taken=False)).status == 404
    await lane.put(n=7)
    assert (await lane.get(wire, taken=True)).json["data"]["data"] == {"n": 7}


async def test_a_sealed_node_answers_no_read(lane: Lane) -> None:
    wire = await lane.site.connect()
    await lane.get(wire, taken=True)
    await lane.core.lifecycle.seal()
    assert (await lane.get(wire, taken=False)).status == 503


async def test_a_view_that_may_be_old_is_confirmed_first(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = await lane.site.connect()
    await lane.get(wire, taken=True)
    monkeypatch.setattr(type(lane.core.unsealed), "fresh_now", lambda store: False)
    assert (await lane.get(wire, taken=False)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X_Vault_Wrap_TTL": "60"},
        {"X_Vault_Namespace": "root"},
        {"X_Vault_Index": "x"},
        {"X_Strongroom_Consistency": "stale-ok"},
        {"X_Strongroom_Consistency": "linearizable"},
        {"X_Strongroom_Request_Id": "00" * 16},
        {"Origin": "https://example.com"},
        {"Connection": "close"},
    ],
)
async def test_a_header_that_may_change_the_answer_takes_the_ordinary_way(
    lane: Lane, headers: dict[str, str]
) -> None:
    wire = await lane.site.connect()
    await lane.get(wire, taken=True)
    await lane.get(wire, taken=False, **headers)


@contextlib.contextmanager
def failing_disk(core: Core) -> Any:
    """The audit file's descriptor writes to a full device."""
    audit = os.stat(core.settings.audit_files[0])
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    (descriptor,) = [n for n in numbers if _same(n, audit)]
    saved, full = os.dup(descriptor), os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, descriptor)
    try:
        yield
    finally:
        os.dup2(saved, descriptor)
        os.close(saved)
        os.close(full)


def _same(descriptor: int, file: os.stat_result) -> bool:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (file.st_dev, file.st_ino)


async def test_without_a_record_there_is_no_answer(lane: Lane) -> None:
    wire = await lane.site.connect()
    await lane.get(wire, taken=True)
    before = len(audit_records(lane.core))
    with failing_disk(lane.core):
        answer = await lane.get(wire, taken=True)
        assert answer.status == 500
        assert "data" not in answer.json
    assert lane.core.audit.refused == 1
    assert len(audit_records(lane.core)) == before
    assert (await lane.get(wire, taken=True)).status == 200


async def test_reads_of_one_turn_share_a_write_and_its_failure(lane: Lane) -> None:
    wires = [await lane.site.connect() for _ in range(5)]
    for wire in wires:
        await lane.get(wire, taken=True)
    data = request("GET", PATH, headers={"X-Vault-Token": lane.token})
    with failing_disk(lane.core):
        for wire in wires:
            wire.writer.write(data)
        assert [(await wire.answer()).status for wire in wires] == [500] * 5
        assert lane.core.audit.refused == 5, "as many as were withheld"
    for wire in wires:
        wire.writer.write(data)
    assert [(await wire.answer()).json["data"]["data"] for wire in wires] == [{"n": 1}] * 5


async def test_more_reads_than_one_write_takes(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "READS_A_WRITE_MAX", 2)
    wires = [await lane.site.connect() for _ in range(5)]
    for wire in wires:
        wire.writer.write(request("GET", PATH, headers={"X-Vault-Token": lane.token}))
    ids = {(await wire.answer()).json["request_id"] for wire in wires}
    assert ids <= {record["request"]["id"] for record in audit_records(lane.core)}
    assert len(ids) == 5


async def test_a_record_torn_in_the_middle_withholds_the_answer(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of the two records fits, the second does not: the next records go on counting after the first."""
    wire = await lane.site.connect()
    await lane.get(wire, taken=True)
    real = os.write
    monkeypatch.setattr(
        os, "write", lambda descriptor, data: real(descriptor, data[: data.index(b"\n") + 20])
    )
    assert (await lane.get(wire, taken=True)).status == 500
    monkeypatch.undo()
    lines = lane.core.settings.audit_files[0].read_text().splitlines()
    last = json.loads(lines[-2])
    assert last["type"] == "request"
    await call(lane.core, Operation.READ, "secret/data/a")
    lines = lane.core.settings.audit_files[0].read_text().splitlines()
    assert json.loads(lines[-2])["seq"] == last["seq"] + 1


async def test_targets_of_any_length_are_answered_and_long_ones_are_not_remembered(lane: Lane) -> None:
    wire = await lane.site.connect()
    for length, taken in ((100, True), (600, False)):
        name = "x" * length
        await lane.put(f"secret/data/{name}", n=length)
        for _ in range(2):
            answer = await lane.get(wire, f"/v1/secret/data/{name}", taken=taken)
            assert answer.json["data"]["data"] == {"n": length}


async def test_what_comes_behind_a_read_is_answered_in_order(lane: Lane) -> None:
    wire = await lane.site.connect()
    await lane.get(wire, taken=True)
    token = {"X-Vault-Token": ROOT_TOKEN}
    await wire.send(
        request("GET", PATH, headers=token)
        + request("POST", PATH, {"data": {"n": 2}}, headers=token)
        + request("GET", PATH, headers=token)
    )
    first, written, second = [await wire.answer() for _ in range(3)]
    assert first.json["data"]["data"] == {"n": 1}
    assert written.json["data"]["version"] == 2
    assert second.json["data"]["data"] == {"n": 2}


async def test_a_read_behind_a_request_in_the_making_waits_for_it(lane: Lane) -> None:
    wire = await lane.site.connect()
    await lane.get(wire, taken=True)
    token = {"X-Vault-Token": ROOT_TOKEN}
    await wire.send(request("POST", PATH, {"data": {"n": 2}}, headers=token))
    await asyncio.sleep(0)
    await wire.send(request("GET", PATH, headers={"X-Vault-Token": lane.token}))
    assert (await wire.answer()).json["data"]["version"] == 2
    assert (await wire.answer()).json["data"]["data"] == {"n": 2}


async def test_a_switch_turns_it_off(tmp_path, monkeypatch) -> None:
    async with opened(tmp_path, read_lane=False) as core, serve(core) as site:
        lane = Lane(site, await new_token(core, policy=READER), monkeypatch)
        await lane.put(n=1)
        wire = await site.connect()
        for _ in range(2):
            assert (await lane.get(wire, taken=False)).json["data"]["data"] == {"n": 1}


async def test_nobody_s_token_stays_with_a_remembered_answer(lane: Lane) -> None:
    """Two callers, one target: each record names its own."""
    other = await new_token(lane.core, policy=READER)
    wires = [await lane.site.connect() for _ in range(2)]
    for wire, token in zip(wires, (lane.token, other), strict=True):
        await lane.get(wire, taken=True, token=token)
    records = audit_records(lane.core)[-4:]
    assert [record["request"]["client_token"] for record in records[::2]] == [
        lane.core.audit.hash(lane.token),
        lane.core.audit.hash(other),
    ]


async def test_what_is_remembered_of_one_listener_is_right_for_the_other(lane: Lane, tmp_path) -> None:
    """A browser that is told over TLS to stay there must not be told without it (RFC 6797, 7.2)."""
    authority = Authority(tmp_path / "ca")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(authority.issue("node", ["localhost"]))
    client = ssl.create_default_context(cafile=str(authority.ca))
    client.check_hostname = False
    async with serve(lane.core, server_tls=server, client_tls=client) as site:
        secure, plain = await site.connect(), await lane.site.connect()
        for wire in (secure, plain, secure, plain, plain, secure):
            headers = (await lane.get(wire, taken=True)).headers
            assert ("strict-transport-security" in headers) is (wire is secure)
