"""Subscriptions against a server that breaks off where it hurts most: nothing is missed, nothing dropped too late."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from strongroom import AsyncClient, Cache, Client, ConfigurationError, Forbidden, Token
from strongroom._core import Core, Settings
from strongroom._effects import Answer as AnswerOf
from strongroom._effects import Failure, OpenStream, Pause, ReadStream, Stream
from strongroom._events import Subscription
from support.certs import Authority
from support.patience import PATIENCE_S, eventually
from support.processes import poll
from support.stub_api import dead_address, stub_api


def event(number: int, *, kind: str = "kv-v2/data-write", path: str = "secret/data/app") -> str:
    document = {
        "id": str(number),
        "type": kind,
        "time": "2026-01-01T00:00:00Z",
        "data": {
            "event": {"metadata": {"operation": kind.partition("/")[2], "path": path, "data_path": path}},
            "plugin_info": {"mount_path": "secret/"},
        },
    }
    return f"id: c{number}\ndata: {json.dumps(document)}\n\n"


class Script:
    """What each connection is sent before it is cut; after the last one it stays open. Secrets count how often."""

    def __init__(self, *connections: str, status: int = 200) -> None:
        self.connections, self.status = list(connections), status
        self.asked: list[str] = []  # the cursors that clients came with
        self.reads: list[str] = []  # the indexes that reads asked for
        self.end = threading.Event()
        self.more = threading.Event()  # let the last connection go on with `later`
        self.later = ""


@contextmanager
def serving(script: Script) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            if "/events/" in self.path:
                self.stream()
            elif "/data/" in self.path:
                script.reads.append(self.headers.get("X-Vault-Index", ""))
                value = {"data": {"v": str(len(script.reads))}, "metadata": {"version": 1}}
                self.answer(200, {"data": value})
            else:
                self.answer(200, {"data": {"ttl": 0, "renewable": False}})

        def answer(self, status: int, body: Any) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def stream(self) -> None:
            if script.status != 200:
                self.answer(script.status, {"errors": ["permission denied"]})
                return
            script.asked.append(self.headers.get("Last-Event-ID", ""))
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(script.connections.pop(0).encode() if script.connections else b": ping\n\n")
            self.wfile.flush()
            if not script.connections and len(script.asked) > 0 and script.later is not None:
                script.more.wait(PATIENCE_S)
                self.wfile.write(script.later.encode())
                self.wfile.flush()
                script.end.wait(PATIENCE_S)
            self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        script.more.set()
        script.end.set()
        server.shutdown()
        server.server_close()
        thread.join()


def test_an_event_that_is_cut_in_the_middle_is_asked_for_again() -> None:
    head, _, _ = event(2).partition("data")
    script = Script(": ping\nid: c0\n\n" + event(1) + head, event(2) + event(3))
    with serving(script) as url, Client(url, Token("s.t")) as client:
        with client.events.subscribe("kv*") as events:
            assert [next(events).id for _ in range(3)] == ["1", "2", "3"]
        assert script.asked == ["", "c1"]


@pytest.mark.parametrize("data", ["<html>", "[]", '"text"', '{"data": 1}', '{"data": {"event": []}}'])
def test_what_is_no_event_is_taken_for_a_broken_connection(data: str) -> None:
    script = Script(event(1) + f"id: c9\ndata: {data}\n\n", event(2))
    with serving(script) as url, Client(url, Token("s.t")) as client:
        with client.events.subscribe("kv*") as events:
            assert [next(events).id for _ in range(2)] == ["1", "2"]
        assert script.asked == ["", "c1"]


def test_a_subscription_does_not_wait_for_ever_where_no_certificate_is_trusted(tmp_path: Path) -> None:
    theirs, ours = Authority(tmp_path / "theirs"), Authority(tmp_path / "ours")
    with stub_api(certificate=theirs.issue("node", ["localhost"])) as api:
        client = Client(api.address, ca_file=ours.ca)
        with pytest.raises(ConfigurationError, match=r"CERTIFICATE_VERIFY_FAILED.*ca_file="):
            next(client.events.subscribe("kv*"))
        client.close()


def test_who_has_read_ahead_goes_on_behind_what_its_caller_has_seen() -> None:
    script = Script(event(1) + event(2), event(3))
    with serving(script) as url, Client(url, Token("s.t")) as client:
        with client.events.subscribe("kv*") as events:
            assert next(events).id == "1"
            cursor = events.cursor
        assert cursor == "c1"


def test_a_refusal_is_told_and_closing_the_client_ends_the_iteration() -> None:
    with serving(Script(status=403)) as url, Client(url, Token("s.t")) as client, pytest.raises(Forbidden):
        next(client.events.subscribe("kv*"))
    script = Script(event(1))
    with serving(script) as url:
        client = Client(url, Token("s.t"))
        heard: list[Any] = []
        thread = threading.Thread(target=heard.extend, args=(client.events.subscribe("kv*"),))
        thread.start()
        poll(lambda: heard, what="an event")
        client.close()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_while_no_server_is_there_a_subscription_waits_for_one() -> None:
    client = Client(dead_address(), Token("s.t"), timeout_s=0.3)
    heard: list[Any] = []
    thread = threading.Thread(target=heard.extend, args=(client.events.subscribe("kv*"),))
    thread.start()
    thread.join(1.0)
    assert thread.is_alive(), "it has not given up"
    client.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


async def test_with_asyncio_too() -> None:
    head, _, _ = event(2).partition("data")
    script = Script(event(1) + head, event(2))
    with serving(script) as url:
        client = AsyncClient(url, Token("s.t"))
        heard: list[str] = []

        async def listen() -> None:
            async with client.events.subscribe("kv*") as events:
                async for each in events:
                    heard.append(each.id)  # noqa: PERF401 - as they come

        task = asyncio.create_task(listen())
        await eventually(lambda: len(heard) == 2, "both events")
        await client.aclose()
        await asyncio.wait_for(task, PATIENCE_S)
        assert heard == ["1", "2"]
        assert script.asked == ["", "c1"]


async def test_whoever_waits_for_a_while_only_stays_at_the_same_server_and_misses_nothing() -> None:
    script = Script(": ping\nid: c0\n\n")
    script.later = event(1)
    with serving(script) as url:
        client = AsyncClient(url, Token("s.t"))
        async with client.events.subscribe("kv*") as events:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(events), 0.1)
            script.more.set()
            assert (await asyncio.wait_for(anext(events), PATIENCE_S)).id == "1"
            assert script.asked == [""]
        script.end.set()
        await client.aclose()


def filled(client: Client, script: Script, *names: str) -> None:
    """The cache was emptied for a new subscription, and holds what is at least as new as its beginning.

    A node that is behind the one that holds the subscription would give what nobody will say any more is outdated.
    """
    ends = time.monotonic() + PATIENCE_S
    while script.reads.count("c0") < len(names):
        assert time.monotonic() < ends, "no read asks for the state in which the subscription began"
        for name in names:
            client.kv.get(name)


def test_a_pushed_change_drops_the_cached_value_and_the_next_read_asks_for_that_change() -> None:
    script = Script(": ping\nid: c0\n\n")
    script.later = event(1)
    cache = Cache(push=True, fresh_s=3600, stale_s=3600)
    with serving(script) as url, Client(url, Token("s.t"), cache=cache) as client:
        filled(client, script, "app")
        before = len(script.reads)
        script.more.set()
        poll(lambda: client.kv.get("app") and len(script.reads) > before, what="a read that asks again")
        assert script.reads[-1] == "c1"
        assert client.kv.get("app")["v"].reveal() == str(len(script.reads))


def test_to_be_told_to_read_again_drops_everything() -> None:
    script = Script(": ping\nid: c0\n\n")
    script.later = event(1, kind="sys/events/reread", path="")
    cache = Cache(push=True, fresh_s=3600, stale_s=3600)
    with serving(script) as url, Client(url, Token("s.t"), cache=cache) as client:
        filled(client, script, "a", "b")
        before = len(script.reads)
        script.more.set()
        poll(lambda: client.kv.get("a") and len(script.reads) > before, what="a read that asks again")
        client.kv.get("b")
        assert len(script.reads) == before + 2


def test_where_the_servers_refuse_the_cache_works_as_without() -> None:
    script = Script(status=403)
    with serving(script) as url, Client(url, Token("s.t"), cache=Cache(push=True)) as client:
        client.kv.get("app")
        client.kv.get("app")
        assert len(script.reads) == 1


def answers(program: Any, replies: list[Any]) -> Any:
    """What a program comes to, if its questions have these answers; None: it asks for more."""
    said: Any = None
    try:
        while True:
            asked = program.send(said)
            if isinstance(asked, OpenStream | ReadStream):
                if not replies:
                    program.close()
                    return None
                said = replies.pop(0)
            else:
                said = True if isinstance(asked, Pause) else None
    except StopIteration as stop:
        return stop.value


def test_what_happened_while_nobody_listened_is_heard_of_before_the_cache_is_trusted_again() -> None:
    """The server repeats the cursor first, and tells then what came after it."""
    core = Core(Settings(endpoints=["https://n1:1"], auth=None))
    held = core.push._subscription = Subscription(core, "kv*", "", "", core.push._note)

    def block(*lines: str) -> list[list[str]]:
        return [[each] for each in (*lines, "")]

    happened = block(*event(2).split("\n")[:2])
    assert answers(held.begun(), [Stream(), *block(": ping", "id: c1")])
    assert core.push.is_up, "it begins now: there is nothing from before"
    assert answers(held.next(), [Failure("cut", sent=True), Stream(), *block(": ping", "id: c1")]) is None
    assert (held.connected, core.push.is_up) == (True, False)
    assert answers(held.next(), [*happened]).cursor == "c2"
    assert answers(held.next(), block(": ping")) is None
    assert not core.push.is_up, "the server does not say that this was all"
    assert answers(held.next(), block(": ping", "id: c2")) is None
    assert core.push.is_up


def test_where_one_node_has_not_come_as_far_as_the_cursor_another_one_is_asked() -> None:
    """It may be cut off, and stay behind."""
    core = Core(Settings(endpoints=["https://n1:1", "https://n2:1"], auth=None))
    for number, each in enumerate(core.endpoints.all):
        core.endpoints.measured(each, 0.01 * (number + 1), core.now())
    held = Subscription(core, "kv*", "", "c1")
    behind = AnswerOf(
        429, {"retry-after": "1"}, {"errors": ["this node does not hold the demanded index yet"]}
    )
    asked: list[str] = []
    program, said = held.connect(), None
    with pytest.raises(StopIteration) as over:
        while True:
            effect = program.send(said)
            said = True
            if isinstance(effect, OpenStream):
                asked.append(effect.url.partition("/v1/")[0])
                said = Stream() if asked[-1] == "https://n2:1" else behind
            assert len(asked) < 5, asked
    assert (over.value.value, asked) == (True, ["https://n1:1", "https://n2:1"])
