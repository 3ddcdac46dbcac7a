"""How streams of events are begun, refused and ended, and what is recorded of it."""

import asyncio
import contextlib
import json

import aiohttp
import httpx
import pytest
from support.httpfixture import dev_core, serve
from support.listening import listening, put
from support.patience import PATIENCE_S, eventually

from node.api import events as node_events
from node.errors import AuditFailed
from node.events import stream as streams
from node.events import subscription as subscriptions


async def records(site, tmp_path):
    return [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]


async def test_an_old_http_client_is_told_that_there_are_no_events_for_it(site):
    wire = await site.connect()
    await wire.send(
        f"GET /v1/sys/events/subscribe/* HTTP/1.0\r\nHost: x\r\nAccept: text/event-stream\r\n"
        f"X-Vault-Token: {site.token}\r\n\r\n".encode()
    )
    answer = await wire.answer()
    assert (answer.status, answer.json["errors"]) == (400, ["events need HTTP/1.1"])


async def test_one_that_takes_nothing_for_long_is_cut_off(site, wire, monkeypatch):
    monkeypatch.setattr(streams, "STALL_S", 0.2)
    async with listening(site.url, site.token):
        (each,) = site.core.events.stream.audience.all
        each.stalled_at = asyncio.get_running_loop().time() - 1
        assert (
            str(await asyncio.wait_for(asyncio.shield(each.ended), PATIENCE_S))
            == "the client takes too little"
        )


async def test_sealing_and_draining_end_streams_with_the_reason(site, wire):
    async with listening(site.url, site.token) as heard:
        await wire.ask("PUT", "/v1/sys/seal")
        assert await heard.ended() == "this node is sealed"


async def test_a_stream_whose_answer_begins_while_the_node_is_sealed_ends_too(site, wire, monkeypatch):
    real = node_events._Sse.open

    async def sealed_meanwhile(self, lost):
        transport = await real(self, lost)
        await wire.ask("PUT", "/v1/sys/seal")
        return transport

    monkeypatch.setattr(node_events._Sse, "open", sealed_meanwhile)
    async with listening(site.url, site.token) as heard:
        assert await heard.ended() == "this node is sealed"


async def test_a_websocket_is_closed_with_a_code_that_says_come_elsewhere(site):
    async with (
        aiohttp.ClientSession(headers={"X-Vault-Token": site.token}) as session,
        session.ws_connect(f"{site.url}/v1/sys/events/subscribe/*?json=true") as ws,
    ):
        await eventually(lambda: site.core.events.subscribers, "a subscriber")
        site.core.events.end_all(subscriptions.End.STOPPING)
        message = await asyncio.wait_for(ws.receive(), PATIENCE_S)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, aiohttp.WSCloseCode.GOING_AWAY)


async def test_begin_and_end_are_in_the_audit_log(site, tmp_path, wire):
    async with listening(site.url, site.token) as heard:
        begun = await records(site, tmp_path)
        assert [each["type"] for each in begun[-2:]] == ["request", "response"]
        assert begun[-2]["request"]["path"] == "sys/events/subscribe/*"
        await put(wire, "a")
        await heard.events(1)
    await eventually(lambda: not site.core.events.subscribers, "the end of the subscription")
    end = (await records(site, tmp_path))[-1]
    assert end["type"] == "response"
    assert end["request"]["path"] == "sys/events/subscribe/*"
    assert end["request"]["id"] == begun[-1]["request"]["id"]
    assert "the client went away" in end["error"]
    assert end["response"]["data"] == {"events": 1}


async def test_the_end_is_recorded_and_the_place_free_also_if_the_connections_task_is_cancelled(
    site, tmp_path, wire
):
    before = asyncio.all_tasks()
    async with listening(site.url, site.token, "kv*"):
        [serving] = [each for each in asyncio.all_tasks() - before if "start" in each.get_coro().__qualname__]
        serving.cancel()
        await eventually(lambda: site.core.events._places == 0, "a place that is free again")
        last = (await records(site, tmp_path))[-1]
        assert "subscription ended" in last["error"]


async def test_there_is_room_for_so_many_and_no_more(tmp_path):
    async with (
        dev_core(tmp_path, event_subscribers_max=1) as (core, token),
        serve(core, token=token) as site,
    ):
        async with listening(site.url, token):
            with pytest.raises(httpx.HTTPStatusError, match="503"):
                async with listening(site.url, token):
                    pass
        await eventually(lambda: not core.events.subscribers, "a place that is free again")
        async with listening(site.url, token):
            pass


async def outcome_of_opening(site, held):
    """200 for a subscription, which `held` keeps, or the status of the refusal."""
    try:
        await held.enter_async_context(listening(site.url, site.token))
    except httpx.HTTPStatusError as refused:
        return refused.response.status_code
    return 200


async def test_who_comes_at_the_same_time_as_others_does_not_slip_past_the_limit(tmp_path, monkeypatch):
    """All of them are admitted before any of them has its answer."""
    real, waiting, all_here = node_events._Sse.open, [], asyncio.Event()

    async def together(self, lost):
        waiting.append(self)
        if len(waiting) >= 5:
            all_here.set()
        await asyncio.wait_for(all_here.wait(), PATIENCE_S)
        return await real(self, lost)

    monkeypatch.setattr(node_events._Sse, "open", together)
    async with (
        dev_core(tmp_path, event_subscribers_max=5) as (core, token),
        serve(core, token=token) as site,
    ):
        async with contextlib.AsyncExitStack() as held:
            seen = await asyncio.gather(*(outcome_of_opening(site, held) for _ in range(25)))
            assert sorted(seen) == [200] * 5 + [503] * 20
        await eventually(lambda: not core.events.subscribers, "a place that is free again")
        async with contextlib.AsyncExitStack() as held:
            assert [await outcome_of_opening(site, held) for _ in range(6)] == [200] * 5 + [503]


@pytest.mark.parametrize("spelling", ["events", "%65vents"])
async def test_who_was_admitted_and_got_no_answer_gives_the_place_back(tmp_path, monkeypatch, spelling):
    """The record of the answer cannot be written; or the path is spelled so that it cannot be a stream."""
    async with (
        dev_core(tmp_path, event_subscribers_max=1) as (core, token),
        serve(core, token=token) as site,
    ):
        wire = await site.connect()
        asked = f"/v1/sys/{spelling}/subscribe/kv-v2/data-write"
        with monkeypatch.context() as failing:
            if spelling == "events":
                failing.setattr(core.audit, "response", failing_record)
            sent = {"Accept": "text/event-stream"}
            assert (await wire.ask("GET", asked, headers=sent)).status >= 400
        async with listening(site.url, token):
            pass


def failing_record(*_, **__):
    raise AuditFailed("the disk is full")
