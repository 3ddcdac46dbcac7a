"""A world of whole RaftGroups on virtual time: seeded delays, lost links, partitions, slow disks, crashes.

The event loop's clock jumps to the next timer, so minutes pass in a second and a seed repeats its run. A crash loses
what was not fsynced: the journal's memory, and whatever the state machine had not checkpointed. Checked as it goes:
every node applies the same command at an index; a proposal is answered only when a majority holds it on disk; one
vote and one leader a term; read_index() never goes back behind an answer.
"""

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pysyncobj.syncobj
from support.machines import NoCipher
from support.replicas import MemoryJournal
from support.simnet import SimMachine, SimNet, Violation, VirtualLoop

from consensus import wire
from consensus.api import Applied, Member
from consensus.errors import ConsensusError
from consensus.group import GroupConfig, Parts, RaftGroup, RaftOptions
from consensus.journal import Recovered
from consensus.opening import Disk, finish_install
from consensus.records import Base, Entry
from consensus.snapshot import SnapshotFiles
from consensus.transport import PeerHandler

OPTIONS = RaftOptions(
    heartbeat_s=0.1,
    election_min_s=0.5,
    election_max_s=1.0,
    compact_entries=40,
    trailing_entries=10,
    apply_per_tick_max=16,
    propose_retry_s=0.7,
)


@dataclass
class Node:
    """One process: alive until it is crashed."""

    group: RaftGroup
    machine: SimMachine
    journal: MemoryJournal
    net: SimNet
    alive: bool = True
    work: set[asyncio.Task[Any]] = field(default_factory=set)


