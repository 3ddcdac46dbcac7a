"""Bad frames at the Raft ports of a cluster that works: nothing may change, nothing may end, memory stays bounded.

Two of three members run; the third's place is the attacker's. Most frames come from a certified member: streams of
whole frames of a term that is over (every field drawn at random), and frames that are none (mutated, cut, glued,
random), each of which costs its connection. The rest comes without a certificate of this cluster, or without TLS.

Left out are frames by which a member may ask for something (proposals, membership changes, restores).
"""

import asyncio
import contextlib
import gc
import os
import random
import resource
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack

from chaos.simulator.machines import LightMachine, NoCipher
from consensus import wire
from consensus.api import Member, Role
from consensus.errors import ConsensusError
from consensus.group import GroupConfig, Parts, RaftGroup, RaftOptions
from consensus.identity import peer_name
from consensus.opening import create
from node import pki

CLUSTER = "fuzz"
IDS = ("n1", "n2", "n3")
ATTACKER = "n3"
STREAM_FRAMES = 500  # on one connection
STREAM_SHARE_PERCENT = 85
ATTACKERS = 12
# Until garbage is looked for, as Python has it: commands start quicker without, but this one judges memory.
GARBAGE_THRESHOLDS = 700, 10, 10
MEMORY_GROWTH_BYTES_MAX = 96 << 20
ANSWER_S = 20.0
PATIENT = RaftOptions(
    heartbeat_s=0.5, election_min_s=5.0, election_max_s=10.0
)  # frames cost this process time

_ASKING = (wire.Propose, wire.Change, wire.RestoreAsk, wire.FileOffer)
_LENGTH = struct.Struct(">I")


@dataclass
class Attacked:
    """What was sent, and what came of it. `wrong` is empty if nothing changed."""

    frames: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    memory_growth_bytes: int = 0
    wrong: list[str] = field(default_factory=list)


def frames_of_the_past(rng: random.Random) -> Iterator[bytes]:
    """Whole frames, of every kind that asks for nothing, in term 0."""

    def number() -> int:
        return rng.choice([0, 1, rng.randrange(1 << 16), rng.randrange(1 << 63)])

    def digest() -> bytes:
        return rng.randbytes(32)

    members = [("n9", "h:9"), ("n1", "h:1")]
    kinds: tuple[Callable[[], wire.Frame], ...] = (
        lambda: wire.Append(0, number(), number(), 0, number(), []),
        lambda: wire.Append(
            0, number(), (at := rng.randrange(1 << 20)), 0, number(), [(rng.randbytes(9), at + 1, 0)]
        ),
        lambda: wire.Ack(0, number(), number()),
        lambda: wire.Reject(0, number(), number()),
        lambda: wire.SnapshotOffer(0, number(), number(), number(), members, number(), digest()),
        lambda: wire.FileWanted(0, digest(), number()),
        lambda: wire.FilePiece(0, digest(), number(), rng.randbytes(rng.randrange(4096))),
        lambda: wire.FileHeld(0, digest()),
        lambda: wire.VoteRequest(0, number(), number(), rng.random() < 0.5),
        lambda: wire.Vote(0),
        lambda: wire.PreVoteRequest(0, number(), number()),
        lambda: wire.PreVote(0, number(), rng.random() < 0.5),
        lambda: wire.TimeoutNow(0),
        lambda: wire.ProposeRefused(0, rng.randbytes(16), rng.randrange(6)),
        lambda: wire.ReadIndex(0, number(), rng.random() < 0.5),
        lambda: wire.ReadIndexReply(0, number(), number()),
        lambda: wire.ChangeReply(0, number(), rng.randrange(6), "text"),
        lambda: wire.LeaseAsk(0, number(), rng.random() < 0.5, number()),
        lambda: wire.LeaseAnswer(0, number(), number(), number()),
        lambda: wire.LeaseRecall(0, number()),
        lambda: wire.LeaseReturned(0, number()),
    )
    while True:
        yield wire.encode(rng.choice(kinds)())


