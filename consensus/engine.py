"""What runs a replica: the loop, the disk, the network and the state machine, wired. Ends every task and timer.

Ticks are driven by events: a proposal, a frame or a finished fsync asks for one with call_soon, so a commit
costs one round trip and one fsync; a slow timer is there for elections and heartbeats only. fdatasync has a
thread of its own: a slow disk stops neither heartbeats nor callers.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import NoReturn

from consensus import wire
from consensus.api import Applied, Role, StateMachine
from consensus.applying import Applying
from consensus.changes import Changes
from consensus.disk import Pace
from consensus.errors import MembershipRefused, RestoreRefused
from consensus.forwarding import ChangeQuestions, ReadQuestions
from consensus.inbound import Inbound
from consensus.intake import Intake, Staging
from consensus.journal import NoRoom
from consensus.opening import Disk, GroupConfig
from consensus.parts import Counters, Parts, disk_health, peer_transport
from consensus.proposals import Proposals
from consensus.pysyncobj_log import Log
from consensus.records import Base, Entry
from consensus.replica import Replica
from consensus.replication import ChunkSource
from consensus.restoring import Order, Restoring
from consensus.shipping import Shipping, Source
from consensus.syncing import Syncing
from consensus.tasks import Tasks
from consensus.transport import BadFrame
from consensus.upkeep import Upkeep
from consensus.waits import Waits

TICKS_PER_HEARTBEAT = 4

_log = logging.getLogger(__name__)


class Engine:
    """One member at work: a host.Host, a PeerHandler, and the way out of proposals and forwarding."""

    def __init__(self, config: GroupConfig, machine: StateMachine, disk: Disk, parts: Parts) -> None:
        self.config, self.options, self.machine = config, config.options, machine
        self.clock, self.boottime, self._parts = parts.clock, parts.boottime, parts
        self.counters, self._tasks, self._journal = Counters(), Tasks(self.fatal), disk.journal
        self.disk = disk_health(config, parts)
        rng = parts.rng or random.SystemRandom()
        self.replica = _replica(self, machine, disk, rng)
        self.proposals = Proposals(self, self.options)
        self.reads = ReadQuestions(self, parts.clock, self.options.election_max_s, rng=rng)
        self.change_questions = ChangeQuestions(self, rng=rng)
        self.waits = Waits(lambda: self.replica.core.applied_index)
        self.changes = Changes(self.replica, self.until)
        self.applying = Applying(
            machine,
            options=self.options,
            disk=self.disk,
            applied=self.proposals.applied,
            fatal=self.fatal,
        )
        self.apply = self.applying.apply  # it runs for every entry: nothing lies between
        sync_run, upkeep_run, files_run = (
            parts.run or self._tasks.thread(name) for name in ("fsync", "upkeep", "files")
        )
        staging = Staging(machine, disk.snapshots, files_run, self._tasks.spawn, parts.clock)
        self.intake = Intake(self, staging, patience_s=self.options.election_max_s)
        self.restoring = Restoring(self, staging, rng=rng)
        self.shipping = Shipping(self, run=files_run, spawn=self._tasks.spawn)
        self.upkeep = Upkeep(
            replica=self.replica,
            machine=machine,
            snapshots=disk.snapshots,
            close_batch=self.applying.close_apart,
            run=upkeep_run,
            clock=parts.clock,
            cramped=lambda: self.disk.cramped,
            held=self.restoring.held,
            spare_due=lambda: disk.journal.spare_due and not self.disk.scarce,
            prepare_spare=disk.journal.prepare_spare,
        )
        self.inbound = Inbound(self, self._tasks.spawn)
        self.net = parts.transport(self) if parts.transport is not None else peer_transport(self, config)
        self.syncing = Syncing(
            self,
            disk.journal,
            self.disk,
            run=sync_run,
            pace=None if parts.run is not None and not parts.quick_disk else Pace(),
            observe=parts.observe_fsync,
        )
        self._tick_due: asyncio.Handle | None = None
        self._known: tuple[int, str | None, Role] | None = None
        self._watcher: Callable[[float], None] | None = None
        self._peers_stale, self.running = True, False

    # ---- lifecycle ----

    async def start(self) -> None:
        """Listen, and take part. Raises OSError if the address cannot be bound."""
        self._set_peers()
        self.disk.look()
        self.upkeep.compact_up_to(self.restoring.last_applied())
        self.running = True
        await self.net.start()
        works = (("clock", self._clockwork()), ("sync", self.syncing.work()), ("upkeep", self.upkeep.work()))
        for name, work in works:
            _ = self._tasks.spawn(work, name)

    async def stop(self) -> None:
        """End every task and every wait; what was appended is durable when this returns. Raises OSError."""
        self.proposals.stop()
        self.reads.news()
        self.change_questions.news()
        await self._tasks.cancel()
        await self.net.stop()
        self.running = False
        self._show_freshness()
        if self._tick_due is not None:
            self._tick_due.cancel()
        self.applying.stop_timer()
        self.waits.end()
        self._tasks.join()
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

    async def _clockwork(self) -> None:
        while True:
            await asyncio.sleep(self.options.heartbeat_s / TICKS_PER_HEARTBEAT)
            self.reads.look()
            self.proposals.look()
            self.disk.look()
            self.upkeep.poke()
            if self.replica.leading:
                self.replica.handover.look()
                self.restoring.look()
            self.tick()

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

    def close_batch(self) -> None:
        self.applying.close()

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


def _replica(engine: Engine, machine: StateMachine, disk: Disk, rng: random.Random) -> Replica:
    found = disk.recovered
    return Replica(
        engine,
        me=engine.config.node_id,
        log=Log(disk.journal, found.base, found.entries, found.hard),
        applied_index=machine.applied_index,
        options=engine.options,
        rng=rng,
    )
