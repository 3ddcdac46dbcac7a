"""The peers' port: who is let in, what is dropped, and that a good peer is heard in order and comes back."""

import asyncio
import contextlib
import os
import resource
import socket
import ssl
import struct
from typing import Any

import msgpack
import pytest
from support.certs import Authority
from support.patience import eventually
from support.peers import CLUSTER, HELLO, Guest, Handler, address, frame, make, on_both_loops, running

from consensus import transport as transport_module
from consensus.link import FRAME_BYTES_MAX, HELLO_BYTES_MAX
from consensus.transport import PeerTransport, peer_contexts, peer_name


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("ca"))
    for node_id in ("n1", "n2", "n3"):
        authority.node(node_id, CLUSTER)
    return authority


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("other"))
    authority.node("n2", CLUSTER)
    return authority


def test_the_name_in_the_certificate_is_one_thing() -> None:
    assert peer_name("n1", "c1") == "n1.c1.peer.strongroom"
    for bad in ("", "N1", "a.b", "-a", "*", "a" * 64, "a\n"):
        with pytest.raises(ValueError):
            peer_name(bad, "c1")
        with pytest.raises(ValueError):
            peer_name("n1", bad)


def test_contexts_that_verify_nobody_are_refused(ours: Authority) -> None:
    def build(server: ssl.SSLContext | None, client: ssl.SSLContext | None, **options: Any) -> None:
        PeerTransport(
            me="n1",
            cluster_id=CLUSTER,
            listen=("127.0.0.1", 0),
            server_tls=server,
            client_tls=client,
            handler=Handler(),
            **options,
        )

    def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
        return peer_contexts(ca=ours.ca, certificate=ours.directory / "n1.pem")

    build(*contexts())
    build(None, None, insecure=True)
    server, client = contexts()
    for pair in ((None, None), (server, None), (None, client)):
        with pytest.raises(ValueError, match="both ways"):
            build(*pair)
    with pytest.raises(ValueError, match="both ways"):
        build(server, client, insecure=True)
    server.verify_mode = ssl.CERT_OPTIONAL
    with pytest.raises(ValueError, match="CERT_REQUIRED"):
        build(server, client)
    server, client = contexts()
    client.check_hostname = False
    with pytest.raises(ValueError, match="check_hostname"):
        build(server, client)
    server, client = contexts()
    server.minimum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ValueError, match=r"TLS 1\.3"):
        build(server, client)


@on_both_loops
async def test_peers_find_each_other_and_hear_every_frame_in_order(ours: Authority) -> None:
    handlers = {node_id: Handler() for node_id in ("n1", "n2", "n3")}
    nodes = {node_id: make(node_id, ours, handler) for node_id, handler in handlers.items()}
    async with running(*nodes.values()):
        for me, node in nodes.items():
            node.set_peers({other: address(nodes[other]) for other in nodes if other != me})
        await eventually(lambda: all(len(node.connected()) == 2 for node in nodes.values()))
        sizes = [0, 1, 5000, 70_000, 1 << 20, FRAME_BYTES_MAX, 3]
        bodies = [bytes([number]) * size for number, size in enumerate(sizes)]
        for body in bodies:
            assert nodes["n1"].send("n2", body)
            assert nodes["n2"].send("n1", body)
            assert nodes["n3"].send("n1", body[:10])
        await eventually(lambda: len(handlers["n2"].messages) == 7 and len(handlers["n1"].messages) == 14)
        assert handlers["n2"].messages == [("n1", body) for body in bodies]
        assert [b for who, b in handlers["n1"].messages if who == "n2"] == bodies
        await eventually(lambda: nodes["n1"].backlog("n2") == 0)
        assert not nodes["n1"].send("n9", b"")
    assert sorted(handlers["n1"].downs) == ["n2", "n3"]
    assert nodes["n1"].connected() == set()


# ---- who is let in