def bad_frames(rng: random.Random) -> Iterator[bytes]:
    """Bodies that are no frames."""
    good = frames_of_the_past(rng)
    while True:
        body = bytearray(next(good))
        dice = rng.random()
        if dice < 0.5:
            for _ in range(rng.randint(1, 4)):
                body[rng.randrange(len(body))] = rng.randrange(256)
        elif dice < 0.65:
            del body[rng.randrange(len(body)) :]
        elif dice < 0.8:
            body += rng.randbytes(rng.randint(1, 64))
        else:
            body = bytearray(rng.randbytes(rng.randint(0, 4096)))
        try:
            frame = wire.decode(bytes(body))
        except wire.WireError:
            yield bytes(body)
        else:
            if frame.term == 0 and not isinstance(frame, _ASKING):
                continue  # by chance it still is one; frames_of_the_past() has those


class Scene:
    """The two members and their ports."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ca = pki.new_ca(CLUSTER)
        self.groups: dict[str, RaftGroup] = {}
        self.machines: dict[str, LightMachine] = {}
        self.ports: dict[str, int] = {}
        self.ended: list[str] = []

    def contexts(
        self, node_id: str, ca: pki.Credentials | None = None
    ) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """(server, client) of a node certified by `ca`, this cluster's own if none is given."""
        own = pki.credentials(ca or self._ca, pki.peer_names(node_id, CLUSTER))
        return pki.peer_contexts(self._ca.certificate, own)

    async def start(self, options: RaftOptions) -> None:
        """Boot both members with one set of timeouts; their ports stay."""
        members = tuple(Member(n, f"127.0.0.1:{self.ports.get(n) or _free_port()}") for n in IDS)
        self.ports = {member.id: int(member.address.rpartition(":")[2]) for member in members}
        for node_id in IDS:
            if node_id == ATTACKER:
                continue
            home = self._directory / node_id
            server, client = self.contexts(node_id)
            config = GroupConfig(
                node_id=node_id, cluster_id=CLUSTER, owner=node_id, directory=home, cipher=NoCipher(),
                listen=("127.0.0.1", self.ports[node_id]), server_tls=server, client_tls=client, options=options,
            )  # fmt: skip
            if not home.exists():
                home.mkdir()
                create(config, members)
            machine = self.machines[node_id] = LightMachine(home / "state")
            group = RaftGroup.open(config, machine, parts=Parts(fatal=self._end))
            await group.start()
            self.groups[node_id] = group

    def _end(self, reason: str) -> Any:
        self.ended.append(reason)
        raise AssertionError(reason)

    async def write(self, text: str) -> None:
        """Through both members; both have applied it when this returns."""
        for group in self.groups.values():
            applied = await group.propose(text.encode(), request_id=os.urandom(16), timeout=ANSWER_S)
            for other in self.groups.values():
                await other.wait_applied(applied.index, ANSWER_S)

    def state(self) -> dict[str, object]:
        """What must not change: log, term, leader, members, and what was applied."""
        told: dict[str, object] = {}
        for node_id, group in self.groups.items():
            status = group.status()
            told[node_id] = (
                status.term, status.leader_id, status.last_index, status.members, self.machines[node_id].digest()
            )  # fmt: skip
        return told

    async def stop(self) -> None:
        for group in self.groups.values():
            await group.stop()
        self.groups.clear()


