"""Many subscribers of events, and slow ones: each is told all in order, and holds up nobody."""

import asyncio
import contextlib
import itertools
import json
import socket

import pytest
from support.listening import listening, put
from support.patience import PATIENCE_S, eventually

from node.events import fanout as fanouts
from node.events import subscription as subscriptions
from storage import command as c


async def slow_client(site):
    """A subscriber over a connection that holds little, and the writer whose transport can be paused."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((site.host, site.port))
    reader, writer = await asyncio.open_connection(sock=connection)
    writer.write(
        "GET /v1/sys/events/subscribe/* HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
        f"X-Vault-Token: {site.token}\r\n\r\n".encode()
    )
    await eventually(lambda: site.core.events.subscribers, "a subscriber")
    (subscription,) = site.core.events.stream.audience.all
    subscription.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return reader, writer, subscription


async def test_a_slow_subscriber_loses_nothing_and_holds_up_nobody(site, wire, monkeypatch):
    monkeypatch.setattr(subscriptions, "UNSENT_BYTES_MAX", 2000)
    reader, writer, slow = await slow_client(site)
    try:
        writer.transport.pause_reading()
        names = [f"n{n}" + "x" * 1000 for n in range(2000)]
        count = 0
        async with listening(site.url, site.token) as quick:
            while slow.stalled_at is None or count < 200:
                await put(wire, names[count])
                count += 1
            await quick.events(count)
        assert slow.behind
        assert slow.transport.get_write_buffer_size() < 2000 + fanouts.CARRIED_BYTES_MAX + 5000
        writer.transport.resume_reading()
        told = []
        while len(told) < count:
            line = await asyncio.wait_for(reader.readline(), PATIENCE_S)
            if line.startswith(b"data: "):
                told.append(json.loads(line[6:])["data"]["event"]["metadata"]["data_path"])
        assert told == [f"secret/data/{name}" for name in names[:count]]
    finally:
        writer.close()


async def put_several(wire, name, count):
    for number in range(count):
        await put(wire, f"{name}-{number}")


async def never(fanout, audience):
    """Nothing happens meanwhile."""


async def rights_change(fanout, audience):
    for turns in itertools.cycle(range(7)):
        audience.everybody_out_of_date()
        for _ in range(turns):
            await asyncio.sleep(0)


async def everybody_is_looked_at(fanout, audience):
    for turns in itertools.cycle(range(7)):
        for each in audience.all:
            fanout.look_again(each)
        for _ in range(turns):
            await asyncio.sleep(0)


@pytest.mark.parametrize("meanwhile", [never, rights_change, everybody_is_looked_at])
@pytest.mark.parametrize("waiting_max", [4, 20_000], ids=["from the ring", "in rounds"])
async def test_many_subscribers_are_told_in_turns_each_in_order(
    site, wire, monkeypatch, waiting_max, meanwhile
):
    """One write a turn: most events wait, for the next round or, where only four may wait, in the ring."""
    monkeypatch.setattr(fanouts, "WRITES_MAX", 1)
    monkeypatch.setattr(fanouts, "UNDELIVERED_MAX", waiting_max)
    stream = site.core.events.stream
    task = asyncio.create_task(meanwhile(stream.fanout, stream.audience))
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(task.cancel)
        heard = [await stack.enter_async_context(listening(site.url, site.token)) for _ in range(5)]
        wires = [await site.connect() for _ in range(10)]
        await asyncio.gather(*(put_several(each, f"of{number}", 8) for number, each in enumerate(wires)))
        told = [[each.what[1] for each in await listener.events(80)] for listener in heard]
        assert told[1:] == told[:-1]
        assert len(set(told[0])) == 80


async def test_what_few_asked_for_does_not_wait_until_all_have_been_told_something_else(
    site, wire, monkeypatch
):
    """Turns go round among those who want different things."""
    monkeypatch.setattr(fanouts, "WRITES_MAX", 1)
    order = []
    real = subscriptions.Subscription.write
    monkeypatch.setattr(
        subscriptions.Subscription,
        "write",
        lambda self, data, count=1: (
            order.append(self.filter.text) if count else None,
            real(self, data, count),
        ),
    )
    own = 'data_path == "secret/data/own"'
    async with contextlib.AsyncExitStack() as stack:
        everything = [await stack.enter_async_context(listening(site.url, site.token)) for _ in range(8)]
        one = await stack.enter_async_context(listening(site.url, site.token, filter=own))
        mount = next(each for each in site.core.unsealed.mounts() if each.path == "secret/")
        await put(wire, "other")
        await put(wire, "own")
        for each in (*everything, one):
            await each.events(1)
        order.clear()
        now = site.core.unsealed.now_ns()
        names = ("other", "own")
        await site.core.unsealed.submit(
            c.batch(now, *(c.KvDelete(now, mount.mount_id, n, ()) for n in names))
        )
        assert len(await one.events(2)) == 2
        for each in everything:
            await each.events(4)
    assert order.index(own) < 4
