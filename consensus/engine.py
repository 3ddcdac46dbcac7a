"""What runs a replica: the loop, the disk, the network and the state machine. Owns every task and timer.

Ticks are driven by events: a proposal, a frame or a finished fsync asks for one with call_soon, so a commit
costs one round trip and one fsync; a slow timer is there for elections and heartbeats only. fdatasync has a
thread of its own: a slow disk stops neither heartbeats nor callers.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

from consensus import wire
from consensus.api import REQUEST_ID_BYTES, Applied, Role, StateMachine
from consensus.changes import Changes
from consensus.disk import DiskHealth, Pace
from consensus.errors import MembershipRefused, RestoreRefused
from consensus.forwarding import ChangeQuestions, ReadQuestions
from consensus.inbound import Inbound
from consensus.intake import Intake
from consensus.journal import NoRoom
from consensus.membership import REGULAR
from consensus.opening import Disk, GroupConfig
from consensus.parts import Counters, Parts, Run, Transport
from consensus.proposals import Proposals
from consensus.pysyncobj_log import Log
from consensus.records import Base, Entry
from consensus.replica import Replica
from consensus.replication import ChunkSource
from consensus.restoring import Order, Restoring
from consensus.shipping import Shipping, Source
from consensus.syncing import Syncing
from consensus.transport import BadFrame, PeerHandler, PeerTransport
from consensus.upkeep import Upkeep
from consensus.waits import Waits

TICKS_PER_HEARTBEAT = 4
COMMIT_POLL_S = 0.01

_log = logging.getLogger(__name__)


class Engine:
    """One member at work: a host.Host, a PeerHandler, and the way out of proposals and forwarding."""

    def __init__(self, config: GroupConfig, machine: StateMachine, disk: Disk, parts: Parts) -> None:
        self.config, self.options, self.machine = config, config.options, machine
        self.clock, self.boottime, self._parts = parts.clock, parts.boottime, parts
        self._journal = disk.journal
        found = disk.recovered
        log = Log(disk.journal, found.base, found.entries, found.hard)
        rng = parts.rng or random.SystemRandom()
        self.replica = Replica(
            self,
            me=config.node_id,
            log=log,
            applied_index=machine.applied_index,
            options=config.options,
            rng=rng,
        )
        self.proposals = Proposals(self, config.options)
        self.reads = ReadQuestions(self, parts.clock, config.options.election_max_s)
        self.change_questions = ChangeQuestions(self)
        self.waits = Waits(lambda: self.replica.core.applied_index)
        self.changes = Changes(self.replica, self.until)
        self._threads: list[ThreadPoolExecutor] = []
        run_disk, run_upkeep, run_files = (
            parts.run or self._thread(name) for name in ("fsync", "upkeep", "files")
        )
        self.upkeep = Upkeep(
            replica=self.replica,
            machine=machine,
            snapshots=disk.snapshots,
            close_batch=self._close_batch_apart,
            run=run_upkeep,
            clock=parts.clock,
            cramped=lambda: self.disk.cramped,
            held=lambda: self.restoring.held(),  # noqa: PLW0108 - it is made further down
        )
        staging = asyncio.Lock()
        self.shipping = Shipping(self, run=run_files, spawn=self._spawn)
        self.intake = Intake(
            self,
            machine=machine,
            snapshots=disk.snapshots,
            run=run_files,
            spawn=self._spawn,
            clock=parts.clock,
            patience_s=config.options.election_max_s,
            staging=staging,
        )
        self.restoring = Restoring(
            self,
            machine=machine,
            snapshots=disk.snapshots,
            run=run_files,
            spawn=self._spawn,
            clock=parts.clock,
            rng=rng,
            staging=staging,
        )
        self.inbound = Inbound(self, self._guard)
        self.net = parts.transport(self) if parts.transport is not None else _peer_transport(self, config)
        self.counters = Counters()
        self.disk = DiskHealth(
            lambda: parts.free_bytes(config.directory),
            parts.free_elsewhere_bytes,
            clock=parts.clock,
            stall_s=self.options.disk_stall_s,
            reserve_bytes=self.options.disk_reserve_bytes,
            state_reserve_bytes=self.options.state_reserve_bytes,
        )
        self.syncing = Syncing(
            self,
            disk.journal,
            self.disk,
            run=run_disk,
            pace=None if parts.run is not None and not parts.quick_disk else Pace(),
            observe=parts.observe_fsync,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._jobs: set[asyncio.Task[None]] = set()
        self._tick_due: asyncio.Handle | None = None
        self._commit_due: asyncio.TimerHandle | None = None
        self._unclosed = 0
        self._known: tuple[int, str | None, Role] | None = None
        self._peers_stale = True
        self._watcher: Callable[[float], None] | None = None
        self.running = False

    # ---- lifecycle ----

    async def start(self) -> None:
        """Listen, and take part. Raises OSError if the address cannot be bound."""
        self._set_peers()
        self.upkeep.compact_up_to(self.restoring.last_applied())
        self.running = True
        await self.net.start()
        works = (("clock", self._clockwork()), ("sync", self.syncing.work()), ("upkeep", self.upkeep.work()))
        self._tasks = [asyncio.create_task(self._guard(work), name=f"raft-{name}") for name, work in works]

    async def stop(self) -> None:
        """End every task and every wait; what was appended is durable when this returns. Raises OSError."""
        self.proposals.stop()
        self.reads.news()
        self.change_questions.news()
        tasks = [*self._tasks, *self._jobs, *self.inbound.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.net.stop()
        self.running = False
        self._show_freshness()
        for handle in (self._tick_due, self._commit_due):
            if handle is not None:
                handle.cancel()
        self.waits.end()
        for thread in self._threads:
            thread.shutdown(wait=True)
        try:
            self.close_batch()
        except OSError:
            _log.warning("the state cannot be written: what was applied will be again, from the log")
        try:
            self._journal.sync()
        except NoRoom:
            _log.warning("the disk is full: what nobody was told of is dropped")
        finally:
            self._journal.close()

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        """A task of ours never ends but by cancellation: anything else is a bug or a lost disk."""
        try:
            await work
        except Exception as error:  # noqa: BLE001 - nothing may go on in this node's name after it
            _log.exception("a task of the group failed")
            self.fatal(f"{type(error).__name__} in a task")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that ends by itself, or with the engine."""
        task = asyncio.create_task(self._guard(work), name="raft-job")
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)
        return task

    async def _clockwork(self) -> None:
        while True:
            await asyncio.sleep(self.options.heartbeat_s / TICKS_PER_HEARTBEAT)
            self.reads.look()
            self.proposals.look()
            self.upkeep.poke()
            self.disk.look()
            if self.replica.leading:
                self.replica.handover.look()
                self.restoring.look()
            self.tick()

    def _thread(self, name: str) -> Run:
        pool = ThreadPoolExecutor(1, thread_name_prefix=f"raft-{name}")
        self._threads.append(pool)

        async def run(function: Callable[..., Any], *args: Any) -> Any:
            return await asyncio.get_running_loop().run_in_executor(pool, function, *args)

        return run

    # ---- ticking ----

    def kick(self) -> None:
        if self._tick_due is None and self.running:
            self._tick_due = asyncio.get_running_loop().call_soon(self.tick)

    def tick(self) -> None:
        if self._tick_due is not None:
            self._tick_due.cancel()
            self._tick_due = None
        if not self.running:
            return
        try:
            self._advance()
            self._tell_news()
        except Exception as error:  # noqa: BLE001 - a member that cannot tick must not go on half-alive
            _log.exception("tick failed")
            self.fatal(f"{type(error).__name__} in a tick")
        self._show_freshness()
        self.waits.settle()

    def _advance(self) -> None:
        """First what other nodes wait for, then what this one's disk, then what its own clients wait for."""
        self.replica.tick()
        while self._journal.dirty:
            self.net.flush()
            if not self.syncing.at_once():
                self.syncing.poke()
                break
            self.replica.tick()
        self.net.flush()
        self.replica.apply()

    def watch(self, watcher: Callable[[float], None] | None) -> None:
        """See api.Group."""
        self._watcher = watcher
        self._show_freshness()

    def _show_freshness(self) -> None:
        if self._watcher is not None:
            self._watcher(self.replica.leasing.fresh_until if self.running else 0.0)

    def _tell_news(self) -> None:
        """After a change of term, leader or role: whoever waits on the old one tries the new one."""
        if self._peers_stale:
            self._set_peers()
        replica = self.replica
        now = (replica.core.term, replica.core.leader_id, replica.role)
        if now == self._known:
            return
        before, self._known = self._known, now
        if before is None or before[1] != now[1]:
            self.counters.leader_changes += now[1] is not None
        if replica.leading:
            log = replica.log
            self.proposals.batcher.begin_term(log[replica.core.applied_index - log.base.index + 1 :])
        else:
            self.proposals.batcher.end_term()
        self._news()

    def _news(self) -> None:
        self.proposals.try_again()
        self.reads.news()
        self.change_questions.news()

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Return once `predicate` holds after some tick."""
        await self.waits.until(predicate)

    # ---- replica.Host ----

    @property
    def lsn(self) -> int:
        return self._journal.lsn

    @property
    def durable_lsn(self) -> int:
        return self._journal.durable_lsn

    @property
    def stalled(self) -> bool:
        return self.disk.stalled

    @property
    def disk_full(self) -> bool:
        return self.disk.full

    @property
    def cramped(self) -> bool:
        return self.disk.cramped

    def sync(self) -> None:
        self._journal.sync()

    def send(self, peer: str, body: bytes) -> bool:
        self._show_freshness()  # before others can act on what this says, whoever reads here alone must know
        return self.net.send(peer, body)

    def backlog(self, peer: str) -> int:
        return self.net.backlog(peer)

    def snapshot_for(self, peer: str) -> ChunkSource | None:
        return self.upkeep.snapshot_for()

    def committed(self, index: int) -> None:
        self.proposals.batcher.committed(index)

    def apply(self, entry: Entry) -> None:
        payload, index, _ = entry
        try:
            if payload[0] != REGULAR:
                self.machine.skip(index)
            else:
                request_id = payload[1 : 1 + REQUEST_ID_BYTES]
                result = self.machine.apply(index, request_id, payload[1 + REQUEST_ID_BYTES :])
                self.proposals.applied(index, request_id, result, len(payload))
        except Exception as error:  # noqa: BLE001 - the state may be half-changed: stop (P6)
            self.fatal(f"applying entry {index} raised {type(error).__name__}")
        self._unclosed += 1
        if self._unclosed >= self.options.apply_commit_entries_max:
            self._close_batch_soon()
        elif self._commit_due is None:
            self._close_batch_later()

    def _close_batch_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._commit_due = loop.call_later(self.options.apply_commit_s, self._close_batch_soon)

    def _close_batch_soon(self) -> None:
        """Reads see what is applied anyhow and the journal has every entry, so this can wait a little."""
        if self._commit_due is not None:
            self._commit_due.cancel()
            self._commit_due = None
        self.disk.look_now()
        if not self.disk.cramped and self.machine.commit_soon():
            self._unclosed = 0
        else:
            self._close_batch_later()

    async def _close_batch_apart(self) -> None:
        """close_batch(), with as much of it as can be in the background."""
        for _ in range(2):  # the second time the first one is done, and little is left
            while not self.machine.commit_soon():  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(COMMIT_POLL_S)
        self.close_batch()

    def close_batch(self) -> None:
        """Close it now: somebody is about to look at the machine's file."""
        if self._commit_due is not None:
            self._commit_due.cancel()
            self._commit_due = None
        self._unclosed = 0
        self.machine.commit()

    def offered(self, peer: str, offer: wire.SnapshotOffer) -> None:
        self.intake.offered(peer, offer)

    def shipment(self, peer: str, sha256: bytes) -> Source | None:
        progress = self.replica.replicator.progress.get(peer)
        source = None if progress is None else progress.snapshot
        if source is not None and source.sha256 == sha256:
            return source
        return self.restoring.source_for(peer, sha256)

    def takes(self, entry: Entry) -> bool:
        return self.restoring.takes(entry)

    def restored(self, entry: Entry) -> bool:
        try:
            return self.restoring.apply(entry)
        except Exception as error:  # noqa: BLE001 - the state may be half-changed
            self.fatal(f"restoring at entry {entry[1]} raised {type(error).__name__}")

    def state_replaced(self, index: int) -> None:
        self.proposals.restored()
        self.upkeep.compact_up_to(index)

    async def ask_restore(self, order: Order) -> None:
        if self.accepting:
            refusal = self.restoring.append(order)
        else:
            refusal = ""
            try:
                await self.change_questions.ask_restore(order.request_id, order.sha256, order.size_bytes)
            except MembershipRefused as error:
                refusal = str(error)
        if refusal:
            raise RestoreRefused(refusal)

    def connected(self) -> set[str]:
        return self.net.connected()

    def begin_install(self, base: Base) -> bool:
        self.close_batch()
        begun = self.replica.follower.begin_install(base)
        self.kick()
        return begun

    async def durable(self) -> None:
        lsn = self.lsn
        await self.until(lambda: self.durable_lsn >= lsn)

    def installed(self, index: int) -> None:
        self.replica.follower.installed(index)
        self.proposals.restored()
        self.kick()

    def role_changed(self) -> None:
        self.kick()

    def members_changed(self) -> None:
        self._peers_stale = True
        self.kick()

    def fatal(self, reason: str) -> NoReturn:
        self.running = False
        self._parts.fatal(reason)

    def _set_peers(self) -> None:
        self._peers_stale = False
        members = {**self.replica.learners, **self.replica.members}
        members.pop(self.replica.me, None)
        self.net.set_peers({member.id: member.address for member in members.values()})

    def counted(self) -> Counters:
        """The counters, with those that the pieces keep themselves."""
        counters, replica = self.counters, self.replica
        counters.elections, counters.truncations = replica.campaigns.count, replica.follower.truncations
        counters.fsyncs, counters.lease_denials = self.syncing.count, replica.leasing.grants.denials
        counters.snapshots_sent = replica.replicator.snapshots_sent
        counters.snapshots_installed, counters.snapshots_refused = self.intake.installed, self.intake.refused
        counters.proposals, counters.compactions = self.proposals.count, self.upkeep.compactions
        return counters

    # ---- the way out ----

    @property
    def accepting(self) -> bool:
        return self.replica.leading and not self.replica.transferring

    @property
    def leader_elsewhere(self) -> str | None:
        leader = self.replica.core.leader_id
        return leader if leader != self.replica.me else None

    @property
    def term(self) -> int:
        return self.replica.core.term

    def append(self, payload: bytes) -> int:
        return self.replica.append(payload)

    def outcome(self, request_id: bytes) -> Applied | None:
        known = self.machine.outcome(request_id)
        return None if known is None else Applied(known.index, known.result)

    # ---- PeerHandler ----

    def admit(self, peer_id: str) -> bool:
        """Members and learners; and anyone of this cluster while no leader is heard, see Replica.orphaned."""
        replica = self.replica
        return peer_id in replica.members or peer_id in replica.learners or replica.orphaned

    def on_peer_up(self, peer_id: str) -> None:
        self.replica.link(peer_id, up=True)
        if peer_id == self.replica.core.leader_id:
            self._news()

    def on_peer_down(self, peer_id: str) -> None:
        self.replica.link(peer_id, up=False)
        if peer_id == self.replica.core.leader_id:
            self._news()

    def on_message(self, peer_id: str, body: bytes) -> None:
        if not self.running:
            return
        try:
            frame = wire.decode(body)
        except wire.WireError:
            self.counters.frames_dropped += 1
            raise BadFrame("what it sent is no frame") from None  # its details would be the peer's choice
        if not self.replica.on_frame(peer_id, frame):
            self.inbound.on_request(peer_id, frame)


def _peer_transport(handler: PeerHandler, config: GroupConfig) -> Transport:
    return PeerTransport(
        me=config.node_id,
        cluster_id=config.cluster_id,
        listen=config.listen,
        server_tls=config.server_tls,
        client_tls=config.client_tls,
        handler=handler,
        insecure=config.insecure,
        source=config.source,
    )
