"""`strongroom events subscribe` against a real listener."""

import asyncio
import json
import time
from types import SimpleNamespace

import pytest
from support.cli import runner
from support.httpfixture import dev_core, serve
from support.patience import eventually
from support.stub_api import stub_api

from node.cli import events
from node.events.subscription import End


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    return runner(capsys, monkeypatch)


@pytest.fixture
async def site(tmp_path, monkeypatch):
    async with dev_core(tmp_path) as (core, token), serve(core, token=token) as site:
        monkeypatch.setenv("VAULT_ADDR", site.url)
        monkeypatch.setenv("VAULT_TOKEN", token)
        yield site


async def put(site, name):
    wire = await site.connect()
    assert (await wire.ask("PUT", f"/v1/secret/data/{name}", {"data": {"x": "hunter2"}})).status == 200


async def subscribed(site):
    await eventually(lambda: site.core.events.subscribers, "a subscriber")


async def heard(site, count):
    """Waits until subscribers were sent so many events."""
    await eventually(lambda: site.core.events.measured().sent >= count, f"{count} events sent")


async def test_every_event_is_a_line_of_json_until_the_time_is_over(site, cli):
    command = ["events", "subscribe", "-format=json", "-filter", "path != secret/data/b", "kv-v2/*"]
    running = asyncio.create_task(asyncio.to_thread(cli, *command))
    await subscribed(site)
    for name in "abc":
        await put(site, name)
    await heard(site, 2)
    site.core.events.end_all(End.LIMIT)
    code, out, err = await running
    told = [json.loads(line)["data"]["event"]["metadata"]["data_path"] for line in out.splitlines()]
    assert (code, told, err) == (0, ["secret/data/a", "secret/data/c"], "")
    assert "hunter2" not in out


async def test_the_time_that_was_asked_for_is_kept(site, cli):
    ended = await asyncio.to_thread(cli, "events", "subscribe", "-timeout=300ms", "kv-v2/*")
    assert ended == (0, "", "")


async def test_a_broken_connection_is_made_again_and_nothing_is_missed(site, cli, monkeypatch):
    later_s = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + later_s, sleep=time.sleep)
    monkeypatch.setattr(events, "time", clock)
    running = asyncio.create_task(asyncio.to_thread(cli, "events", "subscribe", "-timeout=10m", "kv*"))
    await subscribed(site)
    await put(site, "a")
    await heard(site, 1)
    (subscription,) = site.core.events.stream.audience.all
    subscription.transport.abort()
    await put(site, "b")
    await heard(site, 2)
    later_s = 600.0  # its time is over when the server sends it away
    site.core.events.end_all(End.STOPPING)
    code, out, _ = await running
    told = [json.loads(line)["data"]["event"]["metadata"]["data_path"] for line in out.splitlines()]
    assert (code, told) == (0, ["secret/data/a", "secret/data/b"])


async def test_a_node_that_is_sealed_while_it_starts_is_waited_for(cli, monkeypatch):
    monkeypatch.setattr(events, "AGAIN_S", 0.0)
    sealed = (503, {"errors": ["Vault is sealed"]})
    over = b'event: end\ndata: {"reason": "the time asked for is over"}\n\n'
    answers = iter([(200, b'id: c1\ndata: {"n": 1}\n\n'), sealed, sealed, (200, over), sealed])
    with stub_api({"GET /v1/sys/events/subscribe/kv": lambda _: next(answers)}) as api:
        command = ("events", "subscribe", "-address", api.address, "kv")
        assert cli(*command) == (0, '{"n": 1}\n', "")
        assert [each.get("Last-Event-ID") for each in api.headers] == [None, "c1", "c1", "c1"]
        code, _, err = cli(*command)
        assert (code, "Vault is sealed" in err) == (2, True), "who never heard it is told at once"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing/like-it"], "no events of type"),
        (["-filter", "a =", "kv*"], "filter"),
        (["-after=x", "*"], "cursor"),
    ],
)
async def test_what_the_server_refuses_is_told_in_its_words(site, cli, arguments, words):
    code, out, err = await asyncio.to_thread(cli, "events", "subscribe", *arguments)
    assert (code, out) == (2, "")
    assert words in err
