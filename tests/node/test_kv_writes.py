"""A write of a version happens once, whatever races it and however often it is asked for."""

import asyncio
import json
import os
import random

import pytest
from support.httpfixture import request

from consensus.errors import OutcomeUnknown
from consensus.memory import SoloGroup
from node import errors
from node.engines import kv_writes
from node.engines.kv_writes import RACE_RETRIES_MAX, Writer
from storage.command import KvPut, decode, encode

PATCH = {"Content-Type": "application/merge-patch+json"}


class Interfering(SoloGroup):
    """A group in which others write the same key first, and in which answers get lost."""

    def __init__(self, group: SoloGroup) -> None:
        self.__dict__.update(group.__dict__)
        self.before: list[bytes] = []  # commands that win the next races
        self.lose: list[bool] = []  # whether the next outcomes get lost, applied or not
        self.proposed: list[bytes] = []

    def begin(self, command, *, request_id, timeout):
        return asyncio.ensure_future(self.propose(command, request_id=request_id, timeout=timeout))

    async def propose(self, command, *, request_id, timeout):
        self.proposed.append(request_id)
        await asyncio.sleep(0)  # agreeing takes a while: others get their turn
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
    monkeypatch.setattr(kv_writes, "WAITING_WRITERS_MAX", 1)
    wires = [await site.connect() for _ in range(4)]
    answers = await asyncio.gather(*(wire.ask("POST", "/v1/secret/data/a", {"data": {}}) for wire in wires))
    assert sorted(each.status for each in answers) == [200, 200, 503, 503]


async def test_what_is_replicated_holds_no_plaintext(site, wire):
    seen = []
    inner = site.core.store._group.begin

    def begin(command, **rest):
        seen.append(command)
        return inner(command, **rest)

    site.core.store._group.begin = begin
    await wire.send(
        request("POST", "/v1/secret/data/a", {"data": {"k": "canary"}}, headers={"X-Vault-Token": site.token})
    )
    assert (await wire.answer()).status == 200
    assert [type(decode(each)) for each in seen] == [KvPut]
    assert b"canary" not in seen[0]