async def attack(directory: Path, *, frames: int, seed: int) -> Attacked:
    """Send so many frames in all. Raises nothing for what they do: that is in the answer."""
    rng, scene, result = random.Random(seed), Scene(directory), Attacked()
    await scene.start(PATIENT)
    try:
        while not any(group.role is Role.LEADER for group in scene.groups.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await scene.write("k=1")
        await scene.write("k=1")  # both know the leader and its commit index now
        gc.set_threshold(*GARBAGE_THRESHOLDS)
        before, memory = scene.state(), _memory_bytes()
        stream = frames * STREAM_SHARE_PERCENT // 100
        await _stream(scene, rng, result, stream)
        parts = [(frames - stream) // ATTACKERS] * ATTACKERS
        parts[0] += frames - stream - sum(parts)
        await asyncio.gather(*(_one_by_one(scene, rng, result, part) for part in parts))
        result.memory_growth_bytes = _memory_bytes() - memory
        if scene.ended:
            result.wrong += scene.ended
        elif (after := scene.state()) != before:
            result.wrong.append(f"the state was {before} and is {after}")
        else:
            await scene.write("k=2")
        if result.memory_growth_bytes > MEMORY_GROWTH_BYTES_MAX:
            result.wrong.append(f"memory grew by {result.memory_growth_bytes} bytes")
    except (ConsensusError, TimeoutError) as error:
        result.wrong.append(f"afterwards: {type(error).__name__}: {error}")
    finally:
        for group in scene.groups.values():
            result.refused.update(group._engine.net.refused)  # type: ignore[attr-defined]
        await scene.stop()
    return result


async def _stream(scene: Scene, rng: random.Random, result: Attacked, count: int) -> None:
    """As the certified third member: whole frames of the past, many on one connection."""
    good, context = frames_of_the_past(rng), scene.contexts(ATTACKER)[1]
    while count > 0:
        target = rng.choice([n for n in IDS if n != ATTACKER])
        async with _connection(scene, target, context) as (reader, writer):
            _hello(writer, ATTACKER)
            for _ in range(min(count, STREAM_FRAMES)):
                _frame(writer, next(good))
                count -= 1
                result.frames["of the past, certified"] += 1
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await reader.read(1 << 20)


async def _one_by_one(scene: Scene, rng: random.Random, result: Attacked, count: int) -> None:
    """What ends its connection: bad frames of a member, and anything of those who are none."""
    bad = bad_frames(rng)
    member, stranger = scene.contexts(ATTACKER)[1], scene.contexts("n9")[1]
    foreign = scene.contexts(ATTACKER, pki.new_ca("elsewhere"))[1]
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.check_hostname, anonymous.verify_mode = False, ssl.CERT_NONE
    who: tuple[tuple[str, ssl.SSLContext | None, str], ...] = (
        ("bad, certified", member, ATTACKER),
        ("bad, of a node that is no member", stranger, "n9"),
        ("bad, under another's name", stranger, ATTACKER),
        ("bad, of another authority", foreign, ATTACKER),
        ("bad, without a certificate", anonymous, ATTACKER),
        ("bad, without TLS", None, ATTACKER),
    )
    for _ in range(count):
        name, context, claimed = rng.choices(who, weights=(50, 4, 4, 4, 4, 34))[0]
        target = rng.choice([n for n in IDS if n != ATTACKER])
        result.frames[name] += 1
        async with _connection(scene, target, context) as (reader, writer):
            if rng.random() < 0.9:
                _hello(writer, claimed)
            body = next(bad)
            if rng.random() < 0.05:
                writer.write(_LENGTH.pack(rng.randrange(1 << 32)) + body)  # a length that lies
            else:
                _frame(writer, body)
            if writer.can_write_eof():
                writer.write_eof()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await reader.read(-1)


@contextlib.asynccontextmanager
async def _connection(
    scene: Scene, target: str, context: ssl.SSLContext | None
) -> AsyncIterator[tuple[asyncio.StreamReader, Any]]:
    name = peer_name(target, CLUSTER) if context is not None else None
    reader, writer = asyncio.StreamReader(), _Nowhere()  # type: tuple[asyncio.StreamReader, Any]
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", scene.ports[target], ssl=context, server_hostname=name
        )
    except OSError:
        reader.feed_eof()
    try:
        with contextlib.suppress(OSError):
            yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            await writer.wait_closed()


class _Nowhere:
    """Stands for a connection that was refused at the handshake."""

    def write(self, _: bytes) -> None: ...
    def can_write_eof(self) -> bool:
        return False

    async def drain(self) -> None: ...
    def close(self) -> None: ...
    async def wait_closed(self) -> None: ...


def _hello(writer: asyncio.StreamWriter, node_id: str) -> None:
    _frame(writer, msgpack.packb({"v": 1, "cluster": CLUSTER, "id": node_id}))


def _frame(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(_LENGTH.pack(len(body)) + body)


def _memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