class World:
    """`run(seconds)` plays one seeded history; then everything heals, and the nodes must agree."""

    def __init__(self, loop: VirtualLoop, seed: int, nodes: int, directory: Path) -> None:
        self.loop, self.rng, self.directory = loop, random.Random(seed), directory
        self.ids = [f"n{i}" for i in range(1, nodes + 1)]
        self.members = tuple(Member(n, f"{n}:1") for n in self.ids)
        self.disks: dict[str, list[tuple[str, Any]]] = {
            n: [("reset", Base(0, 0, self.members))] for n in self.ids
        }
        self.nodes: dict[str, Node] = {}
        self.links: dict[frozenset[str], int] = {}
        self.cut: set[frozenset[str]] = set()
        self.epoch = 0
        self.fifo: dict[tuple[str, str, int], float] = {}
        self.delay = self.rng.choice([0.0005, 0.003, 0.02])
        self.fsync = self.rng.choice([0.0005, 0.004, 0.03])
        self.history: dict[int, str] = {}
        self.votes: dict[tuple[str, int], str] = {}
        self.leaders: dict[int, str] = {}
        self.acknowledged: dict[str, int] = {}
        self.newest = 0
        self.seen: Counter[str] = Counter()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.failure: BaseException | None = None
        self.healed = self.reshaping = False

    # ---- processes ----

    def boot(self, node_id: str) -> None:
        home = self.directory / node_id
        home.mkdir(exist_ok=True)
        journal = MemoryJournal(self.disks[node_id])
        base, entries, hard = journal.read()
        machine = SimMachine(home / "state", lambda index, text: self._applied(node_id, index, text))
        config = GroupConfig(
            node_id=node_id, cluster_id="sim", owner=node_id, directory=home, listen=("sim", 1),
            server_tls=None, client_tls=None, cipher=NoCipher(), insecure=True, options=OPTIONS,
        )  # fmt: skip
        snapshots = SnapshotFiles(home / "snapshots", machine)
        found = Recovered(base, entries, hard, 0)
        pending = snapshots.pending_install()
        if pending is not None:
            found = finish_install(journal, found, snapshots, machine)  # type: ignore[arg-type]
        nets: list[SimNet] = []

        def transport(handler: PeerHandler) -> SimNet:
            nets.append(SimNet(self, node_id, handler))
            return nets[0]

        async def run(function: Callable[..., Any], *args: Any) -> Any:
            await asyncio.sleep(self.rng.expovariate(1 / self.fsync))
            if not node.alive:
                await asyncio.Event().wait()
            return function(*args)

        parts = Parts(
            transport=transport, clock=self.loop.time, boottime=self.loop.time,
            rng=random.Random(self.rng.random()), run=run, fatal=lambda why: self._fatal(node_id, why),
        )  # fmt: skip
        group = RaftGroup(config, machine, Disk(journal, found, snapshots), parts)  # type: ignore[arg-type]
        node = self.nodes[node_id] = Node(group, machine, journal, nets[0])
        self.later(0, self._start(node))
        for other in self.ids:
            if other != node_id:
                self.loop.call_later(self.rng.uniform(0.001, 0.1), self.connect, node_id, other)

    async def _start(self, node: Node) -> None:
        await node.group.start()

    def crash(self, node_id: str) -> None:
        """kill -9 and power cut: what was not durable is gone. The batch in flight may or may not have made it."""
        node = self.nodes.pop(node_id, None)
        if node is None:
            return
        self.seen["crashes"] += 1
        node.alive = node.net.open = False
        engine = node.group._engine
        engine.running = False
        for task in engine._tasks:
            task.cancel()
        for handle in (engine._tick_due, engine._commit_due):
            if handle is not None:
                handle.cancel()
        while node.journal.taken and self.rng.random() < 0.3:
            node.journal.disk.extend(node.journal.taken.pop(0))
        node.journal.disk = []  # whatever this ghost still writes goes nowhere
        for task in node.work:
            task.cancel()
        for other in self.ids:
            self.disconnect(node_id, other)
        self.loop.call_later(self.rng.uniform(0.02, 1.0), self._reboot, node_id)

    def _reboot(self, node_id: str) -> None:
        if node_id not in self.nodes:
            self.boot(node_id)

    def _fatal(self, node_id: str, why: str) -> NoReturn:
        raise self.fail(Violation(f"{node_id} stopped itself: {why}"))

    def fail(self, error: Violation) -> Violation:
        self.failure = self.failure or error
        return error

    def later(self, delay: float, work: Any) -> None:
        async def go() -> None:
            await asyncio.sleep(delay)
            await work

        task = self.loop.create_task(go())
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.failure = self.failure or task.exception()

    # ---- links ----

    def connect(self, one: str, two: str) -> None:
        pair = frozenset((one, two))
        if pair in self.links or one not in self.nodes or two not in self.nodes:
            return
        if pair in self.cut:
            self.loop.call_later(0.1, self.connect, one, two)
            return
        self.epoch += 1
        self.links[pair] = self.epoch
        for me, peer in ((one, two), (two, one)):
            self.loop.call_later(self.rng.uniform(0, 0.01), self._up, me, peer, self.epoch)

    def _up(self, me: str, peer: str, epoch: int) -> None:
        node = self.nodes.get(me)
        if node is None or self.links.get(frozenset((me, peer))) != epoch or not node.net.open:
            return
        node.net.links[peer] = epoch
        node.net.handler.on_peer_up(peer)

    def disconnect(self, one: str, two: str) -> None:
        pair = frozenset((one, two))
        epoch = self.links.pop(pair, None)
        if epoch is None:
            return
        self.seen["breaks"] += 1
        for me, peer in ((one, two), (two, one)):
            self.loop.call_later(
                self.rng.choice([0, 0.01, 0.3, 1.0]) * self.rng.random(), self._down, me, peer, epoch
            )
        self.loop.call_later(self.rng.uniform(0.01, 0.3), self.connect, one, two)

    def _down(self, me: str, peer: str, epoch: int) -> None:
        node = self.nodes.get(me)
        if node is not None and node.net.links.get(peer) == epoch:
            del node.net.links[peer]
            node.net.handler.on_peer_down(peer)

    def carry(self, sender: str, receiver: str, epoch: int, body: bytes) -> None:
        self._watch(sender, receiver, wire.decode(body))
        usual = self.healed or self.rng.random() < 0.97
        delay = self.rng.expovariate(1 / self.delay) if usual else self.rng.uniform(0, 0.8)
        key = (sender, receiver, epoch)
        at = self.fifo[key] = max(self.fifo.get(key, 0.0) + 1e-9, self.loop.now + delay)
        self.loop.call_at(at, self._deliver, sender, receiver, epoch, body)

    def _deliver(self, sender: str, receiver: str, epoch: int, body: bytes) -> None:
        node = self.nodes.get(receiver)
        pair = frozenset((sender, receiver))
        if node is not None and self.links.get(pair) == epoch and node.net.links.get(sender) == epoch:
            self.seen["frames"] += 1
            node.net.handler.on_message(sender, body)

    # ---- what must hold ----

    def _watch(self, sender: str, receiver: str, frame: wire.Frame) -> None:
        if isinstance(frame, wire.Vote | wire.VoteRequest):
            choice = receiver if isinstance(frame, wire.Vote) else sender
            if self.votes.setdefault((sender, frame.term), choice) != choice:
                raise self.fail(Violation(f"{sender} voted twice in term {frame.term}"))
        if isinstance(frame, wire.Append) and self.leaders.setdefault(frame.term, sender) != sender:
            raise self.fail(Violation(f"two leaders in term {frame.term}"))

    def _applied(self, node_id: str, index: int, text: str) -> None:
        if self.history.setdefault(index, text) != text:
            raise self.fail(
                Violation(f"{node_id} applies {text} at {index}, where another applied {self.history[index]}")
            )

    def holders(self, index: int, text: str) -> int:
        """How many disks hold the entry (or a snapshot of it) at this moment."""
        count = 0
        for node_id, disk in self.disks.items():
            base, entries, _ = MemoryJournal(disk).read()
            position = index - base.index - 1
            if position < 0:
                count += 1
            elif position < len(entries):
                count += self._is(entries[position], text)
            del node_id
        return count

    @staticmethod
    def _is(entry: Entry, text: str) -> bool:
        return entry[0][17:] == text.encode()

    # ---- clients ----

    async def client(self, number: int, until: float) -> None:
        """Write, read, and write the same thing again after a doubt: the answer must be one."""
        count = 0
        while self.loop.now < until:
            await asyncio.sleep(self.rng.expovariate(6))
            count += 1
            text, request = f"c{number}-{count}=x", self.rng.randbytes(16)
            await self._write(text, request, until + 10)
            if self.rng.random() < 0.5:
                await self._read()

    async def _write(self, text: str, request: bytes, until: float) -> None:
        def act(node: Node) -> Any:
            return node.group.propose(text.encode(), request_id=request, timeout=2)

        while self.loop.now < until:
            applied = await self._at_some_node(act)
            if isinstance(applied, Applied):
                self._answered(text, applied)
                return

    def _answered(self, text: str, applied: Applied) -> None:
        self.seen["writes"] += 1
        if self.holders(applied.index, text) * 2 <= len(self.ids):
            raise self.fail(
                Violation(f"{text} at {applied.index} was acknowledged without a durable majority")
            )
        self.acknowledged[text] = applied.index
        self.newest = max(self.newest, applied.index)

    async def _read(self) -> None:
        before = self.newest
        index = await self._at_some_node(lambda node: node.group.read_index(1.5))
        if index is not None:
            self.seen["reads"] += 1
            if index < before:
                raise self.fail(Violation(f"a read at {index} after {before} was acknowledged"))

    async def _at_some_node(self, act: Callable[[Node], Any]) -> Any:
        """As a client of one node: if that node dies, so does the request."""
        if not self.nodes:
            await asyncio.sleep(0.05)
            return None
        node = self.nodes[self.rng.choice(sorted(self.nodes))]
        task: asyncio.Task[Any] = asyncio.ensure_future(act(node))
        node.work.add(task)
        try:
            return await task
        except ConsensusError as error:
            self.seen[type(error).__name__] += 1
            return None
        except asyncio.CancelledError:
            if node.alive:
                raise
            return None
        finally:
            node.work.discard(task)

    # ---- faults ----

    async def chaos(self, until: float) -> None:
        gap = self.rng.choice([0.3, 0.8, 2.0])
        while self.loop.now < until:
            await asyncio.sleep(self.rng.expovariate(1 / gap))
            leaders = sorted(n for n, node in self.nodes.items() if node.group.role == "leader")
            victim = (
                self.rng.choice(leaders) if leaders and self.rng.random() < 0.6 else self.rng.choice(self.ids)
            )
            dice = self.rng.random()
            if dice < 0.35:
                self.crash(victim)
            elif dice < 0.42:
                for node_id in self.rng.sample(self.ids, self.rng.randint(2, len(self.ids))):
                    self.crash(node_id)
            elif dice < 0.6:
                self.disconnect(*self.rng.sample(self.ids, 2))
            elif dice < 0.8:
                self._partition(victim)
            elif dice < 0.88 and not self.reshaping:
                self.later(0, self._reshape(self.rng.choice(self.ids)))
            elif victim in self.nodes:
                self.seen["handovers"] += 1
                self.later(0, self.nodes[victim].group.step_down(2.0))

    async def _reshape(self, victim: str) -> None:
        """Remove a member, and add it again later: one server at a time."""
        self.reshaping = True
        member = next(m for m in self.members if m.id == victim)
        await self._at_some_node(lambda node: node.group.remove_member(victim, 3.0))
        await asyncio.sleep(self.rng.uniform(0, 2))
        added = object()

        async def add(node: Node) -> object:
            await node.group.add_member(member, 3.0)
            return added

        while await self._at_some_node(add) is not added:
            await asyncio.sleep(0.2)
        self.seen["reshaped"] += 1
        self.reshaping = False

    def _partition(self, victim: str) -> None:
        self.seen["partitions"] += 1
        others = [n for n in self.ids if n != victim]
        cut = {
            frozenset((victim, other)) for other in self.rng.sample(others, self.rng.randint(1, len(others)))
        }
        self.cut |= cut
        for pair in cut:
            self.disconnect(*sorted(pair))
        self.loop.call_later(self.rng.uniform(0.2, 4.0), self.cut.difference_update, cut)

    async def run(self, seconds: float) -> Counter[str]:
        for node_id in self.ids:
            self.boot(node_id)
        end = self.loop.now + 2 + seconds
        clients = [self.loop.create_task(self.client(i, end)) for i in range(5)]
        nemesis = self.loop.create_task(self.chaos(end))
        while self.loop.now < end:
            await asyncio.sleep(0.2)
            self._check_failure([*clients, nemesis])
        self.healed = True
        self.cut.clear()
        await nemesis
        await asyncio.gather(*clients)
        for _ in range(100):
            await asyncio.sleep(0.5 if self.reshaping else 0)
        await asyncio.sleep(8)
        self._check_failure(clients)
        self._check_end()
        for node_id in list(self.nodes):
            await self.nodes[node_id].group.stop()
        return self.seen

    def _check_failure(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                self.failure = self.failure or task.exception()
        if self.failure is not None:
            raise self.failure

    def _check_end(self) -> None:
        machines = [self.nodes[node_id].machine for node_id in self.ids]
        if len({machine.applied_index for machine in machines}) != 1:
            state = {n: self.nodes[n].group.status() for n in self.ids}
            raise Violation(f"no convergence: {state}")
        if len({tuple(machine.history) for machine in machines}) != 1:
            raise Violation("histories differ")
        texts = [text for _, text in machines[0].history]
        if len(texts) != len(set(texts)):
            raise Violation("a command was applied twice")
        where = {text: index for index, text in machines[0].history}
        for text, index in self.acknowledged.items():
            if where.get(text) != index:
                raise Violation(f"{text} was acknowledged at {index} and is at {where.get(text)}")


def play(seed: int, *, nodes: int, seconds: float, monkeypatch: Any) -> Counter[str]:
    """One history. Returns what happened in it. Raises Violation."""
    loop = VirtualLoop()
    monkeypatch.setattr(pysyncobj.syncobj, "monotonicTime", loop.time)
    with tempfile.TemporaryDirectory() as directory:
        world = World(loop, seed, nodes, Path(directory))
        try:
            return loop.run_until_complete(world.run(seconds))
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
