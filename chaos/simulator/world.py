"""Nodes on virtual time, and what must hold at every moment of their lives.

Watched as it goes: what ledger.py says of what nodes do; a write is acknowledged only when a majority has it on disk;
whoever stops itself, or cannot start from its own disk, is an error.
"""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from chaos.simulator.disk import Disk, PowerCut
from chaos.simulator.ledger import Ledger, NodeWitness
from chaos.simulator.loop import Process, Violation, VirtualLoop
from chaos.simulator.machines import LightMachine, NoCipher, Registers, StoreMachine
from chaos.simulator.network import Network, Port
from consensus import opening, wire
from consensus.api import Member
from consensus.errors import ConsensusError, Corrupt
from consensus.group import GroupConfig, Parts, RaftGroup, RaftOptions
from consensus.journal import Journal
from consensus.membership import RESTORE
from consensus.opening import Disk as GroupDisk
from consensus.opening import check_covers
from consensus.records import Base, Entry
from consensus.snapshot import SnapshotFiles
from consensus.transport import PeerHandler

OPTIONS = RaftOptions(
    heartbeat_s=0.1,
    election_min_s=0.8,
    election_max_s=1.6,
    compact_entries=40,
    trailing_entries=10,
    apply_per_tick_max=16,
    propose_retry_s=0.7,
)
SEGMENT_BYTES = 8 << 10
CLOCK_DRIFT = 0.03  # each way: less than what the margins of leases allow for
_OF_FILES = (
    wire.SnapshotOffer | wire.FileWanted | wire.FilePiece | wire.FileOffer | wire.FileHeld | wire.RestoreAsk
)
QUICK_FSYNC_S = 0.0005  # the journal of such a disk is written on the loop, in no time
STALL_SHARE = 0.003
STALL_S = 2.5
_WAIT_FOR_STAGED = ("checkpoint", "take", "stage", "stage_reset")
LOCK_S = 0.02
WALL_START_NS = 1_800_000_000 * 10**9


class SimJournal(Journal):
    """The journal, which also tells what of the log is on its disk."""

    held: dict[int, bytes]
    base_held: int
    _pending: list[tuple[int, Entry | None, int]]

    def remember(self, base: Base, entries: list[Entry]) -> None:
        """What was found on the disk."""
        self.base_held, self.held, self._pending = base.index, {e[1]: e[0] for e in entries}, []

    def append(self, entry: Entry) -> None:
        super().append(entry)
        self._pending.append((self.lsn, entry, 0))

    def compact(self, base: Base) -> None:
        super().compact(base)
        self._pending.append((self.lsn, None, base.index))

    def reset(self, base: Base) -> None:
        super().reset(base)
        self._pending.append((self.lsn, None, base.index))

    def holds(self, index: int, text: bytes) -> bool:
        """Whether the entry (or a snapshot of it) is durable."""
        while self._pending and self._pending[0][0] <= self.durable_lsn:
            _, entry, base = self._pending.pop(0)
            if entry is None:
                self.base_held = max(self.base_held, base)
            else:
                self.held[entry[1]] = entry[0]
        return index <= self.base_held or self.held.get(index, b"").endswith(text)


@dataclass
class Node:
    """One node's present process, and its clocks."""

    process: Process
    group: RaftGroup
    machine: Registers
    journal: SimJournal
    ended: asyncio.Future[None]
    boottime: Callable[[], float]
    fresh_until: float = 0.0  # as it has told whoever reads beside it

    def show(self, until: float) -> None:
        self.fresh_until = until


@dataclass
class Clock:
    """A node's clocks: they run a little fast or slow, and the wall clock jumps."""

    offset_s: float
    rate: float
    wall_jump_ns: int = 0