@pytest.mark.parametrize(
    ("who", "hello", "reason"),
    [
        ("plain", HELLO, None),
        ("none", HELLO, None),
        ("theirs", HELLO, None),
        ("n3", HELLO, "the certificate is another node's"),
        ("n2", {**HELLO, "cluster": "c2"}, "hello of another cluster"),
        ("n2", {**HELLO, "v": 2}, "hello of another protocol version"),
        ("n2", {**HELLO, "id": 7}, "hello has other fields"),
        ("n2", {"v": 1, "cluster": "c1"}, "hello has other fields"),
        ("n2", [1, 2], "hello has other fields"),
        ("n2", b"\x80\x02cos\nsystem\n.", "hello is not msgpack"),
        ("n2", b"", "hello is not msgpack"),
        ("n2", b"\x91" * 3000, "hello is not msgpack"),
        ("n2", bytes(HELLO_BYTES_MAX + 1), "frame too large"),
        ("n4", {**HELLO, "id": "n4"}, "not admitted"),
        ("n1", {**HELLO, "id": "n1"}, "a lower id dials"),
        ("n0", {**HELLO, "id": "n0"}, "a lower id dials"),
        ("otherc", HELLO, "the certificate is another node's"),
        ("wild", HELLO, "the certificate is another node's"),
        ("double", HELLO, "the certificate is another node's"),
        ("unnamed", HELLO, "the certificate is another node's"),
    ],
)
@on_both_loops
async def test_the_port_turns_away(
    ours: Authority, theirs: Authority, who: str, hello: Any, reason: str | None
) -> None:
    """Each of these hears nothing from us (not even a hello), and nothing that it sends is delivered."""
    handler = Handler()
    handler.admitted |= {"n0"}
    node = make("n1", ours, handler)
    certificate = {
        "plain": lambda: None,
        "none": lambda: None,
        "theirs": lambda: theirs.directory / "n2.pem",
        "otherc": lambda: ours.issue("otherc", [peer_name("n2", "c2")]),
        "wild": lambda: ours.issue("wild", [f"*.{CLUSTER}.peer.strongroom"]),
        "double": lambda: ours.issue("double", [peer_name("n2", CLUSTER), peer_name("n3", CLUSTER)]),
        "unnamed": lambda: ours.issue("unnamed", ["n2", "n2.example.com"]),
    }.get(who, lambda: ours.node(who, CLUSTER))()
    body = hello if isinstance(hello, bytes) else msgpack.packb(hello)
    async with running(node):
        with contextlib.suppress(OSError):
            guest = await Guest.connect(node, ours.ca, certificate, plain=who == "plain")
            await guest.say(frame(body), frame(b"evil"))
            heard = await guest.hears()
            assert who == "plain" or heard == b""
        await eventually(lambda: bool(node.refused))
        assert reason is None or list(node.refused) == [reason]
        assert handler.messages == handler.ups == []
        assert node.connected() == set()


@pytest.mark.parametrize("more", [{}, {"level": 2, "software": "of the next release"}])
@on_both_loops
async def test_a_good_guest_is_heard(ours: Authority, more: dict[str, Any]) -> None:
    """The other side of the test above: with all in order, the same steps get through. What a newer release
    says besides is no reason to refuse it: nodes are upgraded one after another.
    """
    handler = Handler()
    node = make("n1", ours, handler)
    async with running(node):
        guest = await Guest.connect(node, ours.ca, ours.directory / "n2.pem")
        await guest.say(frame(msgpack.packb(HELLO | more)), frame(b"good"))
        await eventually(lambda: handler.messages == [("n2", b"good")])
        assert node.refused == {}
        await guest.leave()
        await eventually(lambda: handler.downs == ["n2"])


@pytest.mark.parametrize(
    ("sent", "reason"),
    [(struct.pack(">I", FRAME_BYTES_MAX + 1), "frame too large"), (frame(b"nonsense"), "unknown message")],
)
@on_both_loops
async def test_a_bad_frame_after_hello_ends_the_connection(ours: Authority, sent: bytes, reason: str) -> None:
    handler = Handler()
    node = make("n1", ours, handler)
    async with running(node):
        guest = await Guest.connect(node, ours.ca, ours.directory / "n2.pem")
        await guest.say(frame(msgpack.packb(HELLO)), frame(b"good"), sent, frame(b"late"))
        await guest.hears()
        await eventually(lambda: handler.downs == ["n2"])
        assert node.refused == {reason: 1}
        assert handler.messages == [("n2", b"good")]


@pytest.mark.parametrize("how", ["silent socket", "silent after TLS", "half a hello"])
@on_both_loops
async def test_a_slow_hello_is_given_up(ours: Authority, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "HELLO_DEADLINE_S", 0.2)
    node = make("n1", ours, Handler())
    async with running(node):
        guest = await Guest.connect(node, ours.ca, ours.directory / "n2.pem", plain=how == "silent socket")
        if how == "half a hello":
            await guest.say(frame(msgpack.packb(HELLO))[:-1])
        await guest.hears()
        await eventually(lambda: bool(node.refused))
        assert node.connected() == set()


@on_both_loops
async def test_half_open_connections_are_bounded_and_members_get_in_again(
    ours: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "HALF_OPEN_MAX", 3)
    handler = Handler()
    node = make("n1", ours, handler)
    async with running(node):
        silent = [await Guest.connect(node, ours.ca, None, plain=True) for _ in range(4)]
        await eventually(lambda: node.refused["too many half-open connections"] == 1)
        for guest in silent:
            await guest.leave()
        await eventually(lambda: node.refused.total() == 4)
        guest = await Guest.connect(node, ours.ca, ours.directory / "n2.pem")
        await guest.say(frame(msgpack.packb(HELLO)))
        await eventually(lambda: handler.ups == ["n2"])
        await guest.leave()


