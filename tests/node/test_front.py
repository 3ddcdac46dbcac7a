"""A server's first word: whether there is a store, before the rest is loaded; all else waits for it."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.certs import self_signed
from support.corefixture import ROOT_TOKEN, opened
from support.httpfixture import Wire, request
from support.ports import free_ports

from node.front import Entrance
from node.listeners import Listeners


class Loading:
    """A server that is being loaded."""

    def __init__(self) -> None:
        self.has_store = False
        self.entrance = Entrance(lambda: self.has_store)
        self.port = free_ports(1)[0]
        self.wires: list[Wire] = []

    async def connect(self) -> Wire:
        wire = Wire(*await asyncio.open_connection("127.0.0.1", self.port), ROOT_TOKEN)
        self.wires.append(wire)
        return wire


@pytest.fixture
async def loading() -> AsyncIterator[Loading]:
    made = Loading()
    await made.entrance.listen("127.0.0.1", made.port, None)
    yield made
    made.entrance.close()
    for wire in made.wires:
        await wire.close()


@contextlib.asynccontextmanager
async def loaded(loading: Loading, tmp_path: Path) -> AsyncIterator[None]:
    """The rest is there from now on."""
    async with opened(tmp_path) as core:
        listeners = Listeners(core)
        for door in loading.entrance.doors:
            listeners.take(door)
        yield
        await listeners.drain(5.0)


async def test_one_question_is_answered_at_once_and_all_others_when_everything_is_there(
    loading: Loading, tmp_path: Path
) -> None:
    asked = [
        request("GET", "/v1/sys/health"),
        request("PUT", "/v1/sys/init", {"secret_shares": 1, "secret_threshold": 1}),
        request("POST", "/v1/secret/data/a", {"data": {"b": "c"}}, headers={"X-Vault-Token": ROOT_TOKEN}),
        request("LIST", "/v1/sys/policies/acl", headers={"X-Vault-Token": ROOT_TOKEN}),
        request("GET", "/v1/sys/init", headers={"X-Vault-Namespace": "other"}),
        request("GET", "/v1/sys/init?help=1", headers={"X-Vault-Token": ROOT_TOKEN}),
        request("GET", "/v1/"),
        request("GET", "/v1/sys/init") * 2,
        b"GARBAGE\r\n\r\n",
    ]
    waiting = [await loading.connect() for _ in asked]
    for wire, data in zip(waiting, asked, strict=True):
        await wire.send(data)
    first = await loading.connect()
    for has_store in (False, True):
        loading.has_store = has_store
        assert (await first.ask("GET", "/v1/sys/init")).json == {"initialized": has_store}
    half = await loading.connect()
    whole = request("GET", "/v1/sys/init")
    await half.send(whole[:30])
    assert not any(wire.reader._buffer for wire in [*waiting, half]), "nobody else has an answer"  # type: ignore[attr-defined]

    async with loaded(loading, tmp_path):
        await half.send(whole[30:])
        answers = [await wire.answer() for wire in waiting]
        assert [each.status for each in answers] == [200, 400, 200, 200, 404, 200, 403, 200, 400]
        assert answers[1].json == {"errors": ["Vault is already initialized"]}
        assert answers[2].json["data"]["version"] == 1
        assert (await waiting[7].answer()).json == {"initialized": True}, "the second of two"
        assert (await half.answer()).json == {"initialized": True}
        later = await first.ask("GET", "/v1/secret/data/a")
        assert later.json["data"]["data"] == {"b": "c"}, "who had an answer has further ones"
        newcomer = await loading.connect()
        assert (await newcomer.ask("GET", "/v1/secret/data/a")).status == 200


async def test_who_shakes_hands_while_the_rest_comes_up_is_served_like_all_others(tmp_path: Path) -> None:
    """A TLS handshake that began at the door ends in the house."""
    cert, key = self_signed(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    loading = Loading()
    await loading.entrance.listen("127.0.0.1", loading.port, server)
    slow, quick = await loading.connect(), await loading.connect()
    client = ssl.create_default_context(cafile=str(cert))
    await quick.writer.start_tls(client, server_hostname="127.0.0.1")
    first = await quick.ask("GET", "/v1/sys/init")
    assert (first.json, "strict-transport-security" in first.headers) == ({"initialized": False}, True)
    async with loaded(loading, tmp_path):
        await slow.writer.start_tls(client, server_hostname="127.0.0.1")
        for wire in (slow, quick):
            assert (await wire.ask("GET", "/v1/sys/health")).status == 200
            await wire.close()


async def test_the_first_word_is_said_as_the_later_ones(loading: Loading, tmp_path: Path) -> None:
    wire = await loading.connect()
    loading.has_store = True
    before = await wire.ask("GET", "/v1/sys/init")
    async with loaded(loading, tmp_path):
        after = await wire.ask("GET", "/v1/sys/init")
    varying = {"date": "", "x-vault-index": ""}
    assert (before.status, before.body) == (after.status, after.body)
    assert {*before.headers} >= {"date", "content-type", "cache-control"}
    assert before.headers | varying == after.headers | varying


async def test_who_leaves_while_the_rest_is_loaded_is_forgotten(loading: Loading, tmp_path: Path) -> None:
    gone = await loading.connect()
    await gone.send(request("GET", "/v1/sys/health"))
    await gone.close()
    async with loaded(loading, tmp_path):
        assert (await (await loading.connect()).ask("GET", "/v1/sys/health")).status == 200


async def test_closing_before_the_rest_is_there_turns_everybody_away(loading: Loading) -> None:
    loading.entrance.close()
    with pytest.raises(ConnectionRefusedError):
        await loading.connect()