@dataclass
class World:
    """The nodes, their disks and links, and the ledger of what they did."""

    loop: VirtualLoop
    rng: random.Random
    directory: Path
    ids: list[str]
    store: bool = False
    seen: Counter[str] = field(default_factory=Counter)
    nodes: dict[str, Node] = field(default_factory=dict)
    failure: BaseException | None = None
    options: RaftOptions = OPTIONS
    slow_s: dict[str, float] = field(default_factory=dict)  # what a sync of these nodes takes, on the average

    def __post_init__(self) -> None:
        self.members = tuple(Member(n, f"{n}:1") for n in self.ids)
        self.network = Network(self.loop, self.rng, self.seen, self._watch)
        self.disk = Disk(self.rng, lambda name: self.crash(name, power_lost=True))
        self.fsync_s = self.rng.choice([QUICK_FSYNC_S, 0.004, 0.03])
        self.clocks = {
            n: Clock(self.rng.uniform(0, 1e6), self.rng.uniform(1 - CLOCK_DRIFT, 1 + CLOCK_DRIFT))
            for n in self.ids
        }
        self.ledger = Ledger(self.fail, self.seen)
        self.calm = False
        self.down: set[str] = set()  # nobody restarts these
        self._journals: dict[str, SimJournal] = {}
        self._trace = hashlib.blake2b(digest_size=16)
        self._tasks: set[asyncio.Task[Any]] = set()

    def trace(self, *what: object) -> None:
        """Part of the history that two runs of a seed must agree on."""
        self._trace.update(f"{self.loop.now:.9f} {what}\n".encode())

    @property
    def trace_hash(self) -> str:
        return self._trace.hexdigest()

    # ---- processes

    def config(self, node_id: str) -> GroupConfig:
        home = self.directory / node_id
        home.mkdir(exist_ok=True)
        return GroupConfig(
            node_id=node_id, cluster_id="sim", owner=node_id, directory=home, listen=("sim", 1),
            server_tls=None, client_tls=None, cipher=NoCipher(), insecure=True, options=self.options,
        )  # fmt: skip

    def create(self, node_id: str) -> None:
        """An empty log, of which all nodes are members."""
        config = self.config(node_id)
        journal = Journal.create(
            config.directory / opening.JOURNAL_DIR,
            owner=node_id,
            cipher=config.cipher,
            base=Base(0, 0, self.members),
            segment_bytes=SEGMENT_BYTES,
        )
        journal.close()

    def boot(self, node_id: str) -> None:
        """Start a node from whatever its disk holds."""
        if node_id in self.nodes or node_id in self.down:
            return
        process = Process(node_id)
        try:
            process.context.run(self._boot, process)
        except Corrupt as error:
            raise self.fail(f"{node_id} cannot start: {error}") from error

    def _boot(self, process: Process) -> None:
        node_id = process.name
        config, clock = self.config(node_id), self.clocks[node_id]
        machine = self._machine(node_id)
        try:
            disk, journal = self._open(config, machine)
        except BaseException:  # the power may go while it starts
            machine.crash(power_lost=False)
            raise

        def transport(handler: PeerHandler) -> Port:
            return self.network.attach(process, handler)

        def boottime() -> float:
            return clock.offset_s + self.loop.now * clock.rate

        parts = Parts(
            transport=transport,
            clock=self.loop.time,
            boottime=boottime,
            rng=random.Random(self.rng.random()),
            run=lambda function, *arguments: self._run(node_id, machine, function, *arguments),
            quick_disk=self.fsync_s == QUICK_FSYNC_S and node_id not in self.slow_s,
            free_bytes=lambda _: 1 << 40,
            fatal=lambda why: self._fatal(node_id, why),
        )
        group = RaftGroup(config, machine, disk, parts)
        node = Node(process, group, machine, journal, self.loop.create_future(), boottime)
        self.nodes[node_id] = node
        group.watch(node.show)
        self._journals[node_id] = journal
        self.trace("boot", node_id, disk.recovered.base.index, len(disk.recovered.entries))
        _ = self.spawn(process, group.start())

    @staticmethod
    def _open(config: GroupConfig, machine: Registers) -> tuple[GroupDisk, SimJournal]:
        """As opening.open_disk() does, with a journal that can be asked what it holds."""
        journal, found = SimJournal.open(
            config.directory / opening.JOURNAL_DIR,
            owner=config.owner,
            cipher=config.cipher,
            segment_bytes=SEGMENT_BYTES,
        )
        snapshots = SnapshotFiles(config.directory / opening.SNAPSHOT_DIR, machine)
        journal.remember(found.base, found.entries)
        found = opening.finish_install(journal, found, snapshots, machine)
        journal.remember(found.base, found.entries)
        check_covers(found, machine.applied_index)
        return GroupDisk(journal, found, snapshots), journal

    def _machine(self, node_id: str) -> Registers:
        path = self.directory / node_id / "state"
        witness = NodeWitness(self.ledger, node_id)
        machine: Registers = StoreMachine(path, witness) if self.store else LightMachine(path, witness)
        return machine

    async def _run(
        self, node_id: str, machine: Registers, function: Callable[..., Any], *arguments: Any
    ) -> Any:
        """A blocking call of a node: the disk takes its time."""
        delay_s = self.rng.expovariate(1 / self.slow_s.get(node_id, self.fsync_s))
        if not self.calm and self.rng.random() < STALL_SHARE:
            delay_s = self.rng.uniform(0, STALL_S)
        await asyncio.sleep(delay_s)
        while getattr(function, "__name__", "") in _WAIT_FOR_STAGED and machine.staged:  # noqa: ASYNC110
            await asyncio.sleep(LOCK_S)  # in a thread it would block
        return function(*arguments)

    def spawn(self, process: Process, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run in a node's name: it stops and dies with it."""
        task = self.loop.create_task(work, context=process.context)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run in nobody's name."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, PowerCut | ConsensusError):
            self.failure = self.failure or error

    def crash(self, node_id: str, *, power_lost: bool) -> None:
        """kill -9, or a power cut: what was not durable is gone, or half there."""
        node = self.nodes.pop(node_id, None)
        if node is None:
            return
        self.seen["power cuts" if power_lost else "kills"] += 1
        self.trace("crash", node_id, power_lost)
        node.process.alive = False
        node.process.waiting.clear()
        self.network.detach(node_id)
        node.machine.crash(power_lost=power_lost)
        if power_lost:
            self.disk.lose_power(self.directory / node_id)
        if not node.ended.done():
            node.ended.set_result(None)
        self.loop.outside(self.rng.uniform(0.02, 1.0), self.boot, node_id)

    def stop(self, node_id: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        node = self.nodes.get(node_id)
        if node is None or node.process.stopped:
            return
        self.seen["pauses"] += 1
        self.trace("stop", node_id)
        node.process.stopped = True
        self.loop.outside(seconds, self.go_on, node.process)

    def go_on(self, process: Process) -> None:
        if process.stopped:
            self.trace("go on", process.name)
            self.loop.resume(process)

    def wall_ns(self, node_id: str) -> int:
        clock = self.clocks[node_id]
        return WALL_START_NS + int(self.loop.now * clock.rate * 1e9) + clock.wall_jump_ns

    # ---- what must hold

    def fail(self, why: str) -> Violation:
        """The first broken promise ends the run."""
        error = Violation(why)
        self.failure = self.failure or error
        return error

    def _fatal(self, node_id: str, why: str) -> NoReturn:
        raise self.fail(f"{node_id} stopped itself: {why}")

    def _watch(self, sender: str, receiver: str, body: bytes) -> None:
        frame = wire.decode(body)
        if isinstance(frame, _OF_FILES) or _restores(frame):
            # encrypted pages, and so their digests, differ from run to run
            self.trace(sender, receiver, type(frame).__name__, frame.term)
        else:
            self.trace(sender, receiver, body)
        self.ledger.sent(sender, receiver, frame)

    def acknowledge(self, text: str, index: int) -> None:
        """A client was told that its write is at `index`."""
        value = text.partition("=")[2].encode()
        holders = {node_id for node_id, journal in self._journals.items() if journal.holds(index, value)}
        if not any(len(holders & members) * 2 > len(members) for members in self._memberships(index)):
            raise self.fail(f"{text} at {index} was acknowledged with copies on {sorted(holders)}")
        self.ledger.acknowledged[text] = index

    def _memberships(self, index: int) -> Iterator[set[str]]:
        """Whose majority may have committed `index`: they count from the moment that they are in a leader's log."""
        for node in self.nodes.values():
            replica = node.group._engine.replica
            if replica.core.applied_index >= index:
                yield set(replica.members)
                yield set(replica.log.members(index))

    def check_converged(self) -> None:
        """At the very end: all nodes are equal, and nothing that was acknowledged is missing."""
        nodes = [self.nodes[node_id] for node_id in self.ids if node_id in self.nodes]
        if len(nodes) != len(self.ids) or len({node.machine.applied_index for node in nodes}) != 1:
            raise self.fail(f"no convergence: {[node.group.status() for node in nodes]}")
        if len({node.machine.digest() for node in nodes}) != 1:
            raise self.fail("the states differ")
        machine = nodes[0].machine
        if isinstance(machine, LightMachine):
            self.ledger.check_history(machine.history)


def _restores(frame: wire.Frame) -> bool:
    return isinstance(frame, wire.Append) and any(entry[0][0] == RESTORE for entry in frame.entries)