@on_both_loops
async def test_a_lack_of_descriptors_passes(ours: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """accept() fails for real, and the port is open again when descriptors are."""
    monkeypatch.setattr(transport_module, "BACKOFF_MAX_S", 0.05)
    handler = Handler()
    node = make("n1", ours, handler)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with running(node):
        with socket.socket() as waiting:
            waiting.setblocking(False)
            lowest_free = os.dup(0)
            os.close(lowest_free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            try:
                waiting.connect_ex(("127.0.0.1", node.port))
                await eventually(lambda: node.refused["accept failed: Too many open files"] > 1)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        guest = await Guest.connect(node, ours.ca, ours.directory / "n2.pem")
        await guest.say(frame(msgpack.packb(HELLO)))
        await eventually(lambda: handler.ups == ["n2"])
        await guest.leave()


@on_both_loops
async def test_the_dialler_checks_who_answers(ours: Authority, theirs: Authority) -> None:
    """n3 dials n2's address and finds n1 there, or somebody with another CA's certificate: neither is up."""
    theirs.node("n1", CLUSTER)
    for authority, me in ((ours, "n1"), (theirs, "n2")):
        handler = Handler()
        impostor, node = make(me, authority, Handler()), make("n3", ours, handler)
        async with running(impostor, node):
            node.set_peers({"n2": address(impostor)})
            await eventually(lambda node=node: node.refused.total() >= 2)  # and it keeps trying
            assert handler.ups == []


# ---- connections that come and go


@on_both_loops
async def test_a_dropped_peer_comes_back(ours: Authority) -> None:
    handlers = Handler(), Handler()
    n1, n2 = make("n1", ours, handlers[0]), make("n2", ours, handlers[1])
    async with running(n2):
        await n1.start()
        port = n1.port
        n2.set_peers({"n1": address(n1)})
        await eventually(lambda: n2.connected() == {"n1"})
        await n1.stop()
        await eventually(lambda: n2.connected() == set())
        assert not n2.send("n1", b"lost")
        again = make("n1", ours, handlers[0], port)
        async with running(again):
            await eventually(lambda: n2.connected() == {"n1"} and again.connected() == {"n2"})
            assert n2.send("n1", b"back")
            await eventually(lambda: handlers[0].messages == [("n2", b"back")])
    assert handlers[1].ups == ["n1", "n1"]
    assert handlers[1].downs == ["n1", "n1"]


@on_both_loops
async def test_a_new_connection_supersedes_the_old_one(ours: Authority) -> None:
    handler = Handler()
    node = make("n1", ours, handler)
    async with running(node):
        old = await Guest.connect(node, ours.ca, ours.directory / "n2.pem")
        await old.say(frame(msgpack.packb(HELLO)))
        await eventually(lambda: handler.ups == ["n2"])
        new = await Guest.connect(node, ours.ca, ours.directory / "n2.pem")
        await new.say(frame(msgpack.packb(HELLO)), frame(b"new"))
        await eventually(lambda: handler.messages == [("n2", b"new")])
        await old.say(frame(b"old"))
        await old.hears()  # it was closed
        assert handler.ups == ["n2", "n2"]
        assert handler.downs == ["n2"]
        assert node.connected() == {"n2"}
        await new.say(frame(b"newer"))
        await eventually(lambda: len(handler.messages) == 2)
        assert handler.messages == [("n2", b"new"), ("n2", b"newer")]
        await new.leave()


@on_both_loops
async def test_a_removed_or_moved_peer_is_disconnected(ours: Authority) -> None:
    handlers = {node_id: Handler() for node_id in ("n1", "n2", "n3")}
    n1, n2, n3 = (make(node_id, ours, handler) for node_id, handler in handlers.items())
    async with running(n1, n2, n3):
        n2.set_peers({"n1": address(n1), "n3": address(n3)})
        n3.set_peers({"n2": address(n2), "n1": address(n1)})
        await eventually(lambda: n2.connected() == {"n1", "n3"} and n3.connected() == {"n1", "n2"})
        n2.set_peers({"n1": address(n1), "n3": address(n3)})  # nothing new: nothing happens
        assert handlers["n2"].downs == []
        n2.set_peers({"n3": address(n3)})  # one that we dial
        assert n2.connected() == {"n3"}
        await eventually(lambda: n1.connected() == {"n3"})
        n1.set_peers({"n3": address(n3)})
        n1.set_peers({"n3": "127.0.0.1:1"})  # one that dials us
        assert handlers["n1"].downs == ["n2", "n3"]
        await eventually(lambda: handlers["n1"].ups.count("n3") == 2)  # admitted, it dials again
        with pytest.raises(AssertionError):
            n2.set_peers({"n2": address(n2)})
        for bad in ("host", "host:0", "host:99999", ":1"):
            with pytest.raises(ValueError):
                n2.set_peers({"n1": bad})


@on_both_loops
async def test_nothing_is_heard_after_a_removal_not_even_of_the_same_packet(ours: Authority) -> None:
    handler = Handler()
    node = make("n1", ours, handler)
    async with running(node):
        node.set_peers({"n2": "127.0.0.1:1"})
        handler.on_removal = lambda: node.set_peers({})
        guest = await Guest.connect(node, ours.ca, ours.directory / "n2.pem")
        await guest.say(frame(msgpack.packb(HELLO)) + frame(b"good") + frame(b"remove me") + frame(b"late"))
        await guest.hears()
        await eventually(lambda: handler.downs == ["n2"])
        assert handler.messages == [("n2", b"good"), ("n2", b"remove me")]


@on_both_loops
async def test_the_backlog_counts_a_frame_that_the_peer_does_not_read(ours: Authority) -> None:
    """Under TLS, too, where a single large write would vanish into the socket's own buffer."""
    node = make("n1", ours, Handler())
    async with running(node):
        guest = await Guest.connect(node, ours.ca, ours.directory / "n2.pem", receive_bytes=16 << 10)
        await guest.say(frame(msgpack.packb(HELLO)))
        await eventually(lambda: node.connected() == {"n2"})
        guest.writer.transport.pause_reading()
        assert node.send("n2", bytes(FRAME_BYTES_MAX))
        assert node.backlog("n2") > FRAME_BYTES_MAX // 3
        guest.writer.transport.abort()


@on_both_loops
async def test_a_peer_that_does_not_read_is_given_up(
    ours: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for it here is bounded; the rest of the node goes on."""
    monkeypatch.setattr(transport_module, "PEER_BUFFER_BYTES_MAX", 2 << 20)
    handler = Handler()
    node = make("n1", ours, handler)
    async with running(node):
        guest = await Guest.connect(node, ours.ca, ours.directory / "n2.pem")
        await guest.say(frame(msgpack.packb(HELLO)))
        await eventually(lambda: node.connected() == {"n2"})
        guest.writer.transport.pause_reading()
        sent, backlog = 0, 0
        while node.send("n2", bytes(256 << 10)):
            sent += 1
            backlog = max(backlog, node.backlog("n2"))
            await asyncio.sleep(0)
            assert sent < 1000
        assert 1 << 20 < backlog <= 2 << 20
        assert node.refused == {"backlog": 1}
        assert handler.downs == ["n2"]
        assert node.backlog("n2") == 0
        guest.writer.transport.abort()


@on_both_loops
async def test_frames_over_the_limit_are_a_mistake_of_the_sender(ours: Authority) -> None:
    node = make("n1", ours, Handler())
    with pytest.raises(AssertionError):
        node.send("n2", bytes(FRAME_BYTES_MAX + 1))


@on_both_loops
async def test_stop_leaves_no_socket_and_no_task(ours: Authority) -> None:
    before = asyncio.all_tasks()
    node = make("n3", ours, Handler())
    await node.start()
    port = node.port
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        node.set_peers({"n1": f"127.0.0.1:{nobody.getsockname()[1]}", "n2": "127.0.0.1:1"})
        guest = await Guest.connect(node, ours.ca, None, plain=True)
        await eventually(lambda: len(asyncio.all_tasks()) == len(before) + 3)  # two dial, one greets
        await node.stop()
        await node.stop()
    assert asyncio.all_tasks() == before
    await guest.leave()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


@on_both_loops
async def test_insecure_transports_still_check_cluster_and_admission() -> None:
    """For tests only: no TLS, so a claimed id is believed, but nothing else is."""
    handlers = Handler(), Handler()
    n1, n2 = (
        PeerTransport(
            me=me,
            cluster_id=CLUSTER,
            listen=("127.0.0.1", 0),
            server_tls=None,
            client_tls=None,
            handler=handler,
            insecure=True,
        )
        for me, handler in zip(("n1", "n2"), handlers, strict=True)
    )
    async with running(n1, n2):
        n2.set_peers({"n1": address(n1)})
        await eventually(lambda: n2.connected() == {"n1"})
        assert n1.send("n2", b"hi")
        await eventually(lambda: handlers[1].messages == [("n1", b"hi")])
        reader, writer = await asyncio.open_connection("127.0.0.1", n1.port)
        guest = Guest(reader, writer)
        await guest.say(frame(msgpack.packb({**HELLO, "cluster": "c2", "id": "n3"})))
        assert await guest.hears() == b""
        assert n1.connected() == {"n2"}
        n2.set_peers({"n0": address(n1)})
        await eventually(lambda: n2.refused["another node answers at the peer's address"] > 0)
        assert n2.connected() == set()
